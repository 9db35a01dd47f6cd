#include "migration/page_tracker.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <span>
#include <thread>

#include <sys/socket.h>
#include <unistd.h>

#include "migration/memory_fixture.h"
#include "migration/protect_tracker.h"
#include "runtime/into_guest.h"

namespace godwit::migration {
namespace {

constexpr std::uint64_t kBytes = 4 << 20, kPages = kBytes / kPageBytes;

// Every kind that this machine has.
class PageTrackerTest : public ::testing::TestWithParam<TrackerKind> {
 protected:
  void SetUp() override {
    auto made = CreateTracker(GetParam(), memory_.base(), kBytes);
    if (!made.ok() && made.error().code == ErrorCode::kUnsupported) GTEST_SKIP() << made.error().message;
    ASSERT_TRUE(made.ok()) << made.error().message;
    tracker_ = std::move(made).value();
  }
  std::vector<PageRange> Harvest() {
    std::vector<PageRange> ranges;
    const Status harvested = tracker_->Harvest(0, kBytes, ranges);
    EXPECT_TRUE(harvested.ok()) << (harvested.ok() ? "" : harvested.error().message);
    return ranges;
  }
  static bool Covers(const std::vector<PageRange>& ranges, std::uint64_t page) {
    return std::any_of(ranges.begin(), ranges.end(),
                       [&](const PageRange& range) { return page >= range.first && page < range.first + range.count; });
  }
  static std::uint64_t Count(const std::vector<PageRange>& ranges) {
    std::uint64_t pages = 0;
    for (const PageRange& range : ranges) pages += range.count;
    return pages;
  }
  // Units of this kind, in pages.
  static std::uint64_t Unit() { return GetParam() == TrackerKind::kProtect ? 16 : 1; }
  void Write(std::uint64_t page, std::uint8_t value = 1) {
    static_cast<volatile std::uint8_t*>(memory_.base())[page * kPageBytes + 7] = value;
  }

