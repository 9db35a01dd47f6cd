#include "agent/recent_use.h"

#include <gtest/gtest.h>

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;

TEST(RecentUseTest, CountsTheWindowOrWhatIsRemembered) {
  RecentUse use;
  RecentUse::Clock::time_point now{};
  EXPECT_FALSE(use.Get(now));
  for (int i = 1; i <= 100; ++i) use.Add(now + i * 10ms, i * 1ms, 2ms);
  now += 1s;
  const auto figures = use.Get(now).value();
  EXPECT_NEAR(figures.requests_per_second, 100 / 30.0, 1e-9);
  EXPECT_DOUBLE_EQ(figures.cpu_ms, 2);
  EXPECT_DOUBLE_EQ(figures.p99_ms, 99);
  EXPECT_FALSE(use.Get(now + 31s)) << "all of it is old";

  for (std::size_t i = 0; i < 10 * RecentUse::kMost; ++i) use.Add(now += 1ms, 1ms, 0ms);
  EXPECT_NEAR(use.Get(now).value().requests_per_second, 1000, 2);
}

}  // namespace
}  // namespace godwit::agent
