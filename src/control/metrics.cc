#include "control/metrics.h"

#include <fmt/format.h>

#include <map>

namespace godwit::control {
namespace {

// A label's value, escaped as OpenMetrics 1.0 asks.
std::string Quoted(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '\n') quoted += "\\n";
    else if (c == '"' || c == '\\') (quoted += '\\') += c;
    else quoted += c;
  }
  return quoted + '"';
}

}  // namespace

std::string MetricsText(const ClusterView& view) {
  std::string text = "# TYPE godwit_build info\n";
  text += fmt::format("godwit_build_info{{version=\"{}\"}} 1\n", GODWIT_VERSION);

  std::map<model::DeviceName, std::string_view> classes;
  text += "# TYPE godwit_device_utilization_ratio gauge\n# UNIT godwit_device_utilization_ratio ratio\n";
  for (const auto& device : view.devices) {
    classes[device.name] = ToString(device.device_class);
    text += fmt::format("godwit_device_utilization_ratio{{device={},class=\"{}\"}} {}\n", Quoted(device.name.value),
                        ToString(device.device_class), device.load);
  }

  std::map<std::string, int> instances;
  for (const auto& instance : view.instances) {
    ++instances[fmt::format("service={},device={},class=\"{}\",state=\"{}\"", Quoted(instance.service.value),
                            Quoted(instance.device.value), classes[instance.device], ToString(instance.state))];
  }
  text += "# TYPE godwit_instances gauge\n";
  for (const auto& [labels, count] : instances) text += fmt::format("godwit_instances{{{}}} {}\n", labels, count);

  // Gauges, since the records of old migrations are dropped.
  std::map<std::string, int> migrations;
  for (const auto& migration : view.migrations) {
    ++migrations[fmt::format("reason={},mode={},phase=\"{}\"", Quoted(migration.reason), Quoted(migration.mode),
                             ToString(migration.phase))];
  }
  text += "# TYPE godwit_migration_records gauge\n";
  for (const auto& [labels, count] : migrations) text += fmt::format("godwit_migration_records{{{}}} {}\n", labels, count);
  return text + "# EOF\n";
}

}  // namespace godwit::control
