// Forecast: what a move would do to latencies and power, from what the devices' agents measured of late (placement/latency.h).
#pragma once

#include <optional>
#include <string>

#include "control/reconcile.h"

namespace godwit::control {

struct Forecast {
  std::optional<double> p99_ms;  // Of the instance at the target; infinite where it would be asked for more than is left. nullopt: no requests of late.
  double now_ms = 0;             // Where it is.
  double busy_cores = 0, watts = 0;  // Of the target.
  // The [slo] p99_ms, of it or of one that is there, or the power cap that would be broken, with the figures; empty: none. What is broken
  // already, and would not get worse, does not count.
  std::string breaks;
};
// Of moving `instance` of `service` to `target`; all of `view`.
Forecast ForecastOf(const ClusterView& view, const model::ServiceRecord& service, const model::InstanceRecord& instance,
                    const model::DeviceRecord& target);

}  // namespace godwit::control
