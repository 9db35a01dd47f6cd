// One suite for both drivers of the metadata store: what differs between them is a bug.
#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>
#include <future>
#include <mutex>
#include <thread>

#include "base/fresh_file.h"
#include "store/metadata.h"

namespace godwit::store {
namespace {

using std::chrono::seconds;
using std::chrono::steady_clock;
namespace fs = std::filesystem;

std::string FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  if (fd < 0 || bind(fd, reinterpret_cast<sockaddr*>(&address), size) != 0) std::abort();
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  close(fd);
  return std::to_string(ntohs(address.sin_port));
}

// A real etcd process in a folder of its own.
class Etcd {
 public:
  static bool Installed() { return std::system("command -v etcd >/dev/null 2>&1") == 0; }

  explicit Etcd(const fs::path& folder) {
    url_ = "http://127.0.0.1:" + FreePort();
    const std::string peer = "http://127.0.0.1:" + FreePort();
    process_ = fork();
    if (process_ == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      const std::string log = (folder / "etcd.log").string();
      if (!freopen(log.c_str(), "w", stdout) || !freopen(log.c_str(), "a", stderr)) _exit(126);
      setenv("ETCD_UNSUPPORTED_ARCH", "arm64", 0);
      const std::string data = (folder / "data").string();
      execlp("etcd", "etcd", "--data-dir", data.c_str(), "--listen-client-urls", url_.c_str(), "--advertise-client-urls",
             url_.c_str(), "--listen-peer-urls", peer.c_str(), "--initial-advertise-peer-urls", peer.c_str(),
             "--initial-cluster", ("default=" + peer).c_str(), "--unsafe-no-fsync", nullptr);
      _exit(127);
    }
  }
  ~Etcd() {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }

  std::unique_ptr<Metadata> Connect() {
    const auto deadline = steady_clock::now() + seconds(30);
    while (steady_clock::now() < deadline) {
      auto store = OpenEtcdMetadata(url_);
      if (store.ok()) return std::move(*store);
      std::this_thread::yield();
    }
    return nullptr;
  }

 private:
  std::string url_;
  pid_t process_ = -1;
};

// Collects what a watch delivers.
class Events {
 public:
  Metadata::WatchCallback Callback() {
    return [this](Result<std::vector<Event>> events) {
      std::lock_guard lock(mutex_);
      if (events.ok()) {
        for (const Event& event : *events) {
          lines_.push_back((event.deleted ? "-" : "+") + event.item.key + (event.deleted ? "" : "=" + event.item.value));
          revisions_.push_back(event.item.modified);
        }
      } else {
        error_ = events.error();
      }
      changed_.notify_all();
    };
  }
  std::vector<std::string> WaitFor(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(20), [&] { return lines_.size() >= count || error_; });
    return lines_;
  }
  std::optional<Error> WaitForError() {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, seconds(20), [&] { return error_.has_value(); });
    return error_;
  }
  std::vector<Revision> revisions() {
    std::lock_guard lock(mutex_);
    return revisions_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> lines_;
  std::vector<Revision> revisions_;
  std::optional<Error> error_;
};

