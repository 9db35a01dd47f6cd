#include "runtime/instance.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <cstring>
#include <thread>

#include "runtime/guest_fixture.h"

namespace godwit::runtime {
namespace {

using namespace test;  // NOLINT: the fixture's vocabulary.

template <typename T>
Cell AsCell(T value) {
  Cell cell{};
  std::memcpy(cell.data(), &value, sizeof value);
  return cell;
}

template <typename T>
T FromCell(const Cell& cell) {
  T value;
  std::memcpy(&value, cell.data(), sizeof value);
  return value;
}

class InstanceTest : public ::testing::Test {
 protected:
  void SetUp() override { instance = MustCreate({}); }

  std::unique_ptr<Instance> MustCreate(const Limits& limits) {
    auto created = Instance::Create(LoadGuest(), {host}, limits);
    EXPECT_TRUE(created.ok()) << created.error().message;
    return std::move(created).value();
  }

  TaskId MustStart(std::uint32_t function, std::vector<Cell> arguments) {
    auto task = instance->Start(function, arguments);
    EXPECT_TRUE(task.ok()) << task.error().message;
    return task.value();
  }

  Outcome Call(std::uint32_t function, std::vector<Cell> arguments = {}) {
    return instance->Run(MustStart(function, std::move(arguments)));
  }

  // Captures the instance and goes on in a new one.
  void MoveToNewInstance(const Limits& limits = {}) {
    auto snapshot = instance->Capture();
    ASSERT_TRUE(snapshot.ok()) << snapshot.error().message;
    auto new_host = std::make_shared<TestHost>();
    new_host->ready = host->ready;
    auto restored = Instance::Restore(LoadGuest(), {new_host}, limits, snapshot.value());
    ASSERT_TRUE(restored.ok()) << restored.error().message;
    instance = std::move(restored).value();
    host = std::move(new_host);
  }

  template <typename T>
  static T ResultOf(const Outcome& outcome) {
    const auto* returned = std::get_if<Returned>(&outcome);
    if (returned == nullptr) {
      const auto* trapped = std::get_if<Trapped>(&outcome);
      ADD_FAILURE() << "outcome " << outcome.index() << (trapped != nullptr ? ": " + trapped->message : "");
      return {};
    }
    EXPECT_EQ(returned->results.size(), 1u);
    return FromCell<T>(returned->results.at(0));
  }

  static Trapped TrapOf(const Outcome& outcome) {
    const auto* trapped = std::get_if<Trapped>(&outcome);
    if (trapped == nullptr) {
      ADD_FAILURE() << "outcome " << outcome.index() << " is no trap";
      return {};
    }
    return *trapped;
  }

  bool WakeFdIsReadable() {
    pollfd fd{instance->wake_fd(), POLLIN, 0};
    return poll(&fd, 1, 0) == 1;
  }

  std::uint8_t* memory() { return instance->context()->memory; }

  std::shared_ptr<TestHost> host = std::make_shared<TestHost>();
  std::unique_ptr<Instance> instance;
};

// 0 + 1 + ... + n - 1.
std::int64_t Sum(std::int64_t n) { return n * (n - 1) / 2; }

TEST_F(InstanceTest, ReturnsWhatTheFunctionReturns) {
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kSum, {AsCell<std::int64_t>(1000)})), Sum(1000));
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kDouble, {AsCell(21)})), 42);
}

TEST_F(InstanceTest, FindsExportedFunctionsByName) {
  EXPECT_EQ(instance->FindFunction("sum_twice").value(), kSumTwice);
  EXPECT_EQ(instance->FindFunction("nowhere").error().code, ErrorCode::kNotFound);
}

TEST_F(InstanceTest, RefusesCallsThatDoNotFit) {
  EXPECT_EQ(instance->Start(kSum, {}).error().code, ErrorCode::kInvalidArgument);
  EXPECT_EQ(instance->Start(kFunctionCount, {}).error().code, ErrorCode::kInvalidArgument);
}

