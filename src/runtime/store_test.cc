#include "runtime/store.h"

#include <gtest/gtest.h>

#include <cstring>
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

TEST_F(StoreTest, ItsInstancesCannotBeCapturedAndSayWhy) {
  const auto snapshot = Make().Capture();
  ASSERT_FALSE(snapshot.ok());
  EXPECT_EQ(snapshot.error().code, ErrorCode::kUnsupported);
  EXPECT_NE(snapshot.error().message.find("linked"), std::string::npos);
}

TEST_F(StoreTest, AStopPassesItsInstancesBy) {
  Instance& instance = Make();
  instance.RequestStop();
  instance.StopEvery(1);
  EXPECT_EQ(ResultOf(Call(instance, kSum, {1000})), 1000 * 999 / 2);
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
