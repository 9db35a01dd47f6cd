#include "control/forecast.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "placement/latency.h"

namespace godwit::control {
namespace {

using model::DeviceRecord;
using model::ServiceRecord;

// What an agent last said may be of instances that have left since.
placement::DeviceUse UseOf(const ClusterView& view, const DeviceRecord& device) {
  placement::DeviceUse use{.cores = static_cast<double>(device.cores), .speed = device.speed, .core_watts = device.core_watts};
  for (const DeviceRecord::Use& one : device.uses) {
    const auto instance = std::ranges::find(view.instances, one.instance, &model::InstanceRecord::id);
    if (instance == view.instances.end() || instance->device != device.name) continue;
    use.instances.push_back({one.instance.value, one.requests_per_second, one.cpu_ms, one.p99_ms});
  }
  use.other_cores = std::max(0.0, device.load * use.cores - placement::BusyCores(use));
  return use;
}

// Empty if it holds, or was broken before and gets no worse.
std::string Broken(const ServiceRecord& service, const DeviceRecord& target, double now_ms, double then_ms) {
  const auto bound = service.manifest.slo_p99_ms;
  if (!bound || then_ms <= *bound || then_ms <= now_ms) return "";
  return fmt::format("predicted p99 of '{}' with it on '{}' is {}, above its [slo] p99_ms = {:.4g} (now {:.4g} ms)", service.name.value,
                     target.name.value, std::isfinite(then_ms) ? fmt::format("{:.4g} ms", then_ms) : "without bound", *bound, now_ms);
}

}  // namespace

Forecast ForecastOf(const ClusterView& view, const ServiceRecord& service, const model::InstanceRecord& instance, const DeviceRecord& target) {
  Forecast forecast;
  const auto source = std::ranges::find(view.devices, instance.device, &DeviceRecord::name);
  if (source == view.devices.end()) return forecast;
  placement::DeviceUse from = UseOf(view, *source);
  auto mover = std::ranges::find(from.instances, instance.id.value, &placement::InstanceUse::instance);
  const bool asked = mover != from.instances.end();
  if (!asked) mover = from.instances.insert(mover, {instance.id.value, 0, 0, 0});
  const placement::DeviceUse to = UseOf(view, target);
  const placement::MoveForecast moved = placement::ForecastMove(from, static_cast<std::size_t>(mover - from.instances.begin()), to);
  forecast.busy_cores = moved.busy_cores;
  forecast.watts = moved.watts;
  if (!asked) return forecast;  // It changes nothing that was measured.
  forecast.p99_ms = moved.p99_ms;
  forecast.now_ms = mover->p99_ms;
  forecast.breaks = Broken(service, target, forecast.now_ms, moved.p99_ms);
  for (std::size_t i = 0; i < to.instances.size() && forecast.breaks.empty(); ++i) {
    const auto there = std::ranges::find(view.instances, model::InstanceId(to.instances[i].instance), &model::InstanceRecord::id);
    const auto its = std::ranges::find(view.services, there->service, &ServiceRecord::name);
    if (its != view.services.end()) forecast.breaks = Broken(*its, target, to.instances[i].p99_ms, moved.others_ms[i]);
  }
  const double watts_now = std::min(placement::BusyCores(to), to.cores) * to.core_watts;
  if (forecast.breaks.empty() && target.power_cap_watts > 0 && moved.watts > target.power_cap_watts && moved.watts > watts_now) {
    forecast.breaks = fmt::format("'{}' would need {:.4g} W by its power model, above its cap of {:.4g} W (now {:.4g} W)", target.name.value,
                                  moved.watts, target.power_cap_watts, watts_now);
  }
  return forecast;
}

}  // namespace godwit::control
