// Both ends of a copy over real streams, with memories of no guest.
#include "migration/live_copy.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "migration/memory_fixture.h"
#include "migration/page_receiver.h"

namespace godwit::migration {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kMax = 64 << 20;

transport::ChannelOptions As(const std::string& device) {
  transport::ChannelOptions options;
  options.self = {model::DeviceName(device), model::BootId{1}};
  options.token = "secret";
  return options;
}

class LiveCopyTest : public ::testing::Test {
 protected:
  // Prepares both ends and lets the receiver run until the state has come.
  void Open(std::uint64_t bytes, std::size_t streams = 1, const std::function<void(LiveCopy::Options&)>& change = nullptr) {
    live_ = std::make_shared<FakeLiveMemory>(bytes, kMax);
    auto memory = std::make_unique<FakeArrivingMemory>(bytes, kMax);
    arriving_ = memory.get();
    std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories;
    memories.push_back(std::move(memory));
    auto receiver = PageReceiver::Create("127.0.0.1", {As("csd1"), kId, model::Epoch{4}, model::DeviceName("host0"), streams}, std::move(memories));
    ASSERT_TRUE(receiver.ok()) << receiver.error().message;
    receiver_ = std::move(receiver).value();
    serving_ = std::thread([this] {
      if (const Status open = receiver_->Open(); !open.ok()) return void(served_ = open.error());
      auto arrived = receiver_->Serve();
      if (!arrived.ok()) served_ = arrived.error();
    });
    LiveCopy::Options options;
    options.channel = As("host0");
    options.host = "127.0.0.1";
    options.port = receiver_->port();
    options.migration = kId;
    options.epoch = model::Epoch{4};
    options.streams = streams;
    options.tracker = ProbeTracker();
    options.nap = [this](std::chrono::microseconds length) { napped_ += length.count(); };
    if (change) change(options);
    auto copy = LiveCopy::Open(std::move(options), {live_});
    ASSERT_TRUE(copy.ok()) << copy.error().message;
    copy_ = std::move(copy).value();
  }
  void TearDown() override {
    copy_.reset();
    if (receiver_) receiver_->Shut();
    if (serving_.joinable()) serving_.join();
  }
  void Finish() {
    ASSERT_TRUE(copy_->AnnounceStop().ok());
    const Status pages = copy_->SendPages({true});
    ASSERT_TRUE(pages.ok()) << pages.error().message;
    ASSERT_TRUE(copy_->SendState([](const auto& sink) { return sink(Bytes{1, 2, 3}); }).ok());
    serving_.join();
    ASSERT_FALSE(served_) << served_->message;
    EXPECT_EQ(Bytes(receiver_->state().begin(), receiver_->state().end()), (Bytes{1, 2, 3}));
  }
  void ExpectSame() {
    EXPECT_EQ(arriving_->bytes(), live_->bytes());
    EXPECT_EQ(std::memcmp(arriving_->base(), live_->base(), live_->bytes()), 0);
  }
  std::uint64_t PagesSent() const {
    std::uint64_t pages = 0;
    for (const auto& round : copy_->rounds()) pages += round.pages;
    return pages;
  }