class MetadataTest : public ::testing::TestWithParam<const char*> {
 protected:
  // One etcd for the whole suite; each test has keys of its own below base_.
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder(TemporaryFolder::Create().value());
    if (Etcd::Installed()) {
      etcd_ = new Etcd(folder_->path());
      if (!etcd_->Connect()) {
        ADD_FAILURE() << "etcd did not start";
        delete etcd_;
        etcd_ = nullptr;
      }
    }
  }
  static void TearDownTestSuite() {
    delete etcd_;
    delete folder_;
    etcd_ = nullptr;
  }
  void SetUp() override {
    if (GetParam() == std::string("etcd")) {
      if (!etcd_) GTEST_SKIP() << "etcd is not installed (Debian: etcd-server)";
      store_ = etcd_->Connect();
      ASSERT_NE(store_, nullptr);
    } else {
      auto store = OpenMetadata("sqlite:", mine_.path());
      ASSERT_TRUE(store.ok()) << store.error().message;
      store_ = std::move(*store);
    }
    base_ = std::string("/") + ::testing::UnitTest::GetInstance()->current_test_info()->name() + "/";
  }

  std::string K(const std::string& name) const { return base_ + name; }
  Revision MustPut(const std::string& name, const std::string& value, LeaseId lease = {}) {
    const auto done = store_->PutOne(K(name), value, lease);
    EXPECT_TRUE(done.ok()) << done.error().message;
    return done.ok() ? *done : Revision{};
  }
  TransactionResult MustCommit(const Transaction& transaction) {
    auto done = store_->Commit(transaction);
    EXPECT_TRUE(done.ok()) << done.error().message;
    return done.ok() ? std::move(*done) : TransactionResult{};
  }
  std::string Line(const std::vector<KeyValue>& items) const {
    std::string line;
    for (const KeyValue& item : items) line += item.key.substr(base_.size()) + "=" + item.value + " ";
    return line;
  }
  std::string All(Revision at = {}) const {
    const auto range = store_->Range(Keys::Prefix(base_), at);
    return range.ok() ? Line(range->items) : range.error().message;
  }
  std::vector<std::string> Full(std::vector<std::string> lines) const {
    for (std::string& line : lines) line.insert(1, base_);
    return lines;
  }

  static TemporaryFolder* folder_;
  static Etcd* etcd_;
  const TemporaryFolder mine_ = TemporaryFolder::Create().value();
  std::unique_ptr<Metadata> store_;
  std::string base_;
};
TemporaryFolder* MetadataTest::folder_ = nullptr;
Etcd* MetadataTest::etcd_ = nullptr;

TEST_P(MetadataTest, AnEmptyStoreIsAtRevisionOneOrLaterAndReadsChangeNothing) {
  const auto first = store_->Range(Keys::One(K("a")));
  ASSERT_TRUE(first.ok()) << first.error().message;
  EXPECT_GE(first->revision.value, 1);
  EXPECT_TRUE(first->items.empty());
  EXPECT_EQ(store_->Range(Keys::Prefix(base_))->revision, first->revision);
}

TEST_P(MetadataTest, RevisionsAndVersionsCountPuts) {
  const Revision one = MustPut("a", "1");
  const Revision two = MustPut("a", "2");
  EXPECT_EQ(two, one.Next());
  const auto range = store_->Range(Keys::One(K("a")));
  ASSERT_EQ(range->items.size(), 1u);
  EXPECT_EQ(range->items[0].value, "2");
  EXPECT_EQ(range->items[0].created, one);
  EXPECT_EQ(range->items[0].modified, two);
  EXPECT_EQ(range->items[0].version, 2);
  EXPECT_EQ(*store_->DeleteKeys(Keys::One(K("a"))), 1);
  const Revision again = MustPut("a", "3");
  EXPECT_EQ(again.value, two.value + 2);
  const auto anew = store_->Range(Keys::One(K("a")));
  EXPECT_EQ(anew->items[0].version, 1);
  EXPECT_EQ(anew->items[0].created, again);
}

TEST_P(MetadataTest, DeletingNothingMakesNoRevision) {
  const Revision before = MustPut("a", "1");
  EXPECT_EQ(*store_->DeleteKeys(Keys::One(K("none"))), 0);
  EXPECT_EQ(store_->Range(Keys::One(K("a")))->revision, before);
}

TEST_P(MetadataTest, PrefixesAreOrderedAndExact) {
  for (const char* name : {"b/2", "b/10", "b", "c", "a", "b0"}) MustPut(name, "v");
  EXPECT_EQ(Line(store_->Range(Keys::Prefix(K("b/")))->items), "b/10=v b/2=v ");
  EXPECT_EQ(All(), "a=v b=v b/10=v b/2=v b0=v c=v ");
  EXPECT_EQ(*store_->DeleteKeys(Keys::Prefix(K("b"))), 4);
  EXPECT_EQ(All(), "a=v c=v ");
  EXPECT_GE(store_->Range(Keys::Prefix(""))->items.size(), 2u);
}

