#include "runtime/store.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <span>
#include <thread>

#include "runtime/guest_fixture.h"

namespace godwit::runtime {
namespace {

using namespace test;  // NOLINT: the fixture's vocabulary.

// What instances give each other is tested by the specification's scripts (tests/spec); here is what they do not know.
class StoreTest : public ::testing::Test {
 protected:
  Instance& Make() {
    auto made = store->Instantiate(LoadGuest(), {std::make_shared<TestHost>()}, {});
    EXPECT_TRUE(made.ok()) << made.error().message;
    return **made;
  }

  static Outcome Call(Instance& instance, std::uint32_t function, std::vector<std::int64_t> arguments) {
    std::vector<Cell> cells;
    for (std::int64_t argument : arguments) std::memcpy(cells.emplace_back().data(), &argument, sizeof argument);
    auto task = instance.Start(function, cells);
    EXPECT_TRUE(task.ok()) << task.error().message;
    return instance.Run(*task);
  }

  static std::int64_t ResultOf(const Outcome& outcome) {
    std::int64_t value = -1;
    if (const auto* returned = std::get_if<Returned>(&outcome)) std::memcpy(&value, returned->results.at(0).data(), sizeof value);
    return value;
  }

  static TaskId MustStart(Instance& instance, std::uint32_t function, std::int64_t argument) {
    Cell cell{};
    std::memcpy(cell.data(), &argument, sizeof argument);
    auto task = instance.Start(function, std::span(&cell, 1));
    EXPECT_TRUE(task.ok()) << task.error().message;
    return *task;
  }
  std::vector<snapshot::Snapshot> MustCapture() {
    auto captured = store->Capture();
    EXPECT_TRUE(captured.ok()) << captured.error().message;
    return std::move(captured).value();
  }
  static Result<std::unique_ptr<Store>> Restore(const std::vector<snapshot::Snapshot>& snapshots) {
    std::vector<Store::Part> parts;
    for (const snapshot::Snapshot& snapshot : snapshots) parts.push_back({LoadGuest(), {std::make_shared<TestHost>()}, {}, &snapshot});
    return Store::Restore(std::move(parts));
  }

  std::unique_ptr<Store> store = std::move(Store::Create()).value();
};

TEST_F(StoreTest, EachInstanceHasReferencesOfItsOwnInOneTable) {
  Instance &one = Make(), &two = Make();
  EXPECT_EQ(one.context()->functions, two.context()->functions);
  EXPECT_EQ(two.context()->function_base, one.context()->function_base + kFunctionCount);
  for (Instance* instance : {&one, &two}) {  // Element 1 of its table is "double".
    EXPECT_EQ(static_cast<std::int32_t>(ResultOf(Call(*instance, kCallIndirect, {1, 21}))), 42);
  }
}

TEST_F(StoreTest, OneInstanceIsNotCapturedAlone) {
  const auto snapshot = Make().Capture();
  ASSERT_FALSE(snapshot.ok());
  EXPECT_EQ(snapshot.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(snapshot.error().message.find("together"), std::string::npos);
}

TEST_F(StoreTest, AStoppedCallGoesOnInAStoreThatWasRestored) {
  Instance &one = Make(), &two = Make();
  store->Register("one", one);
  EXPECT_EQ(ResultOf(Call(two, kDouble, {4})), 8);
  two.RequestStop();  // Stops all of them, whoever is asked.
  const TaskId task = MustStart(one, kSum, 1000);
  ASSERT_TRUE(std::holds_alternative<Captured>(one.Run(task)));
  const std::vector<snapshot::Snapshot> snapshots = MustCapture();
  two.WithdrawStop();
  auto restored = Restore(snapshots);
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  ASSERT_EQ((*restored)->instances().size(), 2u);
  Instance& again = *(*restored)->instances()[0];
  EXPECT_EQ(ResultOf(again.Run(task)), 1000 * 999 / 2);
  EXPECT_EQ(ResultOf(one.Run(task)), 1000 * 999 / 2);
}

TEST_F(StoreTest, TwoCallsThatHaveBegunAreNotCaptured) {
  Instance &one = Make(), &two = Make();
  MustStart(one, kSum, 10);
  MustStart(two, kSum, 10);
  const auto snapshots = store->Capture();
  ASSERT_FALSE(snapshots.ok());
  EXPECT_EQ(snapshots.error().code, ErrorCode::kFailedPrecondition);
}

TEST_F(StoreTest, ADamagedRecordOfLinksIsRefused) {
  Instance& one = Make();
  store->Register("one", one);
  one.RequestStop();
  const TaskId task = MustStart(one, kSum, 1000);
  ASSERT_TRUE(std::holds_alternative<Captured>(one.Run(task)));
  const std::vector<snapshot::Snapshot> good = MustCapture();
  ASSERT_TRUE(Restore(good).ok());
  const auto refused = [&](const std::function<void(Bytes&)>& damage) {
    std::vector<snapshot::Snapshot> bad = good;
    for (snapshot::HostState& state : bad[0].host_states) {
      if (state.module == "godwit:linked") damage(state.bytes);
    }
    const auto restored = Restore(bad);
    ASSERT_FALSE(restored.ok());
    EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt) << restored.error().message;
  };
  refused([](Bytes& bytes) { bytes.pop_back(); });
  refused([](Bytes& bytes) { bytes.push_back(0); });
  refused([](Bytes& bytes) { bytes[7] = 0x80; });                  // So many providers there are not.
  refused([](Bytes& bytes) { bytes[8] = 1; });                     // A provider that is not older.
  refused([](Bytes& bytes) { bytes[bytes.size() - 16] = 1; });     // Frames of a second instance.
  refused([](Bytes& bytes) { bytes[bytes.size() - 8] = 0; });      // Frames that end where they begin.
  std::vector<snapshot::Snapshot> without = good;
  std::erase_if(without[0].host_states, [](const auto& state) { return state.module == "godwit:linked"; });
  EXPECT_EQ(Restore(without).error().code, ErrorCode::kCorrupt);
}

TEST_F(StoreTest, CancelEndsACallThatMayBeInAnotherInstance) {
  Instance &one = Make(), &two = Make();
  auto task = one.Start(kSpin, {});
  ASSERT_TRUE(task.ok());
  std::thread canceller([&] { two.Cancel(); });  // As if one's call had led into two: the bit is set in both.
  const Outcome outcome = one.Run(*task);
  canceller.join();
  ASSERT_TRUE(std::holds_alternative<Trapped>(outcome));
  EXPECT_EQ(std::get<Trapped>(outcome).code, abi::TrapCode::kCancelled);
  EXPECT_EQ(two.context()->state.load() & abi::kCancel, 0u);
}

TEST_F(StoreTest, AFaultIsAttributedToTheInstanceThatRuns) {
  Instance &one = Make(), &two = Make();
  for (Instance* instance : {&one, &two}) {
    const Outcome outcome = Call(*instance, kLoad, {-16});
    ASSERT_TRUE(std::holds_alternative<Trapped>(outcome));
    EXPECT_EQ(std::get<Trapped>(outcome).code, abi::TrapCode::kMemoryOutOfBounds);
  }
}

}  // namespace
}  // namespace godwit::runtime