TEST_F(InstanceTest, NamesAMissingImport) {
  const auto created = Instance::Create(LoadGuest(), {}, {});
  ASSERT_FALSE(created.ok());
  EXPECT_EQ(created.error().code, ErrorCode::kInvalidArgument);
  EXPECT_NE(created.error().message.find("test.double"), std::string::npos);
}

TEST_F(InstanceTest, BeginsWithTheModulesDataAndNothingElse) {
  EXPECT_EQ(std::memcmp(memory() + kDataOffset, kActiveData.data(), kActiveData.size()), 0);
  EXPECT_EQ(memory()[0], 0);
  EXPECT_EQ(instance->context()->memory_bytes, kMemoryPages * abi::kWasmPageBytes);
}

// --- Traps ---

TEST_F(InstanceTest, AnAccessOutsideMemoryIsATrapThatNamesTheFunction) {
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kLoad, {AsCell(0)})), 0);
  for (const std::uint32_t address : {static_cast<std::uint32_t>(kMemoryPages * abi::kWasmPageBytes), 0xffffffffu}) {
    const Trapped trapped = TrapOf(Call(kLoad, {AsCell(address)}));
    EXPECT_EQ(trapped.code, abi::TrapCode::kMemoryOutOfBounds);
    EXPECT_EQ(trapped.function, "load");
    EXPECT_EQ(trapped.message, "out of bounds memory access in func[7] (load)");
  }
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kSum, {AsCell<std::int64_t>(10)})), Sum(10));
}

TEST_F(InstanceTest, TrapsOfTheCodeCarryTheirNames) {
  EXPECT_EQ(TrapOf(Call(kDivide, {AsCell(1), AsCell(0)})).message, "integer divide by zero in func[9] (divide)");
  EXPECT_EQ(TrapOf(Call(kUnreachable)).code, abi::TrapCode::kUnreachable);
  EXPECT_EQ(TrapOf(Call(kUnreachable)).function, "unreachable");
}

TEST_F(InstanceTest, RecursionWithoutEndIsAStackOverflow) {
  for (int i = 0; i < 3; ++i) {
    const Trapped trapped = TrapOf(Call(kRecurse, {AsCell(0)}));
    EXPECT_EQ(trapped.code, abi::TrapCode::kStackOverflow);
    EXPECT_EQ(trapped.function, "recurse");
  }
}

TEST_F(InstanceTest, AStackThatEndsInsideAHostFunctionIsAStackOverflowToo) {
  for (int i = 0; i < 3; ++i) {
    const Trapped trapped = TrapOf(Call(kRecurseIntoHost));
    EXPECT_EQ(trapped.code, abi::TrapCode::kStackOverflow);
  }
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kSum, {AsCell<std::int64_t>(10)})), Sum(10));
}

TEST_F(InstanceTest, HostFunctionsTrapAndExit) {
  const Trapped trapped = TrapOf(Call(kFail));
  EXPECT_EQ(trapped.code, abi::TrapCode::kHostFailure);
  EXPECT_EQ(trapped.message.find("the disk is on fire"), 0u) << trapped.message;
  const Outcome outcome = Call(kExit, {AsCell(7)});
  ASSERT_TRUE(std::holds_alternative<Exited>(outcome));
  EXPECT_EQ(std::get<Exited>(outcome).code, 7u);
}

TEST_F(InstanceTest, TrapsWorkOnEveryThreadThatOwnsTheInstance) {
  std::thread([&] {
    EXPECT_EQ(TrapOf(Call(kLoad, {AsCell(~0u)})).code, abi::TrapCode::kMemoryOutOfBounds);
    EXPECT_EQ(TrapOf(Call(kRecurse, {AsCell(0)})).code, abi::TrapCode::kStackOverflow);
  }).join();
  EXPECT_EQ(TrapOf(Call(kLoad, {AsCell(~0u)})).code, abi::TrapCode::kMemoryOutOfBounds);
}