TEST_P(MetadataTest, KeysAndValuesAreAnyBytes) {
  const std::string key = K(std::string("\x00\xff\x7f", 3)), value("\x00\x01\xfe\xff", 4);
  ASSERT_TRUE(store_->PutOne(key, value).ok());
  ASSERT_TRUE(store_->PutOne(K("empty"), "").ok());
  const auto range = store_->Range(Keys::Prefix(base_));
  ASSERT_EQ(range->items.size(), 2u);
  EXPECT_EQ(range->items[0].key, key);
  EXPECT_EQ(range->items[0].value, value);
  EXPECT_EQ(range->items[1].value, "");
  EXPECT_EQ(store_->Range(Keys::Prefix(K(std::string("\x00\xff", 2))))->items.size(), 1u);
}

TEST_P(MetadataTest, OldRevisionsStayReadableUntilCompacted) {
  const Revision one = MustPut("a", "1");
  const Revision two = MustPut("b", "2");
  MustPut("a", "3");
  ASSERT_TRUE(store_->DeleteKeys(Keys::One(K("b"))).ok());
  const Revision last = MustPut("c", "4");
  EXPECT_EQ(All(one), "a=1 ");
  EXPECT_EQ(All(two), "a=1 b=2 ");
  EXPECT_EQ(All(last), "a=3 c=4 ");
  EXPECT_EQ(All(), "a=3 c=4 ");
  EXPECT_EQ(store_->Range(Keys::Prefix(base_), last.Next()).error().code, ErrorCode::kInvalidArgument);

  ASSERT_TRUE(store_->Compact(two).ok());
  EXPECT_EQ(store_->Range(Keys::Prefix(base_), one).error().code, ErrorCode::kAborted);
  EXPECT_EQ(All(two), "a=1 b=2 ");
  ASSERT_TRUE(store_->Compact(last).ok());
  EXPECT_EQ(All(), "a=3 c=4 ");
  EXPECT_EQ(store_->Compact(two).error().code, ErrorCode::kAborted);
  EXPECT_EQ(store_->Compact({last.value + 100}).error().code, ErrorCode::kInvalidArgument);
}

TEST_P(MetadataTest, ATransactionDoesOneListOrTheOther) {
  const Revision made = MustPut("a", "1");
  const std::string a = K("a"), none = K("none");
  using T = Compare::Target;
  using I = Compare::Is;
  const std::pair<Compare, bool> cases[] = {
      {Compare::Exists(a), true},
      {Compare::Absent(a), false},
      {Compare::Absent(none), true},
      {Compare::ModifiedAt(a, made), true},
      {Compare::ModifiedAt(a, made.Next()), false},
      {Compare::ModifiedAt(none, {}), true},
      {Compare::ValueIs(a, "1"), true},
      {Compare::ValueIs(a, "2"), false},
      {Compare::ValueIs(none, ""), false},
      {{a, T::kCreated, I::kEqual, made.value, ""}, true},
      {{a, T::kCreated, I::kLess, made.value, ""}, false},
      {{a, T::kVersion, I::kGreater, 0, ""}, true},
      {{a, T::kVersion, I::kNotEqual, 1, ""}, false},
      {{a, T::kValue, I::kGreater, 0, "0"}, true},
      {{a, T::kValue, I::kLess, 0, "0"}, false},
      {{a, T::kValue, I::kNotEqual, 0, "0"}, true},
  };
  int index = 0;
  for (const auto& [compare, holds] : cases) {
    const auto done = MustCommit({{compare}, {Get{Keys::One(a)}}, {}});
    EXPECT_EQ(done.succeeded, holds) << index;
    EXPECT_EQ(done.results.size(), holds ? 1u : 0u) << index;
    ++index;
  }
  const auto both = MustCommit({{Compare::Exists(a), Compare::Exists(none)}, {Put{a, "then", {}}}, {Put{a, "else", {}}}});
  EXPECT_FALSE(both.succeeded);
  EXPECT_EQ(All(), "a=else ");
}

