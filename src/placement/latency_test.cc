#include "placement/latency.h"

#include <gtest/gtest.h>

#include <cmath>

namespace godwit::placement {
namespace {

TEST(LatencyTest, TheModelIsAQueueWithOneServer) {
  DeviceUse device;
  device.instances = {{"a", 50, 10, 0}};  // mu = 100/s, lambda = 50/s.
  EXPECT_NEAR(ModelP99Ms(device, 0), 1000 * std::log(100.0) / 50, 1e-9);
  device.instances[0].requests_per_second = 100;
  EXPECT_TRUE(std::isinf(ModelP99Ms(device, 0))) << "as much as it can";
  device.instances[0].cpu_ms = 0;
  EXPECT_EQ(ModelP99Ms(device, 0), 0);
}

TEST(LatencyTest, OthersTakeCoresOnlyWhereThereAreTooFew) {
  DeviceUse device{.cores = 2, .instances = {{"a", 10, 10, 0}, {"b", 50, 10, 0}}};
  const double alone = ModelP99Ms(DeviceUse{.cores = 2, .instances = {{"a", 10, 10, 0}}}, 0);
  EXPECT_DOUBLE_EQ(ModelP99Ms(device, 0), alone);
  device.other_cores = 1.2;
  EXPECT_GT(ModelP99Ms(device, 0), alone);
  EXPECT_DOUBLE_EQ(BusyCores(device), 1.8);
}

TEST(LatencyTest, AMoveCountsSpeedLoadAndWhatTheModelDoesNotExplain) {
  const DeviceUse source{.instances = {{"mover", 20, 5, 40}}};
  const DeviceUse idle{.speed = 0.5, .core_watts = 3};
  const double model_here = ModelP99Ms(source, 0);
  const double model_there = 1000 * std::log(100.0) / (100 - 20);
  const MoveForecast slower = ForecastMove(source, 0, idle);
  EXPECT_NEAR(slower.p99_ms, 40 - model_here + model_there, 1e-9) << "its waits go with it";
  EXPECT_NEAR(slower.busy_cores, 0.2, 1e-9);
  EXPECT_NEAR(slower.watts, 0.6, 1e-9);

  const DeviceUse busy{.instances = {{"there", 40, 20, 120}, {"silent", 0, 0, 0}}};
  const MoveForecast both = ForecastMove(source, 0, busy);
  EXPECT_NEAR(both.busy_cores, 0.9, 1e-9);
  ASSERT_EQ(both.others_ms.size(), 2u);
  const double before = 1000 * std::log(100.0) / (50 - 40), after = 1000 * std::log(100.0) / (0.9 * 50 - 40);
  EXPECT_NEAR(both.others_ms[0], 120 + after - before, 1e-6);
  EXPECT_EQ(both.others_ms[1], 0) << "not known";
  EXPECT_GT(both.p99_ms, 40);

  const DeviceUse full{.other_cores = 0.95};
  EXPECT_TRUE(std::isinf(ForecastMove(source, 0, full).p99_ms));
}

}  // namespace
}  // namespace godwit::placement
