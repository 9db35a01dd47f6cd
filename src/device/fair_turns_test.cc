#include "device/fair_turns.h"

#include <gtest/gtest.h>

#include <vector>

namespace godwit::device {
namespace {

// The time that each of the tenants, who always want more, gets of `total_us` where a piece of theirs takes `pieces_us`.
std::map<std::string, std::uint64_t> Shares(const std::map<std::string, std::uint64_t>& pieces_us, std::uint64_t total_us) {
  FairTurns turns;
  std::map<std::string, std::uint64_t> shares;
  for (std::uint64_t now = 0; now < total_us;) {
    const auto next = std::ranges::min_element(pieces_us, {}, [&](const auto& entry) { return turns.StartOf(entry.first); });
    const auto& [tenant, took] = *next;
    turns.End(tenant, turns.Begin(tenant), took);
    shares[tenant] += took;
    now += took;
  }
  return shares;
}

TEST(FairTurnsTest, SharesAreOfTimeNotOfPieces) {
  const auto shares = Shares({{"long", 250'000}, {"short", 1'000}, {"shorter", 100}}, 30'000'000);
  for (const auto& [tenant, us] : shares) EXPECT_NEAR(static_cast<double>(us), 10e6, 0.3e6) << tenant;
}

TEST(FairTurnsTest, PiecesOfNoTimeTakeTurns) {
  FairTurns turns;
  std::vector<std::string> order;
  for (int i = 0; i < 4; ++i) {
    const std::string next = turns.StartOf("b") < turns.StartOf("a") ? "b" : "a";
    turns.End(next, turns.Begin(next), 0);
    order.push_back(next);
  }
  EXPECT_EQ(order, (std::vector<std::string>{"a", "b", "a", "b"}));
}

TEST(FairTurnsTest, WhoWasAwayHasSavedNothingUp) {
  FairTurns turns;
  turns.End("a", turns.Begin("a"), 1'000'000);
  turns.End("a", turns.Begin("a"), 1'000'000);
  EXPECT_LT(turns.StartOf("b"), turns.StartOf("a"));
  EXPECT_EQ(turns.StartOf("b"), 1'000'000u) << "as if it had begun with the last piece";
  turns.End("b", turns.Begin("b"), 1'500'000);
  EXPECT_LT(turns.StartOf("a"), turns.StartOf("b"));
  EXPECT_EQ(turns.Begin("b"), 2'500'000u);
  EXPECT_EQ(turns.StartOf("a"), 2'500'000u - FairTurns::kLagUs) << "while that runs, too";
}

TEST(FairTurnsTest, WhoOnlyFetchesItsNextPieceLosesNothing) {
  // One always wants more, and is looked at every half millisecond; the other is away for as long after each piece of one.
  constexpr std::uint64_t kAheadUs = 1500;
  FairTurns turns;
  std::map<std::string, std::uint64_t> shares;
  for (std::uint64_t now = 0, back = 0; now < 30'000'000;) {
    const bool away = now >= back && turns.StartOf("away") < turns.StartOf("always");
    const std::string next = away ? "away" : "always";
    const std::uint64_t start = turns.Begin(next);
    std::uint64_t took = away ? 1'000 : 0;
    while (!away && (now + took < back || turns.StartOf("away") + kAheadUs > start + took)) took += 500;
    turns.End(next, start, took);
    now += took;
    shares[next] += took;
    if (away) back = now + 500;
  }
  EXPECT_NEAR(static_cast<double>(shares["away"]), 15e6, 0.5e6);
}

TEST(FairTurnsTest, ForgetsTenantsThatAreBehind) {
  FairTurns turns;
  for (int i = 0; i < 1000; ++i) {
    turns.End("once" + std::to_string(i), turns.Begin("once"), 10);
    turns.End("always", turns.Begin("always"), 1000);
  }
  EXPECT_LT(turns.remembered(), 200u);
}

}  // namespace
}  // namespace godwit::device