// --- Memory and tables ---

TEST_F(InstanceTest, MemoryGrowsToItsMaximumAndNotPast) {
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell(2)})), kMemoryPages);
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kLoad, {AsCell<std::uint32_t>(kMemoryPages * abi::kWasmPageBytes)})), 0);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell<std::uint32_t>(kMemoryPagesMax)})), ~0u);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell<std::uint32_t>(kMemoryPagesMax - kMemoryPages - 2)})), kMemoryPages + 2);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell(1)})), ~0u);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell(0)})), kMemoryPagesMax);
}

TEST_F(InstanceTest, TheManifestsMemoryLimitHoldsBelowTheModulesMaximum) {
  Limits limits;
  limits.memory_max = {(kMemoryPages + 1) * abi::kWasmPageBytes};
  instance = MustCreate(limits);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell(1)})), kMemoryPages);
  EXPECT_EQ(ResultOf<std::uint32_t>(Call(kGrow, {AsCell(1)})), ~0u);
  limits.memory_max = {(kMemoryPages - 1) * abi::kWasmPageBytes};
  EXPECT_EQ(Instance::Create(LoadGuest(), {host}, limits).error().code, ErrorCode::kResourceExhausted);
}

TEST_F(InstanceTest, PassiveSegmentsAreCopiedWithinBounds) {
  const auto size = static_cast<std::uint32_t>(kPassiveData.size());
  EXPECT_TRUE(std::holds_alternative<Returned>(Call(kInit, {AsCell(100), AsCell(0), AsCell(size)})));
  EXPECT_EQ(std::memcmp(memory() + 100, kPassiveData.data(), size), 0);
  EXPECT_EQ(TrapOf(Call(kInit, {AsCell(100), AsCell(1), AsCell(size)})).code, abi::TrapCode::kMemoryOutOfBounds);
  const auto end = static_cast<std::uint32_t>(kMemoryPages * abi::kWasmPageBytes);
  EXPECT_EQ(TrapOf(Call(kInit, {AsCell(end - size + 1), AsCell(0), AsCell(size)})).code, abi::TrapCode::kMemoryOutOfBounds);
}

TEST_F(InstanceTest, IndirectCallsCheckElementAndType) {
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kCallIndirect, {AsCell(1), AsCell(4)})), 8);
  EXPECT_EQ(TrapOf(Call(kCallIndirect, {AsCell(0), AsCell(4)})).code, abi::TrapCode::kIndirectCallToNull);
  EXPECT_EQ(TrapOf(Call(kCallIndirect, {AsCell(2), AsCell(4)})).code, abi::TrapCode::kIndirectCallTypeMismatch);
  EXPECT_EQ(TrapOf(Call(kCallIndirect, {AsCell(9), AsCell(4)})).code, abi::TrapCode::kUndefinedElement);
}

TEST_F(InstanceTest, TablesGrowToTheirMaximumAndCheckBounds) {
  EXPECT_EQ(TrapOf(Call(kTableOps, {AsCell(4), AsCell(0)})).code, abi::TrapCode::kTableOutOfBounds);
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kTableOps, {AsCell(7), AsCell(4)})), 0);
  EXPECT_EQ(TrapOf(Call(kTableOps, {AsCell(8), AsCell(1)})).code, abi::TrapCode::kTableOutOfBounds);
}

// --- Stopping and resuming ---

TEST_F(InstanceTest, PollingChangesNoRegister) {
  const auto undisturbed = ResultOf<std::int64_t>(Call(kRegisters, {AsCell<std::int64_t>(1000)}));
  instance->StopEvery(1'000'000);
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kRegisters, {AsCell<std::int64_t>(1000)})), undisturbed);
  EXPECT_GE(instance->safepoints_reached(), 1000u);
}

