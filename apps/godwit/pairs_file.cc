#include "pairs_file.h"

#include <fmt/format.h>
#include <sqlite3.h>

#include <algorithm>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "device/pairs.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kRowOverhead = 16;  // Of SQLite's record, at most.

struct Close {
  void operator()(sqlite3* database) const { sqlite3_close(database); }
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};

// The fields of one line (RFC 4180, without line breaks in fields).
Result<std::vector<std::string>> Fields(std::string_view line) {
  std::vector<std::string> fields(1);
  bool quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"') {
      if (quoted && i + 1 < line.size() && line[i + 1] == '"') fields.back() += line[++i];
      else quoted = !quoted;
    } else if (c == ',' && !quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  if (quoted) return InvalidArgument("a quoted field does not end");
  return fields;
}

// What a record has under a name.
class Reader {
 public:
  // `first`: the file's first line.
  static Result<Reader> Create(const PairsSource& source, const std::string& first) {
    if (first.starts_with('{')) return Reader(source, true, {});
    auto columns = Fields(first);
    if (!columns.ok()) return InvalidArgument(source.file + ", line 1: " + columns.error().message);
    return Reader(source, false, std::move(*columns));
  }
  bool skips_first() const { return !is_json_; }
  Status Read(const std::string& line, std::string& key, std::string& value) const {
    if (is_json_) {
      const json record = json::parse(line, nullptr, false);
      if (!record.is_object()) return InvalidArgument("it is no JSON object");
      GODWIT_TRY(Member(record, source_.key, key));
      if (!source_.value.empty()) return Member(record, source_.value, value);
      value = line;
      return {};
    }
    GODWIT_ASSIGN(const std::vector<std::string> fields, Fields(line));
    GODWIT_TRY(Field(fields, source_.key, key));
    if (!source_.value.empty()) return Field(fields, source_.value, value);
    value = line;
    return {};
  }

 private:
  Reader(const PairsSource& source, bool is_json, std::vector<std::string> columns) : source_(source), is_json_(is_json), columns_(std::move(columns)) {}
  static Status Member(const json& record, const std::string& name, std::string& to) {
    const auto found = record.find(name);
    if (found == record.end() || found->is_null()) return InvalidArgument("it has no member '" + name + "'");
    to = found->is_string() ? found->get<std::string>() : found->dump();
    return {};
  }
  Status Field(const std::vector<std::string>& fields, const std::string& name, std::string& to) const {
    const auto at = static_cast<std::size_t>(std::find(columns_.begin(), columns_.end(), name) - columns_.begin());
    if (at >= std::min(columns_.size(), fields.size())) return InvalidArgument("it has no column '" + name + "'");
    to = fields[at];
    return {};
  }

  const PairsSource& source_;
  const bool is_json_;
  const std::vector<std::string> columns_;
};

}  // namespace

Result<std::uint64_t> WritePairs(const PairsSource& source, const std::string& to) {
  std::ifstream file(source.file, std::ios::binary);
  if (!file) return ErrnoError(source.file);
  std::string line;
  const auto next = [&] {
    if (!std::getline(file, line)) return false;
    if (line.ends_with('\r')) line.pop_back();
    return true;
  };
  if (!next()) return InvalidArgument(source.file + " is empty");
  GODWIT_ASSIGN(const Reader reader, Reader::Create(source, line));

  sqlite3* opened = nullptr;
  const int result = sqlite3_open_v2(to.c_str(), &opened, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, nullptr);
  const std::unique_ptr<sqlite3, Close> database(opened);
  const auto failed = [&] { return Internal(to + ": " + sqlite3_errmsg(database.get())); };
  if (result != SQLITE_OK) return failed();
  const auto run = [&](const char* sql) { return sqlite3_exec(database.get(), sql, nullptr, nullptr, nullptr) == SQLITE_OK; };
  if (!run("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; CREATE TABLE pairs(key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID; BEGIN")) return failed();
  sqlite3_stmt* prepared = nullptr;
  sqlite3_prepare_v2(database.get(), "INSERT INTO pairs VALUES (?1, ?2)", -1, &prepared, nullptr);
  std::unique_ptr<sqlite3_stmt, Close> insert(prepared);
  std::uint64_t pairs = 0, number = reader.skips_first() ? 2 : 1;
  std::string key, value;
  for (bool more = reader.skips_first() ? next() : true; more; more = next()) {
    const std::string where = fmt::format("{}, line {}: ", source.file, number++);
    if (line.empty()) continue;
    if (const Status read = reader.Read(line, key, value); !read.ok()) return InvalidArgument(where + read.error().message);
    if (key.size() + value.size() + kRowOverhead > device::kPairBytesMax) return InvalidArgument(fmt::format("{}a pair of more than {} bytes", where, device::kPairBytesMax - kRowOverhead));
    sqlite3_reset(insert.get());
    sqlite3_bind_text(insert.get(), 1, key.data(), static_cast<int>(key.size()), SQLITE_STATIC);
    sqlite3_bind_text(insert.get(), 2, value.data(), static_cast<int>(value.size()), SQLITE_STATIC);
    const int inserted = sqlite3_step(insert.get());
    if (inserted == SQLITE_CONSTRAINT) return InvalidArgument(where + "the key '" + key + "' is there twice");
    if (inserted != SQLITE_DONE) return failed();
    ++pairs;
  }
  insert.reset();
  if (!run("COMMIT; VACUUM")) return failed();
  return pairs;
}

}  // namespace godwit::cli
