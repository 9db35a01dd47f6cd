#include "device/pairs.h"

#include <sqlite3.h>

#include <algorithm>
#include <cstring>
#include <mutex>

#include <fmt/format.h>

namespace godwit::device {
namespace {

constexpr char kVfs[] = "godwit-source";
constexpr std::string_view kMagic("SQLite format 3\0", 16);
// Steps of SQLite's machine for one pair; by a primary key it takes some tens.
constexpr int kStepsAtOnce = 10'000, kStepsMax = 1'000'000;

// What SQLite reads, as its file.
struct Opened {
  const Source& source;
  Bytes scratch;
  std::uint64_t read_bytes = 0;
  Status failure;
  int steps = 0;
};
struct File {
  sqlite3_file base;
  Opened* opened;
};
thread_local Opened* opening = nullptr;  // What the next file to be opened on this thread is.

int Read(sqlite3_file* file, void* to, int bytes, sqlite3_int64 offset) {
  Opened& opened = *reinterpret_cast<File*>(file)->opened;
  const auto window = opened.source.Window(static_cast<std::uint64_t>(offset), static_cast<std::size_t>(bytes), opened.scratch);
  if (!window.ok()) {
    opened.failure = window.error();
    return SQLITE_IOERR_READ;
  }
  std::memcpy(to, window->data(), window->size());
  opened.read_bytes += window->size();
  if (window->size() == static_cast<std::size_t>(bytes)) return SQLITE_OK;
  std::memset(static_cast<char*>(to) + window->size(), 0, static_cast<std::size_t>(bytes) - window->size());
  return SQLITE_IOERR_SHORT_READ;
}

const sqlite3_io_methods* Methods() {
  static const sqlite3_io_methods kMethods = [] {
    sqlite3_io_methods methods{};
    methods.iVersion = 1;
    methods.xClose = [](sqlite3_file*) { return SQLITE_OK; };
    methods.xRead = Read;
    methods.xWrite = [](sqlite3_file*, const void*, int, sqlite3_int64) { return SQLITE_READONLY; };
    methods.xTruncate = [](sqlite3_file*, sqlite3_int64) { return SQLITE_READONLY; };
    methods.xSync = [](sqlite3_file*, int) { return SQLITE_OK; };
    methods.xFileSize = [](sqlite3_file* file, sqlite3_int64* size) {
      *size = static_cast<sqlite3_int64>(reinterpret_cast<File*>(file)->opened->source.size());
      return SQLITE_OK;
    };
    methods.xLock = methods.xUnlock = [](sqlite3_file*, int) { return SQLITE_OK; };
    methods.xCheckReservedLock = [](sqlite3_file*, int* reserved) {
      *reserved = 0;
      return SQLITE_OK;
    };
    methods.xFileControl = [](sqlite3_file*, int, void*) { return SQLITE_NOTFOUND; };
    methods.xSectorSize = [](sqlite3_file*) { return 4096; };
    methods.xDeviceCharacteristics = [](sqlite3_file*) { return SQLITE_IOCAP_IMMUTABLE; };
    return methods;
  }();
  return &kMethods;
}

void RegisterVfs() {
  static std::once_flag once;
  std::call_once(once, [] {
    static sqlite3_vfs vfs{};
    vfs.iVersion = 1;
    vfs.szOsFile = sizeof(File);
    vfs.mxPathname = 64;
    vfs.zName = kVfs;
    vfs.xOpen = [](sqlite3_vfs*, const char*, sqlite3_file* file, int flags, int* out) {
      file->pMethods = nullptr;
      if (opening == nullptr || !(flags & SQLITE_OPEN_MAIN_DB)) return SQLITE_CANTOPEN;
      reinterpret_cast<File*>(file)->opened = std::exchange(opening, nullptr);
      file->pMethods = Methods();
      if (out != nullptr) *out = flags;
      return SQLITE_OK;
    };
    vfs.xDelete = [](sqlite3_vfs*, const char*, int) { return SQLITE_READONLY; };
    vfs.xAccess = [](sqlite3_vfs*, const char*, int, int* result) {
      *result = 0;
      return SQLITE_OK;
    };
    vfs.xFullPathname = [](sqlite3_vfs*, const char* name, int size, char* to) {
      std::snprintf(to, static_cast<std::size_t>(size), "%s", name);
      return SQLITE_OK;
    };
    vfs.xRandomness = [](sqlite3_vfs*, int bytes, char* to) {
      std::memset(to, 0, static_cast<std::size_t>(bytes));  // For names of temporary files, of which there are none.
      return bytes;
    };
    vfs.xSleep = [](sqlite3_vfs*, int) { return 0; };
    vfs.xCurrentTime = [](sqlite3_vfs*, double* now) {
      *now = 0;
      return SQLITE_OK;
    };
    vfs.xGetLastError = [](sqlite3_vfs*, int, char*) { return 0; };
    sqlite3_vfs_register(&vfs, 0);
  });
}

struct Close {
  void operator()(sqlite3* database) const { sqlite3_close_v2(database); }
  void operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }
};
using Statement = std::unique_ptr<sqlite3_stmt, Close>;

class SqlitePairs final : public PairTable {
 public:
  explicit SqlitePairs(const Source& source) : opened_{source, {}, 0, {}, 0} {}

