// Metadata: the cluster's one source of truth, with etcd's semantics.
//
// Keys are byte strings in one flat, ordered space. Every transaction that changes anything makes one new revision
// of the whole store; revisions only grow. Transactions are atomic and serialised. A watch delivers every change of
// its keys from a revision on, in order, each revision whole, none twice; it is resumed by asking from the revision
// after the last one seen. A lease that is not kept alive ends and takes its keys with it, never earlier than its
// time to live; when the store itself was away, every lease starts anew in full.
//
// Two drivers: SQLite (embedded, one file) and etcd's JSON gateway. What differs between them is a bug:
// metadata_conformance_test.cc holds for both.
//
// Threads: all methods may be called from any thread and block. A watch's callback runs on a thread of the store
// and must not block long; it may call the store, and may not destroy its own Watch.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <variant>
#include <vector>

#include "base/result.h"

namespace godwit::store {

struct Revision {
  std::int64_t value = 0;  // 0: none, or "the newest".
  friend auto operator<=>(Revision, Revision) = default;
  Revision Next() const { return {value + 1}; }
};

struct LeaseId {
  std::int64_t value = 0;  // 0: no lease.
  friend auto operator<=>(LeaseId, LeaseId) = default;
};

struct KeyValue {
  std::string key, value;
  Revision created;           // Of the put that made the key.
  Revision modified;          // Of the last put.
  std::int64_t version = 0;   // Puts since it was made, 1 for the first.
  LeaseId lease;
};

// One key, or all keys with a prefix (the empty prefix: all).
struct Keys {
  std::string key;
  bool prefix = false;
  static Keys One(std::string key) { return {std::move(key), false}; }
  static Keys Prefix(std::string prefix) { return {std::move(prefix), true}; }
};

struct Compare {
  enum class Target { kVersion, kCreated, kModified, kValue };
  enum class Is { kEqual, kNotEqual, kGreater, kLess };
  std::string key;
  Target target = Target::kVersion;
  Is is = Is::kEqual;
  std::int64_t number = 0;  // For all but kValue. A key that is absent has 0 for each.
  std::string text;         // For kValue; an absent key's comparison is false.

  static Compare Absent(std::string key) { return {std::move(key), Target::kVersion, Is::kEqual, 0, ""}; }
  static Compare Exists(std::string key) { return {std::move(key), Target::kVersion, Is::kGreater, 0, ""}; }
  static Compare ModifiedAt(std::string key, Revision revision) {
    return {std::move(key), Target::kModified, Is::kEqual, revision.value, ""};
  }
  static Compare ValueIs(std::string key, std::string value) {
    return {std::move(key), Target::kValue, Is::kEqual, 0, std::move(value)};
  }
};

struct Put {
  std::string key, value;
  LeaseId lease;
};
struct Delete {
  Keys keys;
};
struct Get {
  Keys keys;
};
using Operation = std::variant<Put, Delete, Get>;

// If all of `when` hold, `then` is done in order, otherwise `otherwise`. A key may be written once only.
struct Transaction {
  std::vector<Compare> when;
  std::vector<Operation> then, otherwise;
};
inline constexpr std::size_t kTransactionOperationsMax = 128;  // etcd's default; each list.
inline constexpr std::size_t kValueBytesMax = 1 << 20;
inline constexpr std::size_t kKeyBytesMax = 1024;

struct OperationResult {
  std::vector<KeyValue> items;  // Of a Get, in order of keys.
  std::int64_t deleted = 0;     // Of a Delete.
};
struct TransactionResult {
  bool succeeded = false;                // Which list was done.
  Revision revision;                     // Of the store afterwards.
  std::vector<OperationResult> results;  // One for each operation of that list.
};

struct RangeResult {
  std::vector<KeyValue> items;  // In order of keys.
  Revision revision;            // Of the store when it was read: watch from the next one to miss nothing.
};

struct Event {
  bool deleted = false;
  KeyValue item;  // Of a deletion: only `key` and `modified` (when it was deleted).
};

// A running watch; destroying it ends it: when the destructor returned, no callback runs or will run.
class Watch {
 public:
  virtual ~Watch() = default;
};

class Metadata {
 public:
  // The events of one or more whole revisions, in order; or, once and last, the error that ended the watch:
  // kAborted if its next revision was compacted (read again, watch from there).
  using WatchCallback = std::function<void(Result<std::vector<Event>>)>;

  virtual ~Metadata() = default;

  // At `at`, or at the newest revision. kAborted: `at` was compacted; kInvalidArgument: it is in the future.
  virtual Result<RangeResult> Range(const Keys& keys, Revision at = {}) = 0;

  // kInvalidArgument: limits, or a key written twice. kNotFound: a put's lease is gone. kUnavailable: the store is
  // away and the effect is unknown.
  virtual Result<TransactionResult> Commit(const Transaction& transaction) = 0;

  // A lease of at least `ttl` (the driver may give more; 1 s is the least). Keep it alive before that passed.
  virtual Result<LeaseId> Grant(std::chrono::seconds ttl) = 0;
  // Starts its time anew and returns it. kNotFound: it has ended.
  virtual Result<std::chrono::seconds> KeepAlive(LeaseId lease) = 0;
  // Ends it: its keys are deleted, in one revision. kNotFound: it has ended.
  virtual Status Revoke(LeaseId lease) = 0;

  // Changes of `keys` from revision `from` on ({}: from the next one). A `from` in the future waits for it.
  virtual Result<std::unique_ptr<Watch>> StartWatch(const Keys& keys, Revision from, WatchCallback callback) = 0;

  // Forgets what was overwritten or deleted before `revision`.
  virtual Status Compact(Revision revision) = 0;

  // Short forms.
  Result<Revision> PutOne(std::string key, std::string value, LeaseId lease = {});
  Result<std::int64_t> DeleteKeys(Keys keys);
};

// Now, on a clock that goes on while the machine sleeps.
using Clock = std::function<std::chrono::nanoseconds()>;
Clock BootTimeClock();

// The file is made if absent. It belongs to one process at a time: kFailedPrecondition if another has it open.
Result<std::unique_ptr<Metadata>> OpenSqliteMetadata(const std::filesystem::path& file, Clock clock = BootTimeClock());
// `url`: "http://HOST:PORT" of an etcd 3.4+ client endpoint. kUnavailable if it does not answer.
Result<std::unique_ptr<Metadata>> OpenEtcdMetadata(const std::string& url);
// "sqlite:" (metadata.db in `folder`), "sqlite:FILE" or "http://HOST:PORT".
Result<std::unique_ptr<Metadata>> OpenMetadata(const std::string& url, const std::filesystem::path& folder);

// The least key after all that begin with `prefix`; "" if there is none.
std::string PrefixEnd(std::string prefix);
// The checks that both drivers make before they do anything.
Status CheckTransaction(const Transaction& transaction);

}  // namespace godwit::store