TEST_F(InstanceTest, AStoppedCallGoesOnWhereItWas) {
  instance->RequestStop();
  EXPECT_TRUE(WakeFdIsReadable());
  const TaskId task = MustStart(kSumTwice, {AsCell<std::int64_t>(100)});
  for (int stops = 0; stops < 5; ++stops) {  // Sticky until withdrawn.
    ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(task)));
  }
  instance->WithdrawStop();
  EXPECT_EQ(ResultOf<std::int64_t>(instance->Run(task)), Sum(100) + Sum(50));
}

TEST_F(InstanceTest, AStopFromAnotherThreadReachesARunningGuest) {
  const TaskId task = MustStart(kSpin, {});
  for (int i = 0; i < 20; ++i) {
    std::thread stopper([&] { instance->RequestStop(); });
    EXPECT_TRUE(std::holds_alternative<Captured>(instance->Run(task)));
    stopper.join();
    instance->WithdrawStop();
  }
}

TEST_F(InstanceTest, StoppingAtEverySafepointChangesNoResult) {
  for (const std::uint64_t every : {1, 2, 3, 7}) {
    instance->StopEvery(every);
    const TaskId task = MustStart(kSumTwice, {AsCell<std::int64_t>(60)});
    Outcome outcome = instance->Run(task);
    int stops = 0;
    for (; std::holds_alternative<Captured>(outcome); ++stops) outcome = instance->Run(task);
    EXPECT_EQ(ResultOf<std::int64_t>(outcome), Sum(60) + Sum(30)) << "every " << every;
    EXPECT_GT(stops, 10);
  }
}

TEST_F(InstanceTest, EveryStopCanBeMovedToANewInstance) {
  instance->StopEvery(1);
  const TaskId task = MustStart(kSumTwice, {AsCell<std::int64_t>(20)});
  Outcome outcome = instance->Run(task);
  int moves = 0;
  for (; std::holds_alternative<Captured>(outcome); ++moves) {
    MoveToNewInstance();
    instance->StopEvery(1);
    ASSERT_EQ(instance->tasks(), std::vector<TaskId>{task});
    outcome = instance->Run(task);
  }
  EXPECT_EQ(ResultOf<std::int64_t>(outcome), Sum(20) + Sum(10));
  EXPECT_GT(moves, 30);
}

TEST_F(InstanceTest, DeepStacksAreCapturedAndResumed) {
  constexpr std::int32_t kLevels = 20'000;
  instance->StopEvery(5000);
  const TaskId task = MustStart(kDepth, {AsCell(kLevels)});
  Outcome outcome = instance->Run(task);
  int stops = 0;
  for (; std::holds_alternative<Captured>(outcome); ++stops) {
    MoveToNewInstance();
    instance->StopEvery(5000);
    outcome = instance->Run(task);
  }
  EXPECT_EQ(ResultOf<std::int32_t>(outcome), kLevels);
  EXPECT_GE(stops, 4);
}

TEST_F(InstanceTest, MemoryTablesAndSegmentsTravel) {
  constexpr std::uint32_t kAddress = 3 * 65536 + 100, kCount = 20'000;
  Call(kGrow, {AsCell(3)});
  memory()[kDataOffset] = 0;  // Differs from the initial image.
  std::memset(memory() + 4096, 0, 16);
  instance->StopEvery(7777);
  const TaskId task = MustStart(kFill, {AsCell(kAddress), AsCell(kCount)});
  Outcome outcome = instance->Run(task);
  while (std::holds_alternative<Captured>(outcome)) {
    MoveToNewInstance();
    instance->StopEvery(7777);
    outcome = instance->Run(task);
  }
  EXPECT_EQ(ResultOf<std::int32_t>(outcome), (kAddress & 0xff) | 1);
  EXPECT_EQ(instance->context()->memory_bytes, (kMemoryPages + 3) * abi::kWasmPageBytes);
  EXPECT_EQ(memory()[kDataOffset], 0);
  EXPECT_EQ(memory()[kDataOffset + 1], 'c');
  EXPECT_EQ(memory()[4096], 0);
  EXPECT_EQ(memory()[kAddress - 1], 0);
  EXPECT_EQ(memory()[kAddress + kCount], 0);
  for (std::uint32_t i = 0; i < kCount; ++i) ASSERT_EQ(memory()[kAddress + i], (kAddress & 0xff) | 1) << i;
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kCallIndirect, {AsCell(1), AsCell(4)})), 8);
}

