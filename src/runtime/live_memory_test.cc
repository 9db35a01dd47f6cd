#include "runtime/live_memory.h"

#include <gtest/gtest.h>

#include <cstring>

#include "runtime/guest_fixture.h"
#include "snapshot/snapshot.h"

namespace godwit::runtime {
namespace {

constexpr std::uint64_t kPage = snapshot::kPageBytes;

using namespace test;  // NOLINT: the fixture's vocabulary.

class LiveMemoryTest : public ::testing::Test {
 protected:
  std::unique_ptr<Instance> Make() {
    auto created = Instance::Create(LoadGuest(), {std::make_shared<TestHost>()}, {});
    EXPECT_TRUE(created.ok()) << created.error().message;
    return std::move(created).value();
  }
  static std::unique_ptr<ArrivingMemory> Arriving(std::uint64_t bytes, const Limits& limits = {}) {
    auto created = ArrivingMemory::Create(LoadGuest(), limits, {bytes});
    EXPECT_TRUE(created.ok()) << created.error().message;
    return std::move(created).value();
  }
  std::uint8_t* memory() { return instance->context()->memory; }
  std::uint64_t bytes() { return instance->context()->memory_bytes; }

  std::unique_ptr<Instance> instance = Make();
};

TEST_F(LiveMemoryTest, AMemoryThatArrivedAheadBecomesTheInstances) {
  memory()[2 * kPage + 5] = 1;
  memory()[3 * kPage] = 2;
  const auto live = instance->memory();
  ASSERT_TRUE(live);
  EXPECT_EQ(live->bytes(), bytes());
  auto arriving = Arriving(bytes());
  int sent = 0;
  for (std::uint64_t page = 0; page < live->bytes() / kPage; ++page) {
    if (live->AsInitial(page)) continue;
    arriving->Populate(page, 1);
    std::memcpy(arriving->base() + page * kPage, live->base() + page * kPage, kPage);
    ++sent;
  }
  EXPECT_EQ(sent, 2) << "untouched pages and those of the initial image are at the target already";
  const auto snapshot = instance->Capture(Instance::Pages::kElsewhere);
  ASSERT_TRUE(snapshot.ok());
  EXPECT_TRUE(snapshot->memories.at(0).runs.empty());
  auto restored = Instance::Restore(LoadGuest(), {std::make_shared<TestHost>()}, {}, *snapshot, std::move(arriving));
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  ASSERT_EQ((*restored)->context()->memory_bytes, bytes());
  EXPECT_EQ(std::memcmp((*restored)->context()->memory, memory(), bytes()), 0);
}

TEST_F(LiveMemoryTest, PagesStayMappedWhenTheInstanceIsGone) {
  memory()[kPage] = 7;
  const auto live = instance->memory();
  instance.reset();
  EXPECT_EQ(live->base()[kPage], 7);
}

TEST_F(LiveMemoryTest, AResetPageIsAsTheModuleHasIt) {
  const auto live = instance->memory();
  auto arriving = Arriving(bytes());
  std::memset(arriving->base(), 0xee, bytes());
  arriving->Reset(0, bytes() / kPage);
  EXPECT_EQ(std::memcmp(arriving->base(), live->base(), bytes()), 0);
}

TEST_F(LiveMemoryTest, AnArrivingMemoryGrowsUpToItsLimitAndNoFurther) {
  Limits limits;
  limits.memory_max = {bytes() + 65536};
  auto arriving = Arriving(bytes(), limits);
  EXPECT_TRUE(arriving->GrowTo({bytes() + 65536}).ok());
  EXPECT_EQ(arriving->GrowTo({bytes() + 2 * 65536}).error().code, ErrorCode::kResourceExhausted);
  EXPECT_EQ(arriving->bytes(), bytes() + 65536);
  EXPECT_EQ(ArrivingMemory::Create(LoadGuest(), {}, {0}).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(LiveMemoryTest, AMemoryLargerThanItsSnapshotSaysIsRefused) {
  const auto snapshot = instance->Capture(Instance::Pages::kElsewhere);
  ASSERT_TRUE(snapshot.ok());
  auto arriving = Arriving(bytes() + 65536);
  const auto restored = Instance::Restore(LoadGuest(), {std::make_shared<TestHost>()}, {}, *snapshot, std::move(arriving));
  ASSERT_FALSE(restored.ok());
  EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt);
}

TEST_F(LiveMemoryTest, ANapDelaysTheNextSafepointOnceAndAStopEndsIt) {
  using Clock = std::chrono::steady_clock;
  const std::int64_t rounds = 1000;
  Cell argument{};
  std::memcpy(argument.data(), &rounds, sizeof rounds);
  const auto task = instance->Start(kSum, std::span(&argument, 1));
  ASSERT_TRUE(task.ok());
  instance->Nap(std::chrono::milliseconds(20));
  const auto begin = Clock::now();
  EXPECT_TRUE(std::holds_alternative<Returned>(instance->Run(*task)));
  EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(20));
  EXPECT_EQ(instance->context()->state.load(), 0u) << "the guest runs at full speed again";

  const auto stopped = instance->Start(kSum, std::span(&argument, 1));
  ASSERT_TRUE(stopped.ok());
  instance->Nap(kNapMax);
  instance->RequestStop();
  EXPECT_TRUE(std::holds_alternative<Captured>(instance->Run(*stopped)));
}

}  // namespace
}  // namespace godwit::runtime
