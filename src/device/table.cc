#include "device/table.h"

#include <charconv>
#include <cstring>

#include <fmt/format.h>

namespace godwit::device {
namespace {

// The first of `a`, `b` from `at` on, or the end. Eight bytes at a time: a byte is zero where it equals (Mycroft's test, which
// is exact up to the first zero byte).
std::size_t FindEither(std::string_view text, std::size_t at, char a, char b) {
  constexpr std::uint64_t kOnes = 0x0101010101010101, kHighs = 0x8080808080808080;
  const std::uint64_t as = kOnes * static_cast<std::uint8_t>(a), bs = kOnes * static_cast<std::uint8_t>(b);
  while (at + 8 <= text.size()) {
    std::uint64_t word;
    std::memcpy(&word, text.data() + at, 8);
    const std::uint64_t x = word ^ as, y = word ^ bs;
    const std::uint64_t zero = (((x - kOnes) & ~x) | ((y - kOnes) & ~y)) & kHighs;
    if (zero != 0) return at + static_cast<std::size_t>(__builtin_ctzll(zero)) / 8;
    at += 8;
  }
  while (at < text.size() && text[at] != a && text[at] != b) ++at;
  return at;
}

}  // namespace

TableReader::TableReader(TableFormat format, std::vector<bool> needed) : format_(std::move(format)), needed_(std::move(needed)) {
  needed_.resize(format_.columns.size());
  for (std::size_t i = 0; i < needed_.size(); ++i) {
    if (needed_[i]) last_needed_ = i;
  }
}

void StartBatch(const TableFormat& format, Batch* to) {
  to->rows = 0;
  to->columns.resize(format.columns.size());
  for (Column& column : to->columns) {
    column.numbers.clear();
    column.reals.clear();
    column.texts.clear();
    column.nulls.clear();
  }
}

void FinishBatch(Batch* to) {
  for (Column& column : to->columns) {
    if (!column.nulls.empty()) column.nulls.resize(to->rows);
  }
}

void StoreNull(const ColumnDescription& column, std::size_t row, Column* to) {
  to->nulls.resize(row + 1);
  to->nulls[row] = 1;
  if (column.type.kind == TypeKind::kText) to->texts.emplace_back();
  else if (column.type.kind == TypeKind::kReal) to->reals.push_back(0);
  else to->numbers.push_back(0);
}

Status StoreField(const ColumnDescription& column, std::string_view field, std::size_t row, Column* to) {
  const auto bad = [&](const std::string& what) { return InvalidArgument(fmt::format("line {}, column '{}': {}", row, column.name, what)); };
  switch (column.type.kind) {
    case TypeKind::kText: to->texts.push_back(field); return {};
    case TypeKind::kReal: {
      double real = 0;
      const auto [end, error] = std::from_chars(field.data(), field.data() + field.size(), real);
      if (error != std::errc() || end != field.data() + field.size()) return bad(fmt::format("'{}' is no number", field.substr(0, 40)));
      to->reals.push_back(real);
      return {};
    }
    default: {
      const auto number = column.type.kind == TypeKind::kDate ? ParseDate(field) : ParseNumber(field, column.type.scale);
      if (!number.ok()) return bad(number.error().message);
      to->numbers.push_back(*number);
      return {};
    }
  }
}

Result<std::size_t> TableReader::Read(std::string_view lines, Batch* to) {
  StartBatch(format_, to);
  unquoted_.clear();
  std::size_t at = 0;
  while (at < lines.size() && to->rows < kBatchRows) {
    if (lines[at] == '\n' || (lines[at] == '\r' && lines.substr(at, 2) == "\r\n")) {  // An empty line.
      at += lines[at] == '\n' ? 1 : 2;
      continue;
    }
    bool line_ended = false;
    for (std::size_t column = 0; column <= last_needed_; ++column) {
      if (line_ended) {
        return InvalidArgument(fmt::format("line {}: it ends before column '{}'", to->rows, format_.columns[column].name));
      }
      std::string_view field;
      if (at < lines.size() && lines[at] == '"') {
        std::string* text = &unquoted_.emplace_back();
        for (++at;; ++at) {
          if (at >= lines.size() || lines[at] == '\n') return InvalidArgument(fmt::format("line {}: a quoted field does not end", to->rows));
          if (lines[at] != '"') *text += lines[at];
          else if (lines.substr(at, 2) == "\"\"") *text += lines[at++];
          else break;
        }
        field = *text;
        at = FindEither(lines, at + 1, format_.delimiter, '\n');
      } else {
        const std::size_t end = FindEither(lines, at, format_.delimiter, '\n');
        field = lines.substr(at, end - at);
        at = end;
        if ((at == lines.size() || lines[at] == '\n') && !field.empty() && field.back() == '\r') field.remove_suffix(1);
      }
      line_ended = at >= lines.size() || lines[at] == '\n';
      if (!line_ended) ++at;
      if (!needed_[column]) continue;
      if (field.empty() && format_.columns[column].type.kind != TypeKind::kText) StoreNull(format_.columns[column], to->rows, &to->columns[column]);
      else GODWIT_TRY(StoreField(format_.columns[column], field, to->rows, &to->columns[column]));
    }
    if (!line_ended) {
      const void* end = std::memchr(lines.data() + at, '\n', lines.size() - at);
      at = end != nullptr ? static_cast<std::size_t>(static_cast<const char*>(end) - lines.data()) : lines.size();
    }
    if (at < lines.size()) ++at;
    ++to->rows;
  }
  FinishBatch(to);
  return at;
}

}  // namespace godwit::device