TEST_F(InstanceTest, MemoryMadeReadyAheadOfTimeIsLikeAnyOther) {
  memory()[3] = 7;
  instance->context()->memory[kMemoryPages * abi::kWasmPageBytes - 1] = 7;
  for (const ByteCount ahead : {ByteCount{0}, ByteCount{abi::kWasmPageBytes}, 64_MiB}) {
    Instance::Prepare({}, ahead);
    MoveToNewInstance();
    EXPECT_EQ(memory()[3], 7);
    EXPECT_EQ(memory()[4], 0);
    EXPECT_EQ(memory()[kMemoryPages * abi::kWasmPageBytes - 1], 7);
    const auto end = static_cast<std::uint32_t>(kMemoryPages * abi::kWasmPageBytes);
    EXPECT_EQ(TrapOf(Call(kLoad, {AsCell(end)})).code, abi::TrapCode::kMemoryOutOfBounds);
  }
}

TEST_F(InstanceTest, ANewMemoryHoldsNothingOfAnEarlierOne) {
  Call(kGrow, {AsCell(4)});
  std::memset(memory(), 0x5a, instance->context()->memory_bytes);
  instance.reset();
  instance = MustCreate({});
  Call(kGrow, {AsCell(4)});
  for (std::uint64_t at = 0; at < instance->context()->memory_bytes; at += 512) {
    if (at / 4096 == kDataOffset / 4096 || at / 4096 == kDataOffset / 4096 + 1) continue;
    ASSERT_EQ(memory()[at], 0) << at;
  }
}

TEST_F(InstanceTest, ASnapshotHoldsOnlyPagesThatChanged) {
  auto idle = instance->Capture();
  ASSERT_TRUE(idle.ok());
  EXPECT_TRUE(idle->memories.at(0).runs.empty());
  memory()[2 * 4096 + 5] = 1;
  memory()[3 * 4096] = 1;
  memory()[9 * 4096] = 1;
  auto changed = instance->Capture();
  ASSERT_TRUE(changed.ok());
  const auto& runs = changed->memories.at(0).runs;
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].first_page, 2u);
  EXPECT_EQ(runs[0].bytes.size(), 2 * 4096u);
  EXPECT_EQ(runs[1].first_page, 9u);
}

TEST_F(InstanceTest, ACallThatHasNotBegunTravelsWithItsArguments) {
  const TaskId task = MustStart(kSum, {AsCell<std::int64_t>(100)});
  MoveToNewInstance();
  EXPECT_EQ(ResultOf<std::int64_t>(instance->Run(task)), Sum(100));
}

// --- Blocking ---

TEST_F(InstanceTest, ABlockedCallGivesTheThreadBackUntilItIsReady) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  host->ready = true;
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(task)), 101 + 102);
  EXPECT_EQ(host->attempts, 2u);
}

TEST_F(InstanceTest, AnInterruptedHostCallIsMadeAgainAfterTheMove) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  instance->RequestStop();
  ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(task)));
  MoveToNewInstance();
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  EXPECT_EQ(host->attempts, 1u);
  host->ready = true;
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(task)), 101 + 102);
  EXPECT_EQ(host->waits, 2u);
}

TEST_F(InstanceTest, CaptureStopsABlockedCallByItself) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  MoveToNewInstance();
  host->ready = true;
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(task)), 101 + 102);
}

