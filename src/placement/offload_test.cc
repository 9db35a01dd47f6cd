#include "placement/offload.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

namespace godwit::placement {
namespace {

// A world with known costs.
struct World {
  double ns_per_byte[2] = {8, 2};  // The drive is slower than the host.
  double selectivity = 0.001;
  OffloadLink link{100e6, 200};
  double Cost(std::size_t site, std::uint64_t bytes) const {
    const double read = static_cast<double>(bytes);
    const double compute = read * ns_per_byte[site] / 1e3, movement = (site == 0 ? read * selectivity : read) / link.bytes_per_second * 1e6;
    return link.latency_us + (site == 0 ? compute + movement : std::max(compute, movement));
  }
};

// Whose clock goes on by what the work takes.
class TimedChooser : public OffloadChooser {
 public:
  OffloadChoice Choose(const std::string& function, const std::vector<OffloadSite>& sites, const OffloadLink& link, std::uint64_t bytes) {
    return OffloadChooser::Choose(function, sites, link, bytes, now_us_);
  }
  void Learn(const std::string& function, const std::string& device, const OffloadMeasurement& measured, std::optional<double> predicted_us) {
    OffloadChooser::Learn(function, device, measured, predicted_us, now_us_ += measured.total_us);
  }

 private:
  double now_us_ = 0;
};

const std::vector<OffloadSite> kSites = {{"csd0", true, 0.25, 0}, {"host0", false, 1, 0}};
constexpr std::uint64_t kPiece = 10'000'000;

OffloadMeasurement Measure(const World& world, std::size_t site, std::mt19937& random) {
  const double noise = 0.95 + 0.1 * static_cast<double>(random() % 1000) / 1000;
  return {kPiece, static_cast<std::uint64_t>(world.selectivity * kPiece), kPiece * world.ns_per_byte[site] / 1e3 * noise, 0, world.Cost(site, kPiece) * noise};
}

// Where work is, but for exploring.
std::size_t Preferred(TimedChooser& chooser, const std::string& function, const World& world) {
  const auto choice = chooser.Choose(function, kSites, world.link, kPiece);
  return choice.explored ? 1 - choice.site : choice.site;
}

// Cost beyond the cheaper site's, over all pieces.
double Regret(TimedChooser& chooser, const World& world, int pieces, std::mt19937& random) {
  double cost = 0, best = 0;
  for (int i = 0; i < pieces; ++i) {
    const auto choice = chooser.Choose("scan", kSites, world.link, kPiece);
    const auto measured = Measure(world, choice.site, random);
    chooser.Learn("scan", kSites[choice.site].device, measured, choice.costs[choice.site].total_us());
    cost += world.Cost(choice.site, kPiece);
    best += std::min(world.Cost(0, kPiece), world.Cost(1, kPiece));
  }
  return cost / best - 1;
}

TEST(OffloadChooserTest, GoesNearTheDataWhereTheLinkIsSlowAndHomeWhereAllOfItComesBack) {
  std::mt19937 random(1);
  World world;  // Moving costs 10 ns a byte, while the host computes for 2: near for 8.
  TimedChooser near;
  EXPECT_EQ(near.Choose("scan", kSites, world.link, kPiece).site, 0u) << "by the profiles alone";
  EXPECT_LT(Regret(near, world, 400, random), 0.05);
  world.selectivity = 1;  // All comes back: the drive's slowness buys nothing.
  TimedChooser home;
  Regret(home, world, 400, random);
  int away = 0;
  for (int i = 0; i < kExploreEvery; ++i) away += home.Choose("scan", kSites, world.link, kPiece).site == 0;
  EXPECT_EQ(away, 1) << "once, to see whether that has changed";
  EXPECT_NEAR(home.selectivity("scan"), 1, 0.01);
}

TEST(OffloadChooserTest, FollowsAShiftOfLoadAndItsPredictionsGetGood) {
  std::mt19937 random(2);
  World world;
  TimedChooser chooser;
  Regret(chooser, world, 400, random);
  const auto& known = chooser.known();
  EXPECT_LT(known.at({"scan", "csd0"}).median_error().value(), 0.1);
  EXPECT_NEAR(known.at({"scan", "csd0"}).ns_per_byte, 8, 0.8);
  world.ns_per_byte[0] = 80;  // Somebody else uses the drive.
  EXPECT_LT(Regret(chooser, world, 400, random), 0.35) << "with the first pieces there, and one in forty";
  EXPECT_EQ(Preferred(chooser, "scan", world), 1u);
  world.ns_per_byte[0] = 8;
  Regret(chooser, world, 1200, random);
  EXPECT_EQ(Preferred(chooser, "scan", world), 0u) << "exploring has found that it is free again";
}

TEST(OffloadChooserTest, WorkThatStallsNowAndThenStaysWhereItCostsLess) {
  // A processor by quota: of four pieces three take a nanosecond a byte and one stands still for long; six a byte in the mean, and nine at home.
  std::mt19937 random(6);
  World world;
  world.link.bytes_per_second = 1e9 / 9;
  TimedChooser chooser;
  int home = 0;
  for (int i = 0; i < 2400; ++i) {
    const auto choice = chooser.Choose("scan", kSites, world.link, kPiece);
    world.ns_per_byte[0] = random() % 4 == 0 ? 21 : 1;
    chooser.Learn("scan", kSites[choice.site].device, Measure(world, choice.site, random), std::nullopt);
    home += choice.site == 1;
  }
  EXPECT_LT(home, 180) << "without patience it is many more";
}

TEST(OffloadChooserTest, ALittleThatLastsIsWorthLeavingToo) {
  std::mt19937 random(7);
  World world;
  world.ns_per_byte[0] = 9.4;  // With the way, 6 % less than the 10 at home.
  TimedChooser chooser;
  Regret(chooser, world, 2000, random);
  EXPECT_EQ(Preferred(chooser, "scan", world), 0u);
  world.ns_per_byte[0] = 10.7;  // And 7 % more.
  int pieces = 0;
  for (; pieces < 4000 && Preferred(chooser, "scan", world) == 0; ++pieces) Regret(chooser, world, 1, random);
  EXPECT_GT(pieces, 40);
  EXPECT_LT(pieces, 1000);
}

TEST(OffloadChooserTest, ShortPiecesExploreForAWhileAndCountWhenThePlaceHasSettled) {
  std::mt19937 random(8);
  World world;
  world.link = {20e9, 200};
  world.ns_per_byte[0] = 0.5;  // 5 ms a piece, and at home 6; for 100 ms after pieces at home, the device is three times as slow.
  world.ns_per_byte[1] = 0.6;
  TimedChooser chooser;
  double explored_us = 0, longest_us = 0, run_us = 0, busy_until_us = 0, now_us = 0;
  int home = 0;
  for (int i = 0; i < 20'000; ++i) {
    const auto choice = chooser.Choose("scan", kSites, world.link, kPiece);
    auto measured = Measure(world, choice.site, random);
    if (choice.site == 0 && now_us < busy_until_us) measured.total_us = (measured.busy_us *= 3) + world.link.latency_us;
    now_us += measured.total_us;
    if (choice.site == 1) busy_until_us = now_us + 100e3;
    chooser.Learn("scan", kSites[choice.site].device, measured, std::nullopt);
    home += choice.site == 1 && !choice.explored && i > 4000;  // Where it is until the device was tried a few times.
    run_us = choice.explored ? run_us + measured.total_us : 0;
    explored_us += choice.explored ? measured.total_us : 0;
    longest_us = std::max(longest_us, run_us);
  }
  EXPECT_EQ(home, 0) << "what is left of exploring is not taken for the device's cost";
  EXPECT_NEAR(longest_us, kExploreForUs, 10e3);
  EXPECT_LT(explored_us, now_us * 1.5 / kExploreEvery);
}

TEST(OffloadChooserTest, ExploringAddsAFortiethAtMost) {
  std::mt19937 random(4);
  for (const double ns : {1.0, 4.0, 40.0, 400.0}) {  // At the host 10 with the way there; the drive is ten times as cheap, or dear.
    World world;
    world.ns_per_byte[0] = ns;
    TimedChooser chooser;
    Regret(chooser, world, 200, random);
    EXPECT_LT(Regret(chooser, world, 8000, random), 1.2 / kExploreEvery) << ns;
  }
}

TEST(OffloadChooserTest, WorkThatComesAgainAndAgainCopiesTheDataOnce) {
  // A piece takes 80 ms at the drive, and at home 20 once the data is there; to copy it takes 100.
  World world;
  std::mt19937 random(5);
  const std::uint64_t data = 10 * kPiece;
  const auto cost = [&](int scans) {
    TimedChooser chooser;
    std::uint64_t copied = 0;
    double total = 0;
    for (int scan = 0; scan < scans; ++scan) {
      for (std::uint64_t at = 0; at < data; at += kPiece) {
        std::vector<OffloadSite> sites = kSites;
        const bool here = at < copied;
        sites[1].copy = "table";
        sites[1].here = here ? 1 : 0;
        sites[1].to_copy = data - copied;
        const auto choice = chooser.Choose("scan", sites, world.link, kPiece);
        auto measured = Measure(world, choice.site, random);
        if (choice.site == 1 && here) measured.total_us = measured.busy_us;
        chooser.Learn("scan", sites[choice.site].device, measured, std::nullopt);
        if (choice.site == 0) chooser.LearnOfCopy("scan", sites[1], world.link, kPiece, measured.total_us);
        if (choice.site == 1 && at == copied) copied += kPiece;
        total += measured.total_us;
      }
    }
    return std::pair(total, copied);
  };
  const double scan_ms = 10 * world.Cost(0, kPiece) / 1e3;
  EXPECT_EQ(cost(1).second, 0u) << "one scan does not pay for a copy";
  EXPECT_LT(cost(1).first / 1e3, 1.1 * scan_ms);
  const auto [total, copied] = cost(50);
  EXPECT_EQ(copied, data);
  const double best_ms = 10 * world.Cost(1, kPiece) / 1e3 + 49 * 10 * kPiece * world.ns_per_byte[1] / 1e6;  // It is copied at once.
  EXPECT_LT(total / 1e3, 1.3 * best_ms);
  EXPECT_LT(total / 1e3, 0.5 * 50 * scan_ms);
  TimedChooser chooser;
  std::vector<OffloadSite> no_room = kSites;
  for (int i = 0; i < 1000; ++i) chooser.LearnOfCopy("scan", no_room[1], world.link, kPiece, 1e6);
  EXPECT_FALSE(chooser.Choose("scan", no_room, world.link, kPiece).copies);
}

TEST(OffloadChooserTest, DataThatIsReadAheadCostsTheLongerOfTheWayAndTheWork) {
  const TimedChooser chooser;
  const OffloadLink slow{100e6, 200}, fast{1e9, 200};
  EXPECT_NEAR(chooser.Predict("scan", kSites[1], slow, kPiece).total_us(), 100'200, 1);  // 10 ns a byte, beside 2 of work.
  EXPECT_NEAR(chooser.Predict("scan", kSites[1], fast, kPiece).total_us(), 20'200, 1);
}

TEST(OffloadLinkTest, ALinkThatStandsStillNowAndThenIsAsSlowAsItIs) {
  OffloadLink link;
  double sum = 0;
  constexpr int kBlocks = 800;
  for (int i = 0; i < 2 * kBlocks; ++i) {
    link.Learn(1'000'000, i % 8 == 0 ? 100'000 : 10'000);
    if (i >= kBlocks) sum += link.bytes_per_second / kBlocks;
  }
  EXPECT_NEAR(sum, 8e6 / 0.17, 0.15 * 8e6 / 0.17);  // Eight blocks take 0.17 s; the mean of their speeds is 89 MB/s.
  const double before = link.bytes_per_second;
  link.Learn(100, 1'000'000);
  EXPECT_EQ(link.bytes_per_second, before) << "that is latency";
}

TEST(OffloadChooserTest, ALongQueueSendsWorkElsewhere) {
  TimedChooser chooser;
  std::vector<OffloadSite> sites = kSites;
  const OffloadLink link{100e6, 200};
  EXPECT_EQ(chooser.Choose("scan", sites, link, kPiece).site, 0u);
  sites[0].queue_us = 1e6;
  const auto choice = chooser.Choose("scan", sites, link, kPiece);
  EXPECT_EQ(choice.site, 1u);
  EXPECT_DOUBLE_EQ(choice.costs[0].queue_us, 1e6);
  EXPECT_EQ(chooser.Choose("scan", {sites[0]}, link, kPiece).site, 0u) << "the only one";
}

TEST(OffloadChooserTest, TinyPiecesTeachNothingButTheirError) {
  TimedChooser chooser;
  chooser.Learn("scan", "csd0", {100, 100, 1000, 5, 2000}, 1000.0);
  EXPECT_EQ(chooser.known().at({"scan", "csd0"}).ns_per_byte, 0);
  EXPECT_DOUBLE_EQ(chooser.known().at({"scan", "csd0"}).median_error().value(), 0.5);
  EXPECT_DOUBLE_EQ(chooser.known().at({"scan", "csd0"}).queue_us, 5);
}

TEST(OffloadChooserTest, EachArgumentsCostIsItsOwnAndNewOnesBeginWithTheFunctions) {
  std::mt19937 random(3);
  TimedChooser chooser;
  World few, all;
  all.selectivity = 1;
  const auto run = [&](const std::string& function, const World& world, int pieces) {
    for (int i = 0; i < pieces; ++i) {
      const auto choice = chooser.Choose(function, kSites, world.link, kPiece);
      chooser.Learn(function, kSites[choice.site].device, Measure(world, choice.site, random), choice.costs[choice.site].total_us());
    }
  };
  for (int turn = 0; turn < 20; ++turn) {
    run("scan#few", few, 3);
    run("scan#all", all, 3);
  }
  EXPECT_EQ(Preferred(chooser, "scan#few", few), 0u);
  EXPECT_EQ(Preferred(chooser, "scan#all", all), 1u);
  EXPECT_GT(chooser.selectivity("scan#new"), 0.01) << "that of the function as a whole";
  for (std::size_t i = 0; i < kKnownMax + 10; ++i) chooser.Learn("scan#" + std::to_string(i), "csd0", {kPiece, 1, 10, 0, 10}, std::nullopt);
  EXPECT_EQ(chooser.known().size(), kKnownMax);
  EXPECT_EQ(chooser.known().count({"scan", "csd0"}), 1u) << "in use all the time";
}

}  // namespace
}  // namespace godwit::placement