TEST_P(MetadataTest, AllPutsOfATransactionHaveOneRevisionAndItsGetsSeeThem) {
  const Revision before = MustPut("x", "0");
  const auto done = MustCommit({{},
                                {Put{K("a"), "1", {}}, Get{Keys::Prefix(base_)}, Delete{Keys::One(K("x"))}, Put{K("b"), "2", {}},
                                 Get{Keys::Prefix(base_)}},
                                {}});
  EXPECT_EQ(done.revision, before.Next());
  ASSERT_EQ(done.results.size(), 5u);
  EXPECT_EQ(Line(done.results[1].items), "a=1 x=0 ");
  EXPECT_EQ(done.results[2].deleted, 1);
  EXPECT_EQ(Line(done.results[4].items), "a=1 b=2 ");
  const auto all = store_->Range(Keys::Prefix(base_));
  for (const KeyValue& item : all->items) EXPECT_EQ(item.modified, done.revision);
}

TEST_P(MetadataTest, RefusesTransactionsPastItsLimitsAndChangesNothing) {
  const Revision before = MustPut("a", "0");
  const auto refused = [&](Transaction transaction) {
    const auto done = store_->Commit(transaction);
    ASSERT_FALSE(done.ok());
    EXPECT_EQ(done.error().code, ErrorCode::kInvalidArgument) << done.error().message;
  };
  refused({{}, {Put{K("a"), "1", {}}, Put{K("a"), "2", {}}}, {}});
  refused({{}, {Put{K("a"), "1", {}}, Delete{Keys::Prefix(base_)}}, {}});
  refused({{}, {Put{"", "1", {}}}, {}});
  refused({{}, {Put{std::string(kKeyBytesMax + 1, 'k'), "1", {}}}, {}});
  refused({{}, {Put{K("a"), std::string(kValueBytesMax + 1, 'v'), {}}}, {}});
  Transaction many;
  for (std::size_t i = 0; i < kTransactionOperationsMax; ++i) many.then.push_back(Put{K("m" + std::to_string(i)), "v", {}});
  Transaction too_many = many;
  too_many.then.push_back(Put{K("last"), "v", {}});
  refused(too_many);
  EXPECT_EQ(store_->Range(Keys::One(K("a")))->revision, before);
  EXPECT_EQ(MustCommit(many).revision, before.Next());
  EXPECT_TRUE(store_->PutOne(K("a"), std::string(kValueBytesMax, 'v')).ok());
}

TEST_P(MetadataTest, AFailedOperationUndoesTheWholeTransaction) {
  const Revision before = MustPut("a", "0");
  const auto done = store_->Commit({{}, {Put{K("a"), "1", {}}, Put{K("b"), "1", LeaseId{12345}}}, {}});
  ASSERT_FALSE(done.ok());
  EXPECT_EQ(done.error().code, ErrorCode::kNotFound) << done.error().message;
  EXPECT_EQ(All(), "a=0 ");
  EXPECT_EQ(store_->Range(Keys::One(K("a")))->revision, before);
}

TEST_P(MetadataTest, CompareAndSwapHasOneWinner) {
  const Revision made = MustPut("owner", "nobody");
  std::atomic<int> winners = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&, i] {
      const auto done = store_->Commit(
          {{Compare::ModifiedAt(K("owner"), made)}, {Put{K("owner"), std::to_string(i), {}}}, {}});
      if (done.ok() && done->succeeded) ++winners;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(winners, 1);
}

