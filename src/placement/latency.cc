#include "placement/latency.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace godwit::placement {
namespace {

double CoresOf(const InstanceUse& use) { return use.requests_per_second * use.cpu_ms / 1000; }

}  // namespace

double BusyCores(const DeviceUse& device) {
  double busy = device.other_cores;
  for (const InstanceUse& use : device.instances) busy += CoresOf(use);
  return busy;
}

double ModelP99Ms(const DeviceUse& device, std::size_t instance) {
  const InstanceUse& use = device.instances[instance];
  if (use.cpu_ms <= 0) return 0;
  const double share = std::clamp(device.cores - (BusyCores(device) - CoresOf(use)), 0.0, 1.0);
  const double left_per_ms = share / use.cpu_ms - use.requests_per_second / 1000;
  return left_per_ms > 0 ? std::log(100.0) / left_per_ms : std::numeric_limits<double>::infinity();
}

MoveForecast ForecastMove(const DeviceUse& source, std::size_t mover, const DeviceUse& target) {
  DeviceUse after = target;
  InstanceUse moved = source.instances[mover];
  const double measured = moved.p99_ms, model = ModelP99Ms(source, mover);
  moved.cpu_ms *= source.speed / target.speed;
  after.instances.push_back(moved);
  MoveForecast forecast;
  const double beyond = std::isfinite(model) ? std::max(0.0, measured - model) : 0;
  forecast.p99_ms = ModelP99Ms(after, after.instances.size() - 1) + beyond;
  for (std::size_t i = 0; i < target.instances.size(); ++i) {
    const double before = ModelP99Ms(target, i), then = ModelP99Ms(after, i), known = target.instances[i].p99_ms;
    forecast.others_ms.push_back(known <= 0 ? 0 : std::isfinite(before) ? known + then - before : known);
  }
  forecast.busy_cores = BusyCores(after);
  forecast.watts = std::min(forecast.busy_cores, after.cores) * after.core_watts;
  return forecast;
}

}  // namespace godwit::placement
