// Tables in lines: comma-separated values, and JSON.
#include <algorithm>
#include <deque>

#include <fmt/format.h>

#include "device/lines.h"
#include "device/rows.h"

namespace godwit::device {
namespace {

std::optional<std::uint64_t> PositionOf(const Part& part, Arguments* saved) {
  return saved != nullptr ? std::optional(saved->Number("position", part.begin, part.begin, ~0ull)) : std::nullopt;
}

// `Reader` has TableReader's Read.
template <typename Reader>
class LineRows final : public Rows {
 public:
  LineRows(RowsOptions options, Arguments* saved)
      : reader_(std::move(options.format), std::move(options.needed)), lines_(options.part, PositionOf(options.part, saved)),
        skip_header_(options.header && options.part.begin == 0) {
    if (saved != nullptr && saved->Flag("header_done", true)) skip_header_ = false;
  }

  Result<bool> Next(const Source& source, Batch* to) override {
    while (run_.empty()) {
      begin_ = lines_.position();
      GODWIT_ASSIGN(run_, lines_.Next(source));
      if (run_.empty()) return false;
      if (skip_header_) run_.remove_prefix(std::min(run_.size(), run_.find('\n') + 1));
      skip_header_ = false;
    }
    const auto taken = reader_.Read(run_, to);
    if (!taken.ok()) return taken.error().Within(fmt::format("counting lines from byte {} on", begin_));
    run_.remove_prefix(*taken);
    return true;
  }
  bool between() const override { return run_.empty(); }
  nlohmann::json Save() const override { return {{"position", lines_.position()}, {"header_done", !skip_header_}}; }
  std::uint64_t read_bytes() const override { return lines_.read_bytes(); }

 private:
  Reader reader_;
  Lines lines_;
  bool skip_header_;
  std::uint64_t begin_ = 0;  // Of the run.
  std::string_view run_;     // What of it was not read.
};

// Takes the members of a line's object that are columns; values are told as their text. nlohmann's SAX interface.
class ObjectReader final : public nlohmann::json_sax<nlohmann::json> {
 public:
  ObjectReader(const TableFormat& format, const std::vector<bool>& needed) : format_(format), needed_(needed) {}

  // fields[i]: of column i; seen[i]: whether it was there, and not null.
  std::vector<std::string> fields;
  std::vector<bool> seen;
  std::string problem;

  void Start() {
    fields.resize(format_.columns.size());
    seen.assign(format_.columns.size(), false);
    problem.clear();
    depth_ = 0;
    column_ = kNone;
  }

  bool null() override { return Value("", false); }
  bool boolean(bool value) override { return Value(value ? "1" : "0"); }
  bool number_integer(number_integer_t value) override { return Value(std::to_string(value)); }
  bool number_unsigned(number_unsigned_t value) override { return Value(std::to_string(value)); }
  bool number_float(number_float_t, const string_t& text) override { return Value(text); }
  bool string(string_t& text) override { return Value(text); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Open(); }
  bool start_array(std::size_t) override { return depth_ > 0 ? Open() : Bad("is no object"); }
  bool end_object() override { return --depth_, true; }
  bool end_array() override { return --depth_, true; }
  bool key(string_t& name) override {
    if (depth_ != 1) return true;
    column_ = kNone;
    for (std::size_t i = 0; i < needed_.size(); ++i) {
      if (needed_[i] && format_.columns[i].name == name) column_ = i;
    }
    return true;
  }
  bool parse_error(std::size_t at, const std::string&, const nlohmann::json::exception&) override {
    return Bad(fmt::format("is no JSON at character {}", at));
  }

 private:
  static constexpr std::size_t kNone = ~std::size_t{0};

  bool Bad(std::string what) {
    problem = std::move(what);
    return false;
  }
  bool Open() {
    if (depth_ == 1 && column_ != kNone) return Bad(fmt::format("member '{}' is no number or text", format_.columns[column_].name));
    ++depth_;
    return true;
  }
  bool Value(const std::string& text, bool is = true) {
    if (depth_ == 0) return Bad("is no object");
    if (depth_ != 1 || column_ == kNone) return true;
    fields[column_] = text;
    seen[column_] = is;
    return true;
  }

  const TableFormat& format_;
  const std::vector<bool>& needed_;
  int depth_ = 0;
  std::size_t column_ = kNone;
};

class JsonReader {
 public:
  JsonReader(TableFormat format, std::vector<bool> needed) : format_(std::move(format)), needed_(std::move(needed)), object_(format_, needed_) {}

  Result<std::size_t> Read(std::string_view lines, Batch* to) {
    StartBatch(format_, to);
    texts_.clear();
    std::size_t at = 0;
    while (at < lines.size() && to->rows < TableReader::kBatchRows) {
      const std::size_t end = std::min(lines.find('\n', at), lines.size());
      const std::string_view line = lines.substr(at, end - at);
      at = std::min(end + 1, lines.size());
      if (line.find_first_not_of(" \t\r") == line.npos) continue;
      const auto bad = [&](const std::string& what) { return InvalidArgument(fmt::format("line {}: {}", to->rows, what)); };
      object_.Start();
      if (!nlohmann::json::sax_parse(line, &object_)) return bad(object_.problem);
      for (std::size_t i = 0; i < needed_.size(); ++i) {
        if (!needed_[i]) continue;
        if (!object_.seen[i]) {
          StoreNull(format_.columns[i], to->rows, &to->columns[i]);
          continue;
        }
        std::string_view field = object_.fields[i];
        if (format_.columns[i].type.kind == TypeKind::kText) field = texts_.emplace_back(field);
        GODWIT_TRY(StoreField(format_.columns[i], field, to->rows, &to->columns[i]));
      }
      ++to->rows;
    }
    FinishBatch(to);
    return at;
  }

 private:
  const TableFormat format_;
  const std::vector<bool> needed_;
  ObjectReader object_;
  std::deque<std::string> texts_;
};

}  // namespace

std::unique_ptr<Rows> MakeTextRows(RowsOptions options, Arguments* saved) { return std::make_unique<LineRows<TableReader>>(std::move(options), saved); }
std::unique_ptr<Rows> MakeJsonRows(RowsOptions options, Arguments* saved) { return std::make_unique<LineRows<JsonReader>>(std::move(options), saved); }

}  // namespace godwit::device