TEST_P(MetadataTest, RevokingALeaseDeletesItsKeysInOneRevision) {
  const auto lease = store_->Grant(seconds(60));
  ASSERT_TRUE(lease.ok()) << lease.error().message;
  MustPut("a", "1", *lease);
  const Revision before = MustPut("b", "2", *lease);
  MustPut("kept", "3");
  MustPut("b", "2", {});  // A put without the lease takes the key off it.
  MustPut("c", "4", *lease);
  EXPECT_EQ(store_->Range(Keys::One(K("a")))->items[0].lease, *lease);
  ASSERT_TRUE(store_->Revoke(*lease).ok());
  EXPECT_EQ(All(), "b=2 kept=3 ");
  EXPECT_EQ(store_->Range(Keys::Prefix(base_))->revision.value, before.value + 4);
  EXPECT_EQ(store_->Revoke(*lease).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store_->KeepAlive(*lease).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(store_->PutOne(K("a"), "1", *lease).error().code, ErrorCode::kNotFound);
}

TEST_P(MetadataTest, ALeaseThatIsNotKeptAliveEndsAndAKeptOneDoesNot) {
  const auto ends = store_->Grant(seconds(2));
  const auto kept = store_->Grant(seconds(2));
  ASSERT_TRUE(ends.ok() && kept.ok());
  MustPut("ends", "1", *ends);
  MustPut("kept", "1", *kept);
  Events events;
  auto watch = store_->StartWatch(Keys::One(K("ends")), {}, events.Callback());
  ASSERT_TRUE(watch.ok());
  const auto start = steady_clock::now();
  std::promise<void> done;
  std::thread keeper([&, ended = done.get_future()] {
    do {
      EXPECT_TRUE(store_->KeepAlive(*kept).ok());
    } while (ended.wait_for(std::chrono::milliseconds(200)) == std::future_status::timeout);
  });
  EXPECT_THAT(events.WaitFor(1), ::testing::ElementsAreArray(Full({"-ends"})));
  EXPECT_GE(steady_clock::now() - start, seconds(1));
  done.set_value();
  keeper.join();
  EXPECT_EQ(All(), "kept=1 ");
}

TEST_P(MetadataTest, AWatchDeliversEveryChangeOfItsKeysInOrder) {
  MustPut("w/before", "0");
  Events events;
  auto watch = store_->StartWatch(Keys::Prefix(K("w/")), {}, events.Callback());
  ASSERT_TRUE(watch.ok()) << watch.error().message;
  MustPut("w/a", "1");
  MustPut("other", "x");
  MustPut("w/a", "2");
  ASSERT_TRUE(store_->DeleteKeys(Keys::Prefix(K("w/"))).ok());
  MustPut("w/b", "3");
  EXPECT_THAT(events.WaitFor(5), ::testing::ElementsAreArray(Full({"+w/a=1", "+w/a=2", "-w/a", "-w/before", "+w/b=3"})));
}

TEST_P(MetadataTest, AWatchIsResumedFromTheRevisionAfterTheLastSeen) {
  const Revision first = MustPut("w", "1");
  MustPut("w", "2");
  MustPut("w", "3");
  Events all, rest;
  {
    auto watch = store_->StartWatch(Keys::One(K("w")), first, all.Callback());
    ASSERT_TRUE(watch.ok());
    EXPECT_EQ(all.WaitFor(3).size(), 3u);
  }
  const Revision last_seen = all.revisions().at(1);
  MustPut("w", "4");
  EXPECT_EQ(all.WaitFor(0).size(), 3u) << "an ended watch delivers nothing";
  auto watch = store_->StartWatch(Keys::One(K("w")), last_seen.Next(), rest.Callback());
  ASSERT_TRUE(watch.ok());
  EXPECT_THAT(rest.WaitFor(2), ::testing::ElementsAreArray(Full({"+w=3", "+w=4"})));
}

TEST_P(MetadataTest, AWatchFromACompactedRevisionEndsWithAborted) {
  const Revision first = MustPut("w", "1");
  const Revision second = MustPut("w", "2");
  ASSERT_TRUE(store_->Compact(second).ok());
  Events events;
  auto watch = store_->StartWatch(Keys::One(K("w")), first, events.Callback());
  ASSERT_TRUE(watch.ok());
  const auto error = events.WaitForError();
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->code, ErrorCode::kAborted) << error->message;
  Events later;
  auto good = store_->StartWatch(Keys::One(K("w")), second, later.Callback());
  EXPECT_THAT(later.WaitFor(1), ::testing::ElementsAreArray(Full({"+w=2"})));
}