  const model::MigrationId kId{"m-1"};
  std::shared_ptr<FakeLiveMemory> live_;
  FakeArrivingMemory* arriving_ = nullptr;
  std::unique_ptr<PageReceiver> receiver_;
  std::unique_ptr<LiveCopy> copy_;
  std::thread serving_;
  std::optional<Error> served_;
  std::atomic<std::int64_t> napped_{0};
};

TEST_F(LiveCopyTest, UntouchedAndZeroPagesAreNeverSent) {
  Open(32 << 20);
  live_->Write(7, 1);
  live_->Write(4000, 2);
  live_->Write(4001, 0);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  Finish();
  EXPECT_EQ(PagesSent(), 2u);
  EXPECT_LT(copy_->bytes_sent(), 3 * kPageBytes);
  ExpectSame();
}

TEST_F(LiveCopyTest, WhatIsWrittenBetweenRoundsAndStopArrives) {
  for (const std::size_t streams : {1u, 3u}) {
    SCOPED_TRACE(streams);
    int rounds = 0;
    Open(48 << 20, streams, [&](LiveCopy::Options& options) {
      options.on_round = [&](const LiveCopy::Round&) {
        if (++rounds == 1) {
          for (std::uint64_t page = 0; page < 12'000; page += 3) live_->Write(page, 9);
        }
      };
    });
    for (std::uint64_t page = 0; page < 12'000; ++page) live_->Write(page, static_cast<std::uint8_t>(page * 7 + 1));
    ASSERT_TRUE(copy_->CopyRounds().ok());
    live_->Write(5, 77);
    live_->Write(11'999, 78);
    Finish();
    ExpectSame();
    EXPECT_GE(PagesSent(), 12'000u);
    TearDown();
  }
}

TEST_F(LiveCopyTest, APageThatIsZeroAgainIsResetAtTheTargetWithoutSendingIt) {
  Open(1 << 20);
  live_->Write(3, 5);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  live_->Write(3, 0);
  Finish();
  EXPECT_EQ(PagesSent(), 1u);
  EXPECT_GE(arriving_->reset.load(), 1u);
  ExpectSame();
}

TEST_F(LiveCopyTest, AMemoryThatGrowsMeanwhileArrivesWhole) {
  for (const std::size_t streams : {1u, 2u}) {
    Open(1 << 20, streams);
    live_->Write(3, 5);
    ASSERT_TRUE(copy_->CopyRounds().ok());
    live_->GrowTo(40 << 20);
    live_->Write(300, 6);
    live_->Write(10'000, 6);
    Finish();
    ExpectSame();
    TearDown();
  }
}

TEST_F(LiveCopyTest, WithoutATrackerEverythingIsSentAtTheStop) {
  Open(8 << 20, 1, [](LiveCopy::Options& options) { options.tracker = TrackerKind::kNone; });
  for (std::uint64_t page = 0; page < 2048; page += 2) live_->Write(page, 3);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  EXPECT_TRUE(copy_->rounds().empty());
  Finish();
  EXPECT_EQ(PagesSent(), 1024u);
  ExpectSame();
}

TEST_F(LiveCopyTest, AMemoryThatDoesNotMoveAnyMoreIsNotSent) {
  Open(1 << 20);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  live_->Write(3, 5);
  ASSERT_TRUE(copy_->SendPages({false}).ok());
  EXPECT_EQ(PagesSent(), 0u);
}

TEST_F(LiveCopyTest, LargerPagesOfTheOtherEndAreSentWhole) {
  Open(1 << 20, 1, [](LiveCopy::Options& options) { options.page_bytes = 16 << 10; });
  live_->Write(6, 5);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  Finish();
  EXPECT_EQ(PagesSent(), 4u);
  ExpectSame();
}

TEST_F(LiveCopyTest, AGuestThatOutrunsTheLimitIsSlowedOrTheCopyGivesUpWithItsReason) {
  Open(2 << 20, 1, [&](LiveCopy::Options& options) {
    options.bytes_per_second = 50'000'000;
    options.policy.max_downtime = std::chrono::milliseconds(1);
  });
  std::mt19937_64 random(1);
  Bytes noise(2 * kPageBytes);  // Compression does not help.
  for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random());
  // A guest that does not sleep when it is told to.
  live_->on_look = [&](std::uint8_t* page) { std::memcpy(page, noise.data() + random() % kPageBytes, kPageBytes); };
  for (std::uint64_t page = 0; page < 512; ++page) live_->Write(page, 1);
  const Status copied = copy_->CopyRounds();
  ASSERT_FALSE(copied.ok());
  EXPECT_EQ(copied.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(copied.error().message.find("allowed"), std::string::npos) << copied.error().message;
  EXPECT_GT(napped_.load(), 0);
  EXPECT_EQ(copy_->slowest_share(), kSlowShareMax);
}

TEST_F(LiveCopyTest, TheLimitOnBandwidthIsKept) {
  Open(8 << 20, 2, [&](LiveCopy::Options& options) { options.bytes_per_second = 80'000'000; });
  for (std::uint64_t page = 0; page < 2048; ++page) live_->Write(page, 1);
  const auto begin = std::chrono::steady_clock::now();
  ASSERT_TRUE(copy_->CopyRounds().ok());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, 90ms) << "8 MiB at 80 MB/s take 105 ms";
}

TEST_F(LiveCopyTest, PagesAreCompressedWhereTheLinkIsSlowerThanTheCodec) {
  for (const std::size_t streams : {1u, 2u}) {
    Open(48 << 20, streams, [&](LiveCopy::Options& options) { options.bytes_per_second = 30'000'000; });
    for (std::uint64_t page = 0; page < 8000; ++page) live_->Write(page, static_cast<std::uint8_t>(page * 7 + 1));
    ASSERT_TRUE(copy_->CopyRounds().ok());
    live_->Write(5, 77);
    Finish();
    ExpectSame();
    EXPECT_LT(copy_->bytes_sent(), 8000 * kPageBytes / 2) << "a few MiB as they are, to measure the link";
    TearDown();
  }
}

TEST_F(LiveCopyTest, AbortEndsARoundThatIsUnderWay) {
  Open(32 << 20, 1, [&](LiveCopy::Options& options) { options.bytes_per_second = 200'000'000; });
  for (std::uint64_t page = 0; page < 8192; ++page) live_->Write(page, 1);
  std::thread aborting([&] { copy_->Abort(); });
  const Status copied = copy_->CopyRounds();
  aborting.join();
  ASSERT_FALSE(copied.ok());
  EXPECT_EQ(copied.error().code, ErrorCode::kAborted);
}

TEST_F(LiveCopyTest, TheTokenIsAnsweredOnTheSameStream) {
  Open(1 << 20);
  ASSERT_TRUE(copy_->CopyRounds().ok());
  Finish();
  serving_ = std::thread([this] {
    const auto arrived = receiver_->Serve();
    EXPECT_TRUE(arrived.ok() && std::holds_alternative<PageReceiver::TokenArrived>(*arrived));
    EXPECT_TRUE(receiver_->Reply(false, "its lease ended").ok());
  });
  ASSERT_TRUE(copy_->SendToken().ok());
  const auto reply = copy_->AwaitReply(0us);
  ASSERT_TRUE(reply.ok());
  EXPECT_FALSE(reply->accepted);
  EXPECT_EQ(reply->reason, "its lease ended");
}

// A source that breaks the protocol.
class PageReceiverTest : public ::testing::Test {
 protected:
  PageReceiverTest() {
    std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories;
    memories.push_back(std::make_unique<FakeArrivingMemory>(1 << 20, 2 << 20));
    auto receiver = PageReceiver::Create("127.0.0.1", {As("csd1"), kId, model::Epoch{4}, model::DeviceName("host0"), 1, 100}, std::move(memories));
    receiver_ = std::move(receiver).value();
  }
  // What Open, or then Serve, says after these bytes.
  Error After(std::vector<PageHead> heads, const std::string& hello = "m-1", std::uint64_t version = kPageStreamVersion) {
    std::thread source([&, port = receiver_->port()] {
      auto stream = transport::RawStream::Connect("127.0.0.1", port, As("host0"));
      ASSERT_TRUE(stream.ok());
      PageHead head{PageKind::kHello, 0, version, 4, hello.size()};
      heads.insert(heads.begin(), head);
      for (const PageHead& one : heads) {
        static_cast<void>((*stream)->Write({reinterpret_cast<const std::uint8_t*>(&one), sizeof one}).ok());
        if (one.kind == PageKind::kHello) static_cast<void>((*stream)->Write({reinterpret_cast<const std::uint8_t*>(hello.data()), hello.size()}).ok());
      }
      std::uint8_t end;
      static_cast<void>((*stream)->Read({&end, 1}).ok());
    });
    Status open = receiver_->Open();
    std::optional<Error> error;
    if (!open.ok()) error = open.error();
    else if (auto served = receiver_->Serve(); !served.ok()) error = served.error();
    receiver_.reset();
    source.join();
    EXPECT_TRUE(error) << "nothing was wrong";
    return error.value_or(Error{});
  }
  const model::MigrationId kId{"m-1"};
  std::unique_ptr<PageReceiver> receiver_;
};

TEST_F(PageReceiverTest, RefusesAStreamOfAnotherMigration) { EXPECT_EQ(After({}, "m-2").code, ErrorCode::kPermissionDenied); }
TEST_F(PageReceiverTest, RefusesAnotherVersion) { EXPECT_EQ(After({}, "m-1", 9).code, ErrorCode::kUnsupported); }
TEST_F(PageReceiverTest, RefusesPagesOutsideTheMemory) {
  EXPECT_EQ(After({{PageKind::kPages, 0, 255, 2, 2 * kPageBytes}}).code, ErrorCode::kCorrupt);
}
TEST_F(PageReceiverTest, RefusesPagesWhosePlaceOverflows) {
  EXPECT_EQ(After({{PageKind::kInitial, 0, ~0ull, 2, 0}}).code, ErrorCode::kCorrupt);
}
TEST_F(PageReceiverTest, RefusesAMemoryThatWasNotAnnounced) {
  EXPECT_EQ(After({{PageKind::kPages, 1, 0, 1, kPageBytes}}).code, ErrorCode::kCorrupt);
}
TEST_F(PageReceiverTest, RefusesABlockLargerThanABlock) {
  EXPECT_EQ(After({{PageKind::kPages, 0, 0, 1, 2 * kPageBytes}}).code, ErrorCode::kCorrupt);
}
TEST_F(PageReceiverTest, RefusesToGrowPastTheMemorysLimit) {
  EXPECT_EQ(After({{PageKind::kSize, 0, 0, 4 << 20, 0}}).code, ErrorCode::kResourceExhausted);
}
TEST_F(PageReceiverTest, RefusesAStateLargerThanPrepared) {
  EXPECT_EQ(After({{PageKind::kState, 0, 0, 0, 101}}).code, ErrorCode::kResourceExhausted);
}
TEST_F(PageReceiverTest, RefusesHeadsItDoesNotKnow) {
  EXPECT_EQ(After({{static_cast<PageKind>(99), 0, 0, 0, 0}}).code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace godwit::migration