TEST_F(InstanceTest, TheSourceGoesOnAfterACaptureThatCameToNothing) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  ASSERT_TRUE(instance->Capture().ok());
  host->ready = true;
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(task)), 101 + 102);
}

TEST_F(InstanceTest, AHostModuleThatCannotMoveSaysSo) {
  host->can_move = false;
  const auto snapshot = instance->Capture();
  ASSERT_FALSE(snapshot.ok());
  EXPECT_EQ(snapshot.error().code, ErrorCode::kFailedPrecondition);
  EXPECT_NE(snapshot.error().message.find("test: a handle is pinned"), std::string::npos);
}

TEST_F(InstanceTest, CancelEndsARunningCallAndABlockedOne) {
  const TaskId spinning = MustStart(kSpin, {});
  std::thread canceller([&] { instance->Cancel(); });
  const Trapped trapped = TrapOf(instance->Run(spinning));
  canceller.join();
  EXPECT_EQ(trapped.code, abi::TrapCode::kCancelled);
  EXPECT_EQ(trapped.function, "spin");

  const TaskId waiting = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(waiting)));
  instance->Cancel();
  EXPECT_EQ(TrapOf(instance->Run(waiting)).code, abi::TrapCode::kCancelled);
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kSum, {AsCell<std::int64_t>(10)})), Sum(10));
}

TEST_F(InstanceTest, AnAbandonedCallLeavesNothingBehind) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(task)));
  instance->Abandon(task);
  EXPECT_TRUE(instance->tasks().empty());
  EXPECT_EQ(ResultOf<std::int64_t>(Call(kSum, {AsCell<std::int64_t>(10)})), Sum(10));
}

// --- Several tasks ---

TEST_F(InstanceTest, OneTaskAtATimeUnlessMoreAreAllowed) {
  const TaskId task = MustStart(kWaitSum, {AsCell(1)});
  EXPECT_EQ(instance->Start(kWaitSum, std::vector{AsCell(1)}).error().code, ErrorCode::kResourceExhausted);
  instance->Abandon(task);
  EXPECT_TRUE(instance->Start(kWaitSum, std::vector{AsCell(1)}).ok());
}

TEST_F(InstanceTest, TasksInterleaveWhereTheyBlockEachOnItsOwnStacks) {
  Limits limits;
  limits.tasks_max = 3;
  instance = MustCreate(limits);
  std::vector<TaskId> tasks;
  for (int i = 0; i < 3; ++i) {
    tasks.push_back(MustStart(kOnStack, {AsCell(1000 + i)}));
    ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(tasks.back())));
  }
  MoveToNewInstance(limits);
  host->ready = true;
  for (const int i : {1, 0, 2}) EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(tasks[i])), 1000 + i);
  EXPECT_EQ(ResultOf<std::int32_t>(Call(kOnStack, {AsCell(5)})), 5);
  const std::uint32_t* stack_pointer =
      reinterpret_cast<std::uint32_t*>(reinterpret_cast<std::uint8_t*>(instance->context()) + abi::kGlobalsOffset);
  EXPECT_EQ(*stack_pointer, kStackPointer);
}

TEST_F(InstanceTest, ATaskStoppedInTheMiddleOfItsCodeGoesOnBeforeAnyOther) {
  Limits limits;
  limits.tasks_max = 3;
  instance = MustCreate(limits);
  const TaskId waits = MustStart(kOnStack, {AsCell(77)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(waits)));
  EXPECT_EQ(instance->preempted(), std::nullopt);
  instance->RequestStop();
  const TaskId stopped = MustStart(kSum, {AsCell<std::int64_t>(1000)});
  ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(stopped)));
  ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(waits)));
  EXPECT_EQ(instance->preempted(), stopped);
  MoveToNewInstance(limits);
  EXPECT_EQ(instance->preempted(), stopped);
  host->ready = true;
  const TaskId fresh = MustStart(kSum, {AsCell<std::int64_t>(10)});
  EXPECT_TRUE(std::holds_alternative<Captured>(instance->Run(fresh)));
  EXPECT_TRUE(std::holds_alternative<Captured>(instance->Run(waits)));
  EXPECT_EQ(ResultOf<std::int64_t>(instance->Run(stopped)), Sum(1000));
  EXPECT_EQ(instance->preempted(), std::nullopt);
  EXPECT_EQ(ResultOf<std::int64_t>(instance->Run(fresh)), Sum(10));
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(waits)), 77);
}