  Status Begin() {
    GODWIT_ASSIGN(const ByteView head, opened_.source.Window(0, kMagic.size(), opened_.scratch));
    if (AsText(head) != kMagic) return InvalidArgument("the data is no SQLite database: 'godwit data import' makes one with a table pairs(key, value)");
    RegisterVfs();
    opening = &opened_;
    sqlite3* database = nullptr;
    const int result = sqlite3_open_v2("file:source?immutable=1", &database, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, kVfs);
    database_.reset(database);
    opening = nullptr;
    if (result != SQLITE_OK) return Failure();
    for (const auto& [setting, value] : {std::pair(SQLITE_DBCONFIG_DEFENSIVE, 1), {SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0}, {SQLITE_DBCONFIG_ENABLE_VIEW, 0},
                                        {SQLITE_DBCONFIG_ENABLE_TRIGGER, 0}}) {
      sqlite3_db_config(database, setting, value, nullptr);
    }
    sqlite3_limit(database, SQLITE_LIMIT_LENGTH, kPairBytesMax);  // A row too.
    sqlite3_progress_handler(database, kStepsAtOnce, [](void* opened) { return (static_cast<Opened*>(opened)->steps += kStepsAtOnce) > kStepsMax ? 1 : 0; }, &opened_);
    GODWIT_TRY(Run("PRAGMA cell_size_check = 1"));
    GODWIT_TRY(Run("PRAGMA temp_store = 2"));
    GODWIT_TRY(Run("PRAGMA cache_size = -1024"));
    // A real table, and none of its columns computed.
    GODWIT_ASSIGN(const Statement shape, Prepare("SELECT (SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'pairs' AND rootpage > 0), sum(name = 'key' AND pk = 1), sum(name = 'value'), "
                                                 "sum(hidden <> 0) FROM pragma_table_xinfo('pairs')"));
    GODWIT_ASSIGN(const bool there, Step(*shape));
    const auto is = [&](int column, int value) { return sqlite3_column_int(shape.get(), column) == value; };
    if (!there || !is(0, 1) || !is(1, 1) || !is(2, 1) || !is(3, 0)) return InvalidArgument("the database has no table pairs(key PRIMARY KEY, value) without computed columns");
    GODWIT_ASSIGN(get_, Prepare("SELECT value FROM pairs WHERE key = ?1"));
    return {};
  }

  Result<std::optional<std::string_view>> Get(std::string_view key) override {
    sqlite3_reset(get_.get());
    Bind(*get_, 1, key);
    GODWIT_ASSIGN(const bool found, Step(*get_));
    if (!found) return std::optional<std::string_view>();
    return std::optional(Column(*get_, 0));
  }

  Result<bool> Walk(const Range& range, const std::function<bool(std::string_view, std::string_view)>& each) override {
    GODWIT_ASSIGN(const Statement rows, Prepare(fmt::format("SELECT key, value FROM pairs WHERE key {} ?1{} ORDER BY key", range.behind ? ">" : ">=", range.to ? " AND key < ?2" : "")));
    Bind(*rows, 1, range.from);
    if (range.to) Bind(*rows, 2, *range.to);
    for (;;) {
      GODWIT_ASSIGN(const bool found, Step(*rows));
      if (!found) return true;
      if (!each(Column(*rows, 0), Column(*rows, 1))) return false;
    }
  }
  std::uint64_t read_bytes() const override { return opened_.read_bytes; }

 private:
  Error Failure() const {
    if (!opened_.failure.ok()) return opened_.failure.error();
    const char* text = sqlite3_errmsg(database_.get());
    switch (sqlite3_errcode(database_.get())) {
      case SQLITE_INTERRUPT: return ResourceExhausted("looking for one pair took too many steps");
      case SQLITE_TOOBIG: return ResourceExhausted(fmt::format("a pair has more than {} bytes", kPairBytesMax));
      case SQLITE_NOMEM: return ResourceExhausted("no memory for the table of pairs");
      default: return Corrupt(fmt::format("the table of pairs: {}", text));
    }
  }
  Result<Statement> Prepare(const std::string& sql) {
    sqlite3_stmt* statement = nullptr;
    opened_.steps = 0;
    const int result = sqlite3_prepare_v2(database_.get(), sql.c_str(), -1, &statement, nullptr);
    Statement owned(statement);
    if (result != SQLITE_OK) return Failure();
    return owned;
  }
  Result<bool> Step(sqlite3_stmt& statement) {
    opened_.steps = 0;
    switch (sqlite3_step(&statement)) {
      case SQLITE_ROW: return true;
      case SQLITE_DONE: return false;
      default: return Failure();
    }
  }
  Status Run(const char* sql) {
    GODWIT_ASSIGN(const Statement statement, Prepare(sql));
    GODWIT_TRY(Step(*statement));
    return {};
  }
  static void Bind(sqlite3_stmt& statement, int number, std::string_view text) {
    sqlite3_bind_text(&statement, number, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  }
  static std::string_view Column(sqlite3_stmt& statement, int column) {
    const void* begin = sqlite3_column_blob(&statement, column);
    return {static_cast<const char*>(begin), static_cast<std::size_t>(sqlite3_column_bytes(&statement, column))};
  }

  Opened opened_;
  std::unique_ptr<sqlite3, Close> database_;
  Statement get_;
};

}  // namespace

Result<std::unique_ptr<PairTable>> PairTable::Open(const Source& source) {
  auto pairs = std::make_unique<SqlitePairs>(source);
  GODWIT_TRY(pairs->Begin());
  return std::unique_ptr<PairTable>(std::move(pairs));
}

}  // namespace godwit::device