  MappedBytes memory_{kBytes};
  std::unique_ptr<PageTracker> tracker_;
};

TEST_P(PageTrackerTest, ReportsWhatWasWrittenSinceTheLastHarvestAndNothingElse) {
  Write(3);
  Write(500);
  const auto first = Harvest();
  EXPECT_TRUE(Covers(first, 3));
  EXPECT_TRUE(Covers(first, 500));
  EXPECT_TRUE(Harvest().empty());
  Write(500);
  Write(501);
  Write(900);
  const auto second = Harvest();
  EXPECT_TRUE(Covers(second, 500));
  EXPECT_TRUE(Covers(second, 501));
  EXPECT_TRUE(Covers(second, 900));
  EXPECT_FALSE(Covers(second, 3));
  EXPECT_LE(Count(second), 3 * Unit());
  EXPECT_TRUE(Harvest().empty());
  EXPECT_EQ(memory_.base()[900 * kPageBytes + 7], 1) << "the write itself took effect";
}

TEST_P(PageTrackerTest, SeesTheFirstWriteToAPageThatDidNotExist) {
  Write(0);
  Harvest();
  Write(700);
  const auto second = Harvest();
  EXPECT_TRUE(Covers(second, 700));
  EXPECT_LE(Count(second), std::max<std::uint64_t>(Unit(), 64)) << "pages that do not exist are not reported";
  EXPECT_TRUE(Harvest().empty());
}

TEST_P(PageTrackerTest, ReadsAreNotReported) {
  for (std::uint64_t page = 0; page < kPages; ++page) Write(page);
  EXPECT_EQ(Count(Harvest()), kPages);
  std::uint64_t sum = 0;
  for (std::uint64_t page = 0; page < kPages; ++page) sum += static_cast<volatile std::uint8_t*>(memory_.base())[page * kPageBytes + 7];
  EXPECT_EQ(sum, kPages);
  EXPECT_TRUE(Harvest().empty());
}

TEST_P(PageTrackerTest, LosesNoWriteOfAThreadThatNeverPauses) {
  // Each page counts upwards; what was harvested last must be at least what a copy made right after the harvest showed.
  std::atomic<bool> stop{false};
  std::vector<std::uint32_t> copy(kPages);
  auto* counters = reinterpret_cast<std::atomic<std::uint32_t>*>(memory_.base());
  constexpr std::uint64_t kStride = kPageBytes / sizeof(std::uint32_t);
  std::thread writer([&] {
    for (std::uint64_t i = 1; !stop.load(); ++i) counters[i * 2654435761u % kPages * kStride].fetch_add(1);
  });
  const auto take = [&](const std::vector<PageRange>& ranges) {
    for (const PageRange& range : ranges) {
      for (std::uint64_t page = range.first; page < range.first + range.count; ++page) copy[page] = counters[page * kStride].load();
    }
  };
  for (int round = 0; round < 30; ++round) take(Harvest());
  stop.store(true);
  writer.join();
  take(Harvest());
  for (std::uint64_t page = 0; page < kPages; ++page) ASSERT_EQ(copy[page], counters[page * kStride].load()) << page;
}

TEST_P(PageTrackerTest, WhatAHostCallHasTheKernelWriteIsThereAndReported) {
  constexpr std::size_t kReceived = 6 * kPageBytes + 5;
  for (std::uint64_t page = 0; page < kPages; ++page) Write(page);
  Harvest();
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const std::vector<std::uint8_t> sent(kReceived, 77);
  ASSERT_EQ(write(pair[0], sent.data(), sent.size()), static_cast<ssize_t>(kReceived));
  const std::span to(memory_.base() + 200 * kPageBytes + 9, kReceived);
  for (std::size_t done = 0; done < kReceived;) {
    const auto rest = to.subspan(done);
    const ssize_t got = runtime::IntoGuest(rest, [&] { return read(pair[1], rest.data(), rest.size()); });
    ASSERT_GT(got, 0) << std::strerror(errno);
    done += static_cast<std::size_t>(got);
  }
  EXPECT_TRUE(std::equal(sent.begin(), sent.end(), to.begin()));
  const auto written = Harvest();
  for (std::uint64_t page = 200; page <= 206; ++page) EXPECT_TRUE(Covers(written, page)) << page;
  EXPECT_FALSE(Covers(written, 400));
  close(pair[0]);
  close(pair[1]);
}

TEST_P(PageTrackerTest, PagesAreFreeWhenItIsGone) {
  Write(9);
  Harvest();
  tracker_.reset();
  Write(9, 5);
  EXPECT_EQ(memory_.base()[9 * kPageBytes + 7], 5);
}

TEST_P(PageTrackerTest, OnlyTheRangeThatWasAskedForIsWatched) {
  Write(3);
  Write(800);
  std::vector<PageRange> ranges;
  ASSERT_TRUE(tracker_->Harvest(0, kBytes / 2, ranges).ok());
  EXPECT_TRUE(Covers(ranges, 3));
  EXPECT_FALSE(Covers(ranges, 800));
  ranges.clear();
  ASSERT_TRUE(tracker_->Harvest(kBytes / 2, kBytes, ranges).ok());
  EXPECT_TRUE(Covers(ranges, 800)) << "written before it was watched";
}

INSTANTIATE_TEST_SUITE_P(AllKinds, PageTrackerTest, ::testing::Values(TrackerKind::kWriteProtect, TrackerKind::kProtect),
                         [](const auto& info) { return std::string(ToString(info.param)); });

TEST(ProtectTrackerTest, ManyMemoriesAtOnceUpToALimit) {
  MappedBytes memory(1 << 20);
  std::vector<std::unique_ptr<PageTracker>> trackers;
  for (std::size_t i = 0; i < kProtectTrackersMax; ++i) {
    auto made = CreateProtectTracker(memory.base(), memory.bytes());
    ASSERT_TRUE(made.ok());
    trackers.push_back(std::move(made).value());
  }
  EXPECT_EQ(CreateProtectTracker(memory.base(), memory.bytes()).error().code, ErrorCode::kResourceExhausted);
  trackers.pop_back();
  EXPECT_TRUE(CreateProtectTracker(memory.base(), memory.bytes()).ok());
}

TEST(WriteProtectTrackerTest, SeesWhatTheKernelWrites) {
  MappedBytes memory(1 << 20);
  auto tracker = CreateTracker(TrackerKind::kWriteProtect, memory.base(), memory.bytes());
  if (!tracker.ok()) GTEST_SKIP() << tracker.error().message;
  std::memset(memory.base(), 1, memory.bytes());
  std::vector<PageRange> ranges;
  ASSERT_TRUE((*tracker)->Harvest(0, memory.bytes(), ranges).ok());
  int ends[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
  ASSERT_EQ(write(ends[0], "guest", 5), 5);
  ASSERT_EQ(read(ends[1], memory.base() + 20 * kPageBytes, 5), 5);
  close(ends[0]);
  close(ends[1]);
  ranges.clear();
  ASSERT_TRUE((*tracker)->Harvest(0, memory.bytes(), ranges).ok());
  EXPECT_EQ(ranges, (std::vector<PageRange>{{20, 1}}));
}

TEST(PageTrackerProbe, FindsAKindThatCanBeCreated) {
  const TrackerKind kind = ProbeTracker();
  EXPECT_NE(kind, TrackerKind::kNone) << "mprotect works everywhere";
  MappedBytes memory(1 << 20);
  EXPECT_EQ(CreateTracker(kind, memory.base(), memory.bytes()).ok(), kind != TrackerKind::kNone);
  EXPECT_EQ(CreateTracker(TrackerKind::kNone, memory.base(), memory.bytes()).error().code, ErrorCode::kUnsupported);
}

}  // namespace
}  // namespace godwit::migration