TEST_F(InstanceTest, ABlockedTaskDoesNotGoOnWhileAnotherIsInTheMiddleOfItsCode) {
  Limits limits;
  limits.tasks_max = 2;
  instance = MustCreate(limits);
  const TaskId waits = MustStart(kOnStack, {AsCell(77)});
  ASSERT_TRUE(std::holds_alternative<Blocked>(instance->Run(waits)));
  instance->RequestStop();
  const TaskId stopped = MustStart(kSum, {AsCell<std::int64_t>(1000)});
  ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(stopped)));
  instance->WithdrawStop();
  host->ready = true;
  EXPECT_TRUE(std::holds_alternative<Captured>(instance->Run(waits)));
  EXPECT_EQ(ResultOf<std::int64_t>(instance->Run(stopped)), Sum(1000));
  EXPECT_EQ(ResultOf<std::int32_t>(instance->Run(waits)), 77);
}

// --- Damaged snapshots ---

class DamagedSnapshotTest : public InstanceTest {
 protected:
  void SetUp() override {
    InstanceTest::SetUp();
    instance->RequestStop();
    const TaskId task = MustStart(kFill, {AsCell(70'000), AsCell(100)});
    ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(task)));
    auto captured = instance->Capture();
    ASSERT_TRUE(captured.ok());
    snapshot = std::move(captured).value();
    ASSERT_TRUE(Restored().ok());
  }
  Result<std::unique_ptr<Instance>> Restored(const Limits& limits = {}) {
    return Instance::Restore(LoadGuest(), {host}, limits, snapshot);
  }
  void ExpectRefused(ErrorCode code, const char* what) {
    const auto restored = Restored();
    ASSERT_FALSE(restored.ok()) << what;
    EXPECT_EQ(restored.error().code, code) << restored.error().message;
  }
  snapshot::Snapshot snapshot;
};

TEST_F(DamagedSnapshotTest, FramesMustFitTheSafepointRecords) {
  const Bytes frames = snapshot.stacks[0].frames;
  ASSERT_EQ(frames.size(), 24u);  // One frame of fill: 16 bytes and its trailer.
  const auto with_word = [&](std::size_t at, std::uint32_t value) {
    Bytes changed = frames;
    std::memcpy(changed.data() + at, &value, sizeof value);
    return changed;
  };
  snapshot.stacks[0].frames = with_word(16, kFunctionCount);
  ExpectRefused(ErrorCode::kCorrupt, "function number");
  snapshot.stacks[0].frames = with_word(16, kSum);
  ExpectRefused(ErrorCode::kCorrupt, "another function than was called");
  snapshot.stacks[0].frames = with_word(20, 1);
  ExpectRefused(ErrorCode::kCorrupt, "safepoint number");
  snapshot.stacks[0].frames = with_word(4, 0x7fffffff);
  ExpectRefused(ErrorCode::kCorrupt, "pointer");
  snapshot.stacks[0].frames = Bytes(frames.begin() + 1, frames.end());
  ExpectRefused(ErrorCode::kCorrupt, "one byte short");
  snapshot.stacks[0].frames = Bytes(4);
  snapshot.stacks[0].frames.insert(snapshot.stacks[0].frames.end(), frames.begin(), frames.end());
  ExpectRefused(ErrorCode::kCorrupt, "four bytes too many");
}

TEST_F(DamagedSnapshotTest, ItMustBeOfThisPackageAndCode) {
  auto original = snapshot.package_digest;
  snapshot.package_digest = "sha256:00";
  ExpectRefused(ErrorCode::kFailedPrecondition, "package");
  snapshot.package_digest = original;
  snapshot.ir_hash[3] ^= 1;
  ExpectRefused(ErrorCode::kFailedPrecondition, "code");
}

TEST_F(DamagedSnapshotTest, MemoryMustFitTheModuleAndTheLimits) {
  const auto memory = snapshot.memories[0];
  snapshot.memories[0].runs.push_back({kMemoryPages * 16, memory.runs.at(0).bytes});
  ExpectRefused(ErrorCode::kCorrupt, "run past the end");
  snapshot.memories[0] = memory;
  snapshot.memories[0].runs.push_back(memory.runs.at(0));
  ExpectRefused(ErrorCode::kCorrupt, "run twice");
  snapshot.memories[0] = memory;
  snapshot.memories[0].wasm_pages = kMemoryPages - 1;
  ExpectRefused(ErrorCode::kCorrupt, "smaller than the module's");
  snapshot.memories[0].wasm_pages = kMemoryPagesMax + 1;
  ExpectRefused(ErrorCode::kResourceExhausted, "past the maximum");
  snapshot.memories.clear();
  ExpectRefused(ErrorCode::kCorrupt, "none");
}

TEST_F(DamagedSnapshotTest, ReferencesMustLeadToFunctions) {
  snapshot.tables[0].elements[0] = kFunctionCount + 1;
  ExpectRefused(ErrorCode::kCorrupt, "table element");
  snapshot.tables[0].elements[0] = 0;
  snapshot.globals[1] = AsCell<std::uint32_t>(kFunctionCount + 1);
  ExpectRefused(ErrorCode::kCorrupt, "global");
}

TEST_F(DamagedSnapshotTest, CountsMustBeTheModules) {
  snapshot.globals.pop_back();
  ExpectRefused(ErrorCode::kCorrupt, "globals");
  snapshot.globals.push_back(AsCell(0));
  snapshot.dropped_data.pop_back();
  ExpectRefused(ErrorCode::kCorrupt, "segments");
}

TEST_F(DamagedSnapshotTest, HostStateNeedsItsHost) {
  snapshot.host_states.push_back({"elsewhere", {}});
  ExpectRefused(ErrorCode::kFailedPrecondition, "host module");
}

TEST_F(DamagedSnapshotTest, CallsAreUniqueAndWithinTheLimit) {
  snapshot.stacks.push_back(snapshot.stacks[0]);
  ExpectRefused(ErrorCode::kResourceExhausted, "two calls");
  Limits limits;
  limits.tasks_max = 2;
  const auto restored = Restored(limits);
  ASSERT_FALSE(restored.ok());
  EXPECT_EQ(restored.error().code, ErrorCode::kCorrupt);
}

TEST_F(DamagedSnapshotTest, CStacksMustFitTheMemoryAndOneCallAtMostIsInTheMiddleOfItsCode) {
  Limits limits;
  limits.tasks_max = 2;
  snapshot.stacks[0].shadow_stack_pointer = kMemoryPages * 65536 - 100;
  snapshot.stacks[0].shadow_stack.resize(229);
  EXPECT_EQ(Restored(limits).error().code, ErrorCode::kCorrupt);
  snapshot.stacks[0].shadow_stack.resize(228);
  EXPECT_TRUE(Restored(limits).ok());
  snapshot.stacks[0].preempted = true;
  snapshot.stacks.push_back(snapshot.stacks[0]);
  snapshot.stacks[1].id += 1;
  EXPECT_EQ(Restored(limits).error().code, ErrorCode::kCorrupt);
}

}  // namespace
}  // namespace godwit::runtime
