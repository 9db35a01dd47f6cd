#include "device/foreground.h"

#include <gtest/gtest.h>
#include <sched.h>

#include <atomic>
#include <thread>

#include "device/engine.h"

namespace godwit::device {
namespace {

using namespace std::chrono_literals;

class ForegroundTest : public ::testing::Test {
 protected:
  // Operations for `length`, 1,000 a second, of which every 50th takes `slow`.
  void Run(Foreground& foreground, std::chrono::milliseconds length, std::chrono::microseconds slow) {
    for (int i = 0; i < length.count(); ++i) foreground.Note(i % 50 == 0 ? slow : 10us, now_ += 1ms);
  }
  Foreground::Clock::time_point now_ = Foreground::Clock::time_point{} + 1h;
};

TEST_F(ForegroundTest, TheShareFallsWhileTheBoundIsPassedAndComesBack) {
  Foreground foreground(100us);
  EXPECT_EQ(foreground.share(now_), 1);
  Run(foreground, 1000ms, 90us);
  EXPECT_EQ(foreground.share(now_), 1);
  Run(foreground, 1000ms, 200us);
  EXPECT_LE(foreground.share(now_), 0.1);
  Run(foreground, 1000ms, 200us);
  EXPECT_EQ(foreground.share(now_), Foreground::kShareLeast);
  EXPECT_TRUE(foreground.full(now_));
  Run(foreground, 1100ms, 90us);
  EXPECT_FALSE(foreground.full(now_));
  Run(foreground, 2000ms, 90us);
  EXPECT_EQ(foreground.share(now_), 1);
}

TEST_F(ForegroundTest, ADeviceWithoutOperationsOrWithoutABoundGivesAllAway) {
  Foreground bounded(100us), free;
  Run(bounded, 3000ms, 1000us);
  EXPECT_LT(bounded.share(now_), 0.1);
  EXPECT_EQ(bounded.share(now_ + 1001ms), 1) << "nobody reads any more";
  EXPECT_FALSE(bounded.full(now_ + 1001ms));
  Run(free, 1000ms, 1000us);
  EXPECT_EQ(free.share(now_), 1);
}

TEST_F(ForegroundTest, AFewReadsASecondDoNotKeepWorkOut) {
  Foreground foreground(100us);
  Run(foreground, 3000ms, 1000us);
  EXPECT_TRUE(foreground.full(now_));
  for (int i = 0; i < 100; ++i) foreground.Note(1000us, now_ += 100ms);  // Too few to say anything of the 99th percentile.
  EXPECT_FALSE(foreground.full(now_));
  EXPECT_EQ(foreground.share(now_), 1);
}

TEST_F(ForegroundTest, FiguresAreOfTheLastSecond) {
  Foreground foreground(100us);
  EXPECT_EQ(foreground.figures(now_).per_second, 0);
  Run(foreground, 500ms, 1000us);
  now_ += 2s;
  Run(foreground, 1500ms, 50us);
  const auto figures = foreground.figures(now_);
  EXPECT_NEAR(figures.per_second, 1000, 1);
  EXPECT_EQ(figures.p50_us, 10);
  EXPECT_EQ(figures.p99_us, 50);
  EXPECT_EQ(figures.count, 2000u);
  for (std::size_t i = 0; i < 2 * Foreground::kRemembered; ++i) foreground.Note(1us, now_ += 100us);
  EXPECT_NEAR(foreground.figures(now_).per_second, 10000, 5) << "more than is remembered";
}

// A process that may use half a core, of which others than work use a tenth of one.
class LimitedProcessor {
 public:
  ProcessorUse Use() const { return {limit, used}; }
  // For half a second, in which work has used so much, and there was a read every 10 ms.
  void Run(Foreground& foreground, Foreground::Clock::time_point& now, std::chrono::milliseconds work, std::chrono::milliseconds others = 50ms) {
    for (int i = 0; i < 50; ++i) {
      used += (work + others) / 50;
      foreground.Worked(work / 50, now);
      foreground.Note(10us, now += 10ms);
    }
  }
  std::optional<double> limit = 0.5;
  std::chrono::nanoseconds used{0};
};

TEST_F(ForegroundTest, OfALimitedProcessorWorkLeavesWhatTheOthersUse) {
  LimitedProcessor processor;
  Foreground foreground(0us, [&] { return processor.Use(); });
  foreground.WorkBegins(now_);
  EXPECT_NEAR(foreground.share(now_), 0.5 * 0.95, 0.001) << "before the first read: it would find the period used up";
  processor.Run(foreground, now_, 400ms);
  EXPECT_NEAR(foreground.share(now_), 0.5 * 0.95 - 0.1 * 1.25, 0.01);
  foreground.WorkBegins(now_);
  processor.Run(foreground, now_, 400ms);
  EXPECT_NEAR(foreground.share(now_), (0.5 * 0.95 - 0.1 * 1.25) / 2, 0.01) << "of two each";
  EXPECT_NEAR(foreground.share(now_ + 101ms), (0.5 * 0.95 - 0.1 * 1.25) / 2, 0.01) << "nobody reads any more, and somebody may again";
  EXPECT_EQ(foreground.credit(now_), 5ms);
  EXPECT_EQ(foreground.credit(now_ + 101ms), Foreground::kPeriod);
  processor.Run(foreground, now_, 0ms, 250ms);
  EXPECT_NEAR(foreground.share(now_), 0.5 * Foreground::kShareLeast, 0.001) << "never nothing";
  EXPECT_FALSE(foreground.full(now_)) << "that is for the bound to say";
  foreground.WorkEnds();
  for (int i = 0; i < 100; ++i) foreground.Worked(4ms, now_ += 10ms), processor.used += 4ms;
  foreground.Note(10us, now_);
  EXPECT_GT(foreground.share(now_), 0.4) << "what the others used is forgotten while work runs";
  processor.limit.reset();
  processor.Run(foreground, now_, 400ms);
  EXPECT_EQ(foreground.share(now_), 1);
}

TEST_F(ForegroundTest, ADebtIsPaidByRestAndCreditIsLimited) {
  Debt debt;
  debt.Ran(10ms, 0.5, 5ms, now_);
  EXPECT_EQ(debt.Owed(now_), 15ms) << "20 ms, of which 5 had passed";
  EXPECT_EQ(debt.Owed(now_ + 14500us), 0ms) << "too short a rest";
  debt.Ran(10ms, 0.5, 5ms, now_ += 15ms);
  EXPECT_EQ(debt.Owed(now_), 20ms) << "all that had passed was paid for what was before";
  debt.Ran(100ms, 0.5, 5ms, now_);
  EXPECT_EQ(debt.Owed(now_), Debt::kMost) << "bit by bit";
  debt.Ran(0ms, 1, 5ms, now_);
  EXPECT_EQ(debt.Owed(now_), 0ms) << "it may have all";
}

// Work that is not brief, and needs nothing: a `run` with Work::Run's parameters but for the data.
template <auto run>
class Lasting final : public Function {
 public:
  class Running final : public Work {
   public:
    Result<bool> Run(const Source&, const Pace& pace, Bytes* output) override { return run(pace, output); }
    Result<Bytes> Save() override { return Bytes(); }
    std::uint64_t read_bytes() const override { return 0; }
  };
  std::string_view name() const override { return "lasting"; }
  Result<std::unique_ptr<Work>> Begin(ByteView, ByteView, Part) const override { return std::unique_ptr<Work>(std::make_unique<Running>()); }
  bool brief(ByteView, Part) const override { return false; }
};

constexpr auto kBriskCpu = 3ms;  // Of the processor a piece.

bool Brisk(const Pace& pace, Bytes*) {
  timespec begun{}, now{};
  for (clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begun);; pace.Over(0)) {
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    if (std::chrono::seconds(now.tv_sec - begun.tv_sec) + std::chrono::nanoseconds(now.tv_nsec - begun.tv_nsec) >= kBriskCpu) return true;
  }
}

TEST_F(ForegroundTest, WhatAPieceHadTooMuchTheNextOnesGoWithout) {
  const auto foreground = std::make_shared<Foreground>(0us, [] { return ProcessorUse{.limit = 0.1, .used = 0ns}; });
  Engine engine({.profile = {.name = "small", .device_class = "csd", .cores = 1}, .storage = nullptr, .programs = nullptr, .built_in = {std::make_shared<Lasting<Brisk>>()}, .foreground = foreground});
  Request request;
  request.opcode = Opcode::kExecute;
  request.function = 1;
  const auto begin = Foreground::Clock::now();
  for (int i = 0; i < 10; ++i) ASSERT_TRUE(engine.Call(request).status.ok());
  // None of them takes longer than its credit. The last one need not be paid for yet.
  EXPECT_GE(Foreground::Clock::now() - begin, 9 * kBriskCpu / (0.1 * 0.95) - Foreground::kPeriod);
}

TEST_F(ForegroundTest, OfALimitedProcessorGuestsGoBeforeWork) {
  LimitedProcessor processor;
  Foreground foreground(0us, [&] { return processor.Use(); });
  EXPECT_EQ(foreground.share_of_guests(), 1) << "no limit is known";
  foreground.WorkBegins(now_);
  for (int i = 0; i < 50; ++i) {  // Guests use 0.2 cores, work 0.1, and the agent 0.1.
    processor.used += 4ms;
    foreground.Worked(1ms, now_);
    foreground.GuestsRan(2ms, 2, now_ += 10ms);
  }
  EXPECT_NEAR(foreground.share_of_guests(), (0.5 * 0.95 - 0.1) / 2, 0.01) << "of two each";
  EXPECT_NEAR(foreground.share(now_), 0.5 * 0.95 - (0.1 + 0.2) * 1.25, 0.01);
  for (int i = 0; i < 50; ++i) {  // The agent uses nearly all, as one that copies a memory does.
    processor.used += 5ms;
    foreground.GuestsRan(0ms, 2, now_ += 10ms);
  }
  EXPECT_NEAR(foreground.share_of_guests(), 0.5 * Foreground::kGuestsLeast, 0.001);
}

// Runs until it is told to rest, or until it is over: its output says which.
bool Restless(const Pace& pace, Bytes* output) {
  // From another thread, as who watches over a guest does: the worker itself rests in Over.
  std::atomic<bool> asked{false};
  std::thread watch([&] {
    while (pace.Owed() == 0us && !pace.Over(0)) std::this_thread::yield();
    output->push_back(pace.Over(0) ? 'n' : 'y');
    asked = true;
  });
  while (!asked) std::this_thread::yield();
  watch.join();
  return true;
}

TEST_F(ForegroundTest, WorkRestsWhileTheBoundIsPassedAndIsPushedBackWhenThatIsNotEnough) {
  const auto foreground = std::make_shared<Foreground>(1us);
  Engine engine({.profile = {.name = "busy", .device_class = "csd"}, .storage = nullptr, .programs = nullptr, .built_in = {std::make_shared<Lasting<Restless>>()}, .foreground = foreground});
  Request request;
  request.opcode = Opcode::kExecute;
  request.function = 1;
  request.deadline = 4min;
  Queue queue(engine);
  queue.Submit(request);
  std::optional<Completion> completion;
  while (!completion) {  // Slow reads, as often as there is time for them.
    foreground->Note(1ms);
    std::this_thread::yield();
    completion = queue.Poll();
  }
  ASSERT_TRUE(completion->status.ok()) << completion->status.error().message;
  EXPECT_EQ(AsText(completion->data), "y");
  while (!foreground->full()) {
    foreground->Note(1ms);
    std::this_thread::yield();
  }
  completion = engine.Call(request);
  EXPECT_FALSE(completion->status.ok());
  EXPECT_TRUE(completion->pushed_back);
}

TEST_F(ForegroundTest, AThreadYieldsWithThoseThatItMakes) {
  int policy = -1, of_child = -1;
  YieldingThread yielding;
  for (int i = 0; i < 3; ++i) {
    yielding.Run([&] {
      policy = sched_getscheduler(0);
      std::thread([&] { of_child = sched_getscheduler(0); }).join();
    });
  }
  EXPECT_EQ(policy, SCHED_IDLE);
  EXPECT_EQ(of_child, SCHED_IDLE);
  EXPECT_EQ(sched_getscheduler(0), SCHED_OTHER);
}

}  // namespace
}  // namespace godwit::device
