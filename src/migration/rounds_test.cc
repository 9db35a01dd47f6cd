#include "migration/rounds.h"

#include <gtest/gtest.h>

namespace godwit::migration {
namespace {

using std::chrono::microseconds;
using std::chrono::milliseconds;

// A link and a guest: how the rounds of a copy go.
struct Copy {
  double link_bytes_per_second, written_bytes_per_second;
  std::uint64_t memory_bytes;
  RoundPolicy::Options options;
};

struct End {
  RoundDecision decision;
  int rounds = 0;
  double slowest = 0;
};

End CopyOver(const Copy& copy) {
  RoundPolicy policy(copy.options);
  double bytes = static_cast<double>(copy.memory_bytes), share = 0;
  End end{SendAnotherRound{}};
  while (end.rounds <= kRoundsMax) {
    const double seconds = bytes / copy.link_bytes_per_second + 2e-4;
    const double dirty = std::min(static_cast<double>(copy.memory_bytes), copy.written_bytes_per_second * (1 - share) * seconds);
    end.decision = policy.Next({static_cast<std::uint64_t>(bytes), static_cast<std::uint64_t>(dirty),
                                microseconds(static_cast<std::int64_t>(seconds * 1e6))});
    ++end.rounds;
    if (const auto* slow = std::get_if<SlowDown>(&end.decision)) share = slow->share;
    else if (!std::holds_alternative<SendAnotherRound>(end.decision)) return end;
    end.slowest = std::max(end.slowest, share);
    bytes = dirty;
  }
  ADD_FAILURE() << "no end after " << end.rounds << " rounds";
  return end;
}

TEST(RoundPolicyTest, AGuestThatWritesNothingIsStoppedAfterOneRound) {
  const End end = CopyOver({1e9, 0, 1 << 30, {}});
  EXPECT_TRUE(std::holds_alternative<StopNow>(end.decision));
  EXPECT_EQ(end.rounds, 1);
}

TEST(RoundPolicyTest, RoundsGoOnWhileTheyShrinkFarBelowTheLimit) {
  const End end = CopyOver({1e9, 50e6, 1 << 30, {.max_downtime = milliseconds(50)}});
  ASSERT_TRUE(std::holds_alternative<StopNow>(end.decision));
  EXPECT_LE(std::get<StopNow>(end.decision).expected_downtime, milliseconds(1)) << "50 ms are allowed, less is possible";
  EXPECT_LE(end.rounds, 8);
  EXPECT_EQ(end.slowest, 0) << "nobody was slowed";
}

TEST(RoundPolicyTest, WhereToStopIsBetterThanToGiveUpItStops) {
  // Units that are written again as soon as they are sent, at what an emulated device sends.
  const End few = CopyOver({6e6, 6e9, 512 << 10, {.stop_anyway = true}});
  ASSERT_TRUE(std::holds_alternative<StopNow>(few.decision));
  EXPECT_EQ(few.slowest, 0) << "not slowed for so little";
  EXPECT_GT(std::get<StopNow>(few.decision).expected_downtime, kDefaultMaxDowntime);
  const End many = CopyOver({6e6, 6e9, 64 << 20, {.stop_anyway = true}});
  ASSERT_TRUE(std::holds_alternative<StopNow>(many.decision));
  EXPECT_EQ(many.slowest, kSlowShareMax) << "slowed before";
  for (const std::uint64_t bytes : {512 << 10, 64 << 20}) {
    EXPECT_TRUE(std::holds_alternative<GiveUpCopying>(CopyOver({6e6, 6e9, bytes, {}}).decision)) << "where a limit holds";
  }
}

TEST(RoundPolicyTest, AGuestThatOutrunsTheLinkIsSlowedJustEnough) {
  const End end = CopyOver({117e6, 200e6, 1 << 30, {.max_downtime = milliseconds(20)}});
  ASSERT_TRUE(std::holds_alternative<StopNow>(end.decision));
  EXPECT_LE(std::get<StopNow>(end.decision).expected_downtime, milliseconds(20));
  EXPECT_GT(end.slowest, 1 - 117.0 / 200);
  EXPECT_LT(end.slowest, 0.9);
}

TEST(RoundPolicyTest, WhatCannotConvergeIsGivenUpWithTheNumbers) {
  const End end = CopyOver({1e6, 4e9, 1 << 30, {.max_downtime = milliseconds(5)}});
  const auto* reason = std::get_if<GiveUpCopying>(&end.decision);
  ASSERT_TRUE(reason);
  EXPECT_NE(reason->reason.find("1 MB/s"), std::string::npos) << reason->reason;
  EXPECT_NE(reason->reason.find("5 ms are allowed"), std::string::npos) << reason->reason;
  EXPECT_EQ(end.slowest, kSlowShareMax);
}

TEST(RoundPolicyTest, ALimitBelowWhatIsFixedAsksForTheLeastThatIsLeft) {
  const End end = CopyOver({1e9, 0, 1 << 20, {.max_downtime = microseconds(1), .fixed = microseconds(300)}});
  EXPECT_TRUE(std::holds_alternative<StopNow>(end.decision));
}

TEST(RoundPolicyTest, RoundsAreLimited) {
  RoundPolicy policy({.max_downtime = milliseconds(1)});
  int rounds = 0;
  // Shrinks a little for ever.
  double dirty = 1e9;
  while (rounds < 2 * kRoundsMax) {
    ++rounds;
    if (std::holds_alternative<GiveUpCopying>(policy.Next({1 << 20, static_cast<std::uint64_t>(dirty), milliseconds(10)}))) break;
    dirty *= 0.79;
    if (dirty < 1e7) dirty = 1e9;
  }
  EXPECT_LE(rounds, kRoundsMax);
}

}  // namespace
}  // namespace godwit::migration