TEST_P(MetadataTest, AWatchOfManyChangesLosesNone) {
  Events events;
  auto watch = store_->StartWatch(Keys::Prefix(K("w/")), {}, events.Callback());
  ASSERT_TRUE(watch.ok());
  constexpr int kTransactions = 20, kPuts = 100;
  for (int i = 0; i < kTransactions; ++i) {
    Transaction transaction;
    for (int j = 0; j < kPuts; ++j) transaction.then.push_back(Put{K("w/" + std::to_string(j)), std::to_string(i), {}});
    MustCommit(transaction);
  }
  EXPECT_EQ(events.WaitFor(kTransactions * kPuts).size(), static_cast<std::size_t>(kTransactions * kPuts));
  const auto revisions = events.revisions();
  EXPECT_TRUE(std::is_sorted(revisions.begin(), revisions.end()));
}

INSTANTIATE_TEST_SUITE_P(Drivers, MetadataTest, ::testing::Values("sqlite", "etcd"),
                         [](const auto& info) { return std::string(info.param); });

// What only the embedded store can show: a clock of our own, and the file.
class SqliteMetadataTest : public ::testing::Test {
 protected:
  std::unique_ptr<Metadata> MustOpen() {
    auto store = OpenSqliteMetadata(folder_.path() / "m.db", [this] { return std::chrono::nanoseconds(now_.load()); });
    EXPECT_TRUE(store.ok()) << store.error().message;
    return store.ok() ? std::move(*store) : nullptr;
  }
  void Advance(std::chrono::nanoseconds by) { now_ += by.count(); }

  const TemporaryFolder folder_ = TemporaryFolder::Create().value();
  std::atomic<std::int64_t> now_ = 0;
};

TEST_F(SqliteMetadataTest, KeepsEverythingAcrossARestartAndGivesLeasesTheirFullTimeAnew) {
  auto store = MustOpen();
  const LeaseId lease = *store->Grant(seconds(10));
  const Revision revision = *store->PutOne("/a", "1", lease);
  Advance(seconds(9));
  store.reset();
  Advance(seconds(3600));
  store = MustOpen();
  const auto range = store->Range(Keys::One("/a"));
  ASSERT_EQ(range->items.size(), 1u);
  EXPECT_EQ(range->revision, revision);
  EXPECT_EQ(range->items[0].lease, lease);
  Advance(seconds(9));
  EXPECT_EQ(store->Range(Keys::One("/a"))->items.size(), 1u);
  EXPECT_TRUE(store->KeepAlive(lease).ok());
  Events events;
  auto watch = store->StartWatch(Keys::One("/a"), {}, events.Callback());
  Advance(seconds(10));
  EXPECT_EQ(events.WaitFor(1), std::vector<std::string>{"-/a"});
  EXPECT_EQ(store->KeepAlive(lease).error().code, ErrorCode::kNotFound);
}

TEST_F(SqliteMetadataTest, BelongsToOneProcessAtATime) {
  auto store = MustOpen();
  const auto second = OpenSqliteMetadata(folder_.path() / "m.db");
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(SqliteMetadataTest, RefusesAFileThatIsNoDatabase) {
  FILE* file = fopen((folder_.path() / "m.db").c_str(), "w");
  for (int i = 0; i < 4096; ++i) fputs("not a database ", file);
  fclose(file);
  const auto store = OpenSqliteMetadata(folder_.path() / "m.db");
  ASSERT_FALSE(store.ok());
  EXPECT_EQ(store.error().code, ErrorCode::kCorrupt) << store.error().message;
}

TEST(MetadataUrlTest, NamesADriverOrIsRefused) {
  for (const char* url : {"", "etcd://x", "http://", "http://host", "http://:1", "http://host:1/path"}) {
    const auto store = OpenMetadata(url, "/nonexistent");
    ASSERT_FALSE(store.ok()) << url;
    EXPECT_EQ(store.error().code, ErrorCode::kInvalidArgument) << url;
  }
}

}  // namespace
}  // namespace godwit::store
