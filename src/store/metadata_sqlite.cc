// The SQLite driver. Tables: `history` has every put and deletion since the last compaction, `current` the newest
// put of each key that exists, `leases` and `meta` what their names say. One connection, guarded by one mutex; one
// thread delivers watch events, ends leases and compacts.
#include <sqlite3.h>
#include <sys/file.h>
#include <fcntl.h>
#include <unistd.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>
#include <random>
#include <set>
#include <thread>

#include "store/metadata.h"

namespace godwit::store {
namespace {

using std::chrono::nanoseconds;
using std::chrono::seconds;

constexpr std::int64_t kHistoryRevisionsMax = 100'000;  // Older ones are compacted away.
constexpr std::int64_t kCompactEvery = 10'000;
constexpr std::int64_t kEventsPerBatch = 1'000;         // A revision is delivered whole even if it has more.
constexpr auto kTick = std::chrono::milliseconds(200);  // How late an ended lease may be noticed.
constexpr seconds kLeaseMax{24 * 3600};

constexpr char kSchema[] = R"(
PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO meta VALUES('schema', 1), ('revision', 1), ('compacted', 0);
CREATE TABLE IF NOT EXISTS history(revision INTEGER NOT NULL, key BLOB NOT NULL, created INTEGER, version INTEGER,
  lease INTEGER, deleted INTEGER NOT NULL, value BLOB, PRIMARY KEY(revision, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS history_by_key ON history(key, revision);
CREATE TABLE IF NOT EXISTS current(key BLOB PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL,
  version INTEGER NOT NULL, lease INTEGER NOT NULL, value BLOB NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS current_by_lease ON current(lease) WHERE lease <> 0;
CREATE TABLE IF NOT EXISTS leases(id INTEGER PRIMARY KEY, ttl_s INTEGER NOT NULL);
)";

struct Blob {
  std::string_view bytes;
};

class SqliteMetadata;

class SqliteWatch final : public Watch {
 public:
  SqliteWatch(SqliteMetadata& store, Keys keys, Revision next, Metadata::WatchCallback callback)
      : keys(std::move(keys)), next(next), callback(std::move(callback)), store_(store) {}
  ~SqliteWatch() override;

  const Keys keys;
  // Guarded by the store's mutex.
  Revision next;
  bool ended = false;
  bool delivering = false;
  const Metadata::WatchCallback callback;

 private:
  SqliteMetadata& store_;
};

class SqliteMetadata final : public Metadata {
 public:
  explicit SqliteMetadata(Clock clock) : clock_(std::move(clock)) {}
  ~SqliteMetadata() override {
    if (thread_.joinable()) {
      {
        std::lock_guard lock(mutex_);
        stopping_ = true;
      }
      changed_.notify_all();
      thread_.join();
    }
    for (auto& [sql, statement] : statements_) sqlite3_finalize(statement);
    sqlite3_close(db_);
    if (lock_fd_ >= 0) close(lock_fd_);
  }

  Status Open(const std::filesystem::path& file) {
    const std::string lock_file = file.string() + ".lock";
    lock_fd_ = open(lock_file.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (lock_fd_ < 0) return ErrnoError(lock_file);
    if (flock(lock_fd_, LOCK_EX | LOCK_NB) != 0) {
      return FailedPrecondition(file.string() + ": another process has this metadata store open; stop that one first");
    }
    if (sqlite3_open_v2(file.c_str(), &db_, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr) != SQLITE_OK ||
        sqlite3_exec(db_, kSchema, nullptr, nullptr, nullptr) != SQLITE_OK) {
      return Failure(file.string());
    }
    GODWIT_ASSIGN(const auto schema, Number("SELECT value FROM meta WHERE name='schema'"));
    if (schema != 1) return Unsupported(file.string() + ": has schema " + std::to_string(schema) + ", this build reads 1");
    GODWIT_ASSIGN(revision_.value, Number("SELECT value FROM meta WHERE name='revision'"));
    GODWIT_ASSIGN(compacted_.value, Number("SELECT value FROM meta WHERE name='compacted'"));
    // Nobody could keep a lease alive while the store was away: each starts anew.
    const nanoseconds now = clock_();
    GODWIT_TRY(Query("SELECT id, ttl_s FROM leases", {}, [&](sqlite3_stmt* row) {
      const seconds ttl(sqlite3_column_int64(row, 1));
      leases_[{sqlite3_column_int64(row, 0)}] = {ttl, now + ttl};
    }));
    thread_ = std::thread([this] { Work(); });
    return {};
  }

  Result<RangeResult> Range(const Keys& keys, Revision at) override {
    std::lock_guard lock(mutex_);
    RangeResult result;
    result.revision = revision_;
    if (at.value < 0 || at > revision_) {
      return InvalidArgument("metadata: revision " + std::to_string(at.value) + " is in the future");
    }
    if (at.value != 0 && at < compacted_) return Compacted(at);
    if (at.value == 0 || at == revision_) {
      GODWIT_TRY(ReadCurrent(keys, result.items));
      return result;
    }
    const auto [condition, parameters] = Condition(keys);
    std::vector<Parameter> all{at.value};
    all.insert(all.end(), parameters.begin(), parameters.end());
    GODWIT_TRY(Query("SELECT key, revision, created, version, lease, value FROM history h WHERE deleted=0 AND revision = "
                     "(SELECT max(revision) FROM history WHERE key=h.key AND revision<=?) AND " + condition + " ORDER BY key",
                     all, [&](sqlite3_stmt* row) { result.items.push_back(ItemOf(row)); }));
    return result;
  }

  Result<TransactionResult> Commit(const Transaction& transaction) override {
    GODWIT_TRY(CheckTransaction(transaction));
    std::lock_guard lock(mutex_);
    TransactionResult result;
    GODWIT_TRY(Execute("BEGIN IMMEDIATE", {}));
    const Revision before = revision_;
    if (const Status done = Apply(transaction, result); !done.ok()) {
      Rollback(before);
      return done.error();
    }
    GODWIT_TRY(Finish(before));
    result.revision = revision_;
    return result;
  }

  Result<LeaseId> Grant(seconds ttl) override {
    if (ttl < seconds(1) || ttl > kLeaseMax) {
      return InvalidArgument("metadata: a lease lasts 1 to " + std::to_string(kLeaseMax.count()) + " seconds");
    }
    std::lock_guard lock(mutex_);
    LeaseId id;
    std::random_device random;
    while (id.value == 0 || leases_.count(id) != 0) {
      id.value = static_cast<std::int64_t>((std::uint64_t{random()} << 31 ^ random()) & 0x7fffffffffffffff);
    }
    GODWIT_TRY(Execute("INSERT INTO leases VALUES(?, ?)", {id.value, std::int64_t{ttl.count()}}));
    leases_[id] = {ttl, clock_() + ttl};
    return id;
  }

  Result<seconds> KeepAlive(LeaseId id) override {
    std::lock_guard lock(mutex_);
    const auto lease = leases_.find(id);
    // Ended in time but not yet noticed: it has ended.
    if (lease == leases_.end() || lease->second.deadline <= clock_()) return NoLease(id);
    lease->second.deadline = clock_() + lease->second.ttl;
    return lease->second.ttl;
  }

  Status Revoke(LeaseId id) override {
    std::lock_guard lock(mutex_);
    if (leases_.count(id) == 0) return NoLease(id);
    return EndLease(id);
  }

  Result<std::unique_ptr<Watch>> StartWatch(const Keys& keys, Revision from, WatchCallback callback) override {
    std::lock_guard lock(mutex_);
    if (from.value < 0) return InvalidArgument("metadata: a watch begins at a revision above 0");
    auto watch = std::make_unique<SqliteWatch>(*this, keys, from.value == 0 ? revision_.Next() : from, std::move(callback));
    watches_.insert(watch.get());
    changed_.notify_all();
    return std::unique_ptr<Watch>(std::move(watch));
  }

  Status Compact(Revision revision) override {
    std::lock_guard lock(mutex_);
    return CompactLocked(revision);
  }

  void End(SqliteWatch* watch) {
    std::unique_lock lock(mutex_);
    watches_.erase(watch);
    GODWIT_CHECK(!watch->delivering || std::this_thread::get_id() != thread_.get_id(),
                 "a watch was destroyed by its own callback");
    delivered_.wait(lock, [&] { return !watch->delivering; });
  }

 private:
  struct Lease {
    seconds ttl;
    nanoseconds deadline;
  };
  using Parameter = std::variant<std::int64_t, Blob>;

  static Error Compacted(Revision revision) {
    return Aborted("metadata: revision " + std::to_string(revision.value) + " was compacted; read again and go on from there");
  }
  static Error NoLease(LeaseId id) { return NotFound("metadata: lease " + std::to_string(id.value) + " has ended"); }

  Error Failure(const std::string& what) {
    const int code = db_ ? sqlite3_errcode(db_) : SQLITE_NOMEM;
    const std::string message = what + ": " + (db_ ? sqlite3_errmsg(db_) : "out of memory");
    if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) return Corrupt(message);
    if (code == SQLITE_FULL) return ResourceExhausted(message);
    return Internal(message);
  }

  template <typename OnRow>
  Status Query(const std::string& sql, const std::vector<Parameter>& parameters, OnRow&& on_row) {
    sqlite3_stmt*& statement = statements_[sql];
    if (!statement && sqlite3_prepare_v2(db_, sql.c_str(), -1, &statement, nullptr) != SQLITE_OK) return Failure(sql);
    int index = 1;
    for (const Parameter& parameter : parameters) {
      if (const auto* number = std::get_if<std::int64_t>(&parameter)) {
        sqlite3_bind_int64(statement, index++, *number);
      } else {
        const std::string_view bytes = std::get<Blob>(parameter).bytes;
        // A null pointer would bind NULL, not the empty blob.
        sqlite3_bind_blob64(statement, index++, bytes.empty() ? "" : bytes.data(), bytes.size(), SQLITE_TRANSIENT);
      }
    }
    int step = SQLITE_DONE;
    while ((step = sqlite3_step(statement)) == SQLITE_ROW) on_row(statement);
    Status status;
    if (step != SQLITE_DONE) status = Failure(sql);
    sqlite3_reset(statement);
    sqlite3_clear_bindings(statement);
    return status;
  }
  Status Execute(const std::string& sql, const std::vector<Parameter>& parameters) {
    return Query(sql, parameters, [](sqlite3_stmt*) {});
  }
  Result<std::int64_t> Number(const std::string& sql) {
    std::int64_t number = 0;
    GODWIT_TRY(Query(sql, {}, [&](sqlite3_stmt* row) { number = sqlite3_column_int64(row, 0); }));
    return number;
  }

  static std::string BlobOf(sqlite3_stmt* row, int column) {
    const auto* bytes = static_cast<const char*>(sqlite3_column_blob(row, column));
    return bytes ? std::string(bytes, static_cast<std::size_t>(sqlite3_column_bytes(row, column))) : std::string();
  }
  // Columns: key, revision, created, version, lease, value.
  static KeyValue ItemOf(sqlite3_stmt* row) {
    return {BlobOf(row, 0), BlobOf(row, 5), {sqlite3_column_int64(row, 2)}, {sqlite3_column_int64(row, 1)},
            sqlite3_column_int64(row, 3), {sqlite3_column_int64(row, 4)}};
  }

  // The parameters view into `keys` and `end_`, which live until the query ran.
  std::pair<std::string, std::vector<Parameter>> Condition(const Keys& keys) {
    if (!keys.prefix) return {"key = ?", {Blob{keys.key}}};
    end_ = PrefixEnd(keys.key);
    if (end_.empty()) return {"key >= ?", {Blob{keys.key}}};
    return {"key >= ? AND key < ?", {Blob{keys.key}, Blob{end_}}};
  }

  Status ReadCurrent(const Keys& keys, std::vector<KeyValue>& items) {
    const auto [condition, parameters] = Condition(keys);
    return Query("SELECT key, revision, created, version, lease, value FROM current WHERE " + condition + " ORDER BY key",
                 parameters, [&](sqlite3_stmt* row) { items.push_back(ItemOf(row)); });
  }

  static bool Holds(const Compare& compare, const std::optional<KeyValue>& item) {
    int order = 0;
    if (compare.target == Compare::Target::kValue) {
      if (!item) return false;
      order = item->value.compare(compare.text);
    } else {
      std::int64_t number = 0;
      if (item) {
        number = compare.target == Compare::Target::kVersion   ? item->version
                 : compare.target == Compare::Target::kCreated ? item->created.value
                                                               : item->modified.value;
      }
      order = number < compare.number ? -1 : number > compare.number;
    }
    switch (compare.is) {
      case Compare::Is::kEqual: return order == 0;
      case Compare::Is::kNotEqual: return order != 0;
      case Compare::Is::kGreater: return order > 0;
      case Compare::Is::kLess: return order < 0;
    }
    return false;
  }

  Result<std::optional<KeyValue>> ReadOne(const std::string& key) {
    std::vector<KeyValue> items;
    GODWIT_TRY(ReadCurrent(Keys::One(key), items));
    if (items.empty()) return std::optional<KeyValue>();
    return std::optional<KeyValue>(std::move(items[0]));
  }

  Status Apply(const Transaction& transaction, TransactionResult& result) {
    result.succeeded = true;
    for (const Compare& compare : transaction.when) {
      GODWIT_ASSIGN(const auto item, ReadOne(compare.key));
      result.succeeded = result.succeeded && Holds(compare, item);
    }
    const Revision next = revision_.Next();
    for (const Operation& operation : result.succeeded ? transaction.then : transaction.otherwise) {
      OperationResult done;
      if (const auto* put = std::get_if<Put>(&operation)) {
        GODWIT_TRY(PutAt(next, *put));
      } else if (const auto* remove = std::get_if<Delete>(&operation)) {
        GODWIT_ASSIGN(done.deleted, DeleteAt(next, remove->keys));
      } else {
        GODWIT_TRY(ReadCurrent(std::get<Get>(operation).keys, done.items));
      }
      result.results.push_back(std::move(done));
    }
    return {};
  }

  Status PutAt(Revision next, const Put& put) {
    if (put.lease.value != 0 && leases_.count(put.lease) == 0) return NoLease(put.lease);
    GODWIT_ASSIGN(const auto old, ReadOne(put.key));
    const std::int64_t created = old ? old->created.value : next.value;
    const std::int64_t version = old ? old->version + 1 : 1;
    GODWIT_TRY(Execute("INSERT OR REPLACE INTO current(key, revision, created, version, lease, value) VALUES(?,?,?,?,?,?)",
                       {Blob{put.key}, next.value, created, version, put.lease.value, Blob{put.value}}));
    GODWIT_TRY(Execute("INSERT INTO history(revision, key, created, version, lease, deleted, value) VALUES(?,?,?,?,?,0,?)",
                       {next.value, Blob{put.key}, created, version, put.lease.value, Blob{put.value}}));
    revision_ = next;
    return {};
  }

  Result<std::int64_t> DeleteAt(Revision next, const Keys& keys) {
    std::vector<KeyValue> items;
    GODWIT_TRY(ReadCurrent(keys, items));
    for (const KeyValue& item : items) {
      GODWIT_TRY(Execute("DELETE FROM current WHERE key=?", {Blob{item.key}}));
      GODWIT_TRY(Execute("INSERT INTO history(revision, key, deleted) VALUES(?,?,1)", {next.value, Blob{item.key}}));
      revision_ = next;
    }
    return static_cast<std::int64_t>(items.size());
  }

  // Ends the open transaction: keeps what was done since `before`.
  Status Finish(Revision before) {
    Status status;
    if (revision_ != before) status = Execute("UPDATE meta SET value=? WHERE name='revision'", {revision_.value});
    if (status.ok()) status = Execute("COMMIT", {});
    if (!status.ok()) {
      Rollback(before);
      return status;
    }
    if (revision_ != before) changed_.notify_all();
    return {};
  }

  void Rollback(Revision before) {
    sqlite3_exec(db_, "ROLLBACK", nullptr, nullptr, nullptr);
    revision_ = before;
  }

  Status EndLease(LeaseId id) {
    GODWIT_TRY(Execute("BEGIN IMMEDIATE", {}));
    const Revision before = revision_;
    const auto end = [&]() -> Status {
      std::vector<std::string> keys;
      GODWIT_TRY(Query("SELECT key FROM current WHERE lease=? AND lease<>0", {id.value},
                       [&](sqlite3_stmt* row) { keys.push_back(BlobOf(row, 0)); }));
      const Revision next = revision_.Next();
      for (const std::string& key : keys) {
        GODWIT_ASSIGN([[maybe_unused]] const auto deleted, DeleteAt(next, Keys::One(key)));
      }
      return Execute("DELETE FROM leases WHERE id=?", {id.value});
    };
    if (const Status status = end(); !status.ok()) {
      Rollback(before);
      return status;
    }
    GODWIT_TRY(Finish(before));
    leases_.erase(id);
    return {};
  }

  Status CompactLocked(Revision revision) {
    if (revision > revision_) return InvalidArgument("metadata: revision " + std::to_string(revision.value) + " is in the future");
    if (revision <= compacted_) return Compacted(revision);
    GODWIT_TRY(Execute("BEGIN IMMEDIATE", {}));
    const auto compact = [&]() -> Status {
      // What was the newest at `revision` stays readable there, unless it was a deletion.
      GODWIT_TRY(Execute("DELETE FROM history WHERE revision < ?1 AND EXISTS (SELECT 1 FROM history n WHERE n.key = history.key "
                         "AND n.revision > history.revision AND n.revision <= ?1)", {revision.value}));
      GODWIT_TRY(Execute("DELETE FROM history WHERE revision < ? AND deleted = 1", {revision.value}));
      return Execute("UPDATE meta SET value=? WHERE name='compacted'", {revision.value});
    };
    if (const Status status = compact(); !status.ok()) {
      Rollback(revision_);
      return status;
    }
    GODWIT_TRY(Execute("COMMIT", {}));
    compacted_ = revision;
    return {};
  }

  // The whole revisions from watch.next on that touch its keys; advances it past all that was looked at.
  Result<std::vector<Event>> EventsFor(SqliteWatch& watch) {
    if (watch.next < compacted_) return Compacted(watch.next);
    std::vector<Event> events;
    const auto [condition, parameters] = Condition(watch.keys);
    std::vector<Parameter> all{watch.next.value};
    all.insert(all.end(), parameters.begin(), parameters.end());
    all.push_back(watch.next.value);
    all.insert(all.end(), parameters.begin(), parameters.end());
    all.push_back(kEventsPerBatch);
    // The subquery is the revision of the last event of this batch; null: fewer are left, take all.
    GODWIT_TRY(Query("SELECT key, revision, created, version, lease, value, deleted FROM history WHERE revision >= ? AND " + condition +
                         " AND revision <= coalesce((SELECT revision FROM history WHERE revision >= ? AND " + condition +
                         " ORDER BY revision LIMIT 1 OFFSET ?), 9223372036854775807) ORDER BY revision, key",
                     all, [&](sqlite3_stmt* row) { events.push_back({sqlite3_column_int(row, 6) != 0, ItemOf(row)}); }));
    const bool more = static_cast<std::int64_t>(events.size()) > kEventsPerBatch;
    watch.next = more ? events.back().item.modified.Next() : revision_.Next();
    return events;
  }

  void Work() {
    std::unique_lock lock(mutex_);
    while (!stopping_) {
      bool busy = false;
      for (SqliteWatch* watch : std::vector<SqliteWatch*>(watches_.begin(), watches_.end())) {
        if (stopping_) return;
        if (watches_.count(watch) == 0 || watch->ended || watch->next > revision_) continue;
        Result<std::vector<Event>> events = EventsFor(*watch);
        if (!events.ok()) watch->ended = true;
        if (events.ok() && events->empty()) continue;
        busy = true;
        watch->delivering = true;
        lock.unlock();
        watch->callback(std::move(events));
        lock.lock();
        watch->delivering = false;
        delivered_.notify_all();
      }
      const nanoseconds now = clock_();
      std::vector<LeaseId> ended;
      for (const auto& [id, lease] : leases_) {
        if (lease.deadline <= now) ended.push_back(id);
      }
      // A lease that could not be ended now (full disk) is tried again at the next tick.
      for (const LeaseId id : ended) busy = EndLease(id).ok() || busy;
      if (revision_.value - compacted_.value > kHistoryRevisionsMax + kCompactEvery) {
        static_cast<void>(CompactLocked({revision_.value - kHistoryRevisionsMax}));
      }
      if (!busy) changed_.wait_for(lock, kTick);
    }
  }

  const Clock clock_;
  int lock_fd_ = -1;
  std::mutex mutex_;  // Guards everything below.
  sqlite3* db_ = nullptr;
  std::map<std::string, sqlite3_stmt*> statements_;
  std::string end_;
  Revision revision_, compacted_;
  std::map<LeaseId, Lease> leases_;
  std::set<SqliteWatch*> watches_;
  bool stopping_ = false;
  std::condition_variable changed_, delivered_;
  std::thread thread_;
};

SqliteWatch::~SqliteWatch() { store_.End(this); }

}  // namespace

Result<std::unique_ptr<Metadata>> OpenSqliteMetadata(const std::filesystem::path& file, Clock clock) {
  auto store = std::make_unique<SqliteMetadata>(std::move(clock));
  GODWIT_TRY(store->Open(file));
  return std::unique_ptr<Metadata>(std::move(store));
}

}  // namespace godwit::store
