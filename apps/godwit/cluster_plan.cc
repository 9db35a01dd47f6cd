#include "cluster_plan.h"

#include <fmt/format.h>
#include <unistd.h>

#include "model/toml.h"
#include <algorithm>
#include <cctype>
#include <set>

#include "model/manifest.h"

namespace godwit::cli {
namespace {

constexpr double kCoresMax = 1024;
constexpr std::uint64_t kLinkMbpsMax = 400'000;
constexpr std::size_t kNameMax = 32;  // Shorter than any limit on cgroup names and host names.

double MachineCores() { return static_cast<double>(std::max(1L, sysconf(_SC_NPROCESSORS_ONLN))); }

bool IsName(std::string_view name) {
  return !name.empty() && name.size() <= kNameMax && std::isalpha(static_cast<unsigned char>(name[0])) &&
         std::all_of(name.begin(), name.end(),
                     [](unsigned char c) { return std::islower(c) || std::isdigit(c) || c == '-'; });
}

Result<PlannedDevice> ParseDevice(const toml::table& table, const std::string& where) {
  static const std::set<std::string_view> kKeys = {"name", "class", "isa", "cores", "memory", "link_mbps",
                                                  "speed", "core_watts", "power_cap_watts", "foreground_p99_us", "data_cache", "trust_domain"};
  for (const auto& [key, node] : table) {
    if (!kKeys.contains(key.str()))
      return InvalidArgument(fmt::format("{}: unknown key '{}'", where, key.str()));
  }
  PlannedDevice device;
  device.name = table["name"].value_or(std::string());
  if (!IsName(device.name)) {
    return InvalidArgument(where +
                           ": 'name' must be a lower-case name of letters, digits and '-', at most 32 long");
  }
  device.device_class = table["class"].value_or(std::string("host"));
  static const std::set<std::string_view> kClasses = {"host", "dpu", "csd", "cpm"};
  if (!kClasses.contains(device.device_class)) {
    return InvalidArgument(
        fmt::format("{}: class '{}' is none of host, dpu, csd, cpm", where, device.device_class));
  }
  const std::string isa = table["isa"].value_or(std::string("native"));
  if (isa != "native" && isa != "aarch64") {
    return InvalidArgument(fmt::format("{}: isa '{}' is neither native nor aarch64", where, isa));
  }
  device.aarch64 = isa == "aarch64";
  device.cores = table["cores"].value_or(1.0);
  if (!(device.cores >= 0.05 && device.cores <= kCoresMax)) {
    return InvalidArgument(where + ": 'cores' must be between 0.05 and 1024");
  }
  const std::string memory = table["memory"].value_or(std::string("1Gi"));
  const auto bytes = model::ParseByteCount(memory);
  if (!bytes || bytes->value == 0) {
    return InvalidArgument(fmt::format("{}: memory '{}' is no size such as \"512Mi\"", where, memory));
  }
  device.memory = *bytes;
  const std::string data_cache = table["data_cache"].value_or(std::string("0"));
  const auto cache_bytes = model::ParseByteCount(data_cache);
  if (!cache_bytes) return InvalidArgument(fmt::format("{}: data_cache '{}' is no size such as \"512Mi\"", where, data_cache));
  device.data_cache = *cache_bytes;
  device.trust_domain = table["trust_domain"].value_or(std::string());
  if (!device.trust_domain.empty()) GODWIT_TRY(model::CheckName(where + ": 'trust_domain'", device.trust_domain));
  const auto link = table["link_mbps"].value_or(std::int64_t{0});
  if (link < 0 || static_cast<std::uint64_t>(link) > kLinkMbpsMax) {
    return InvalidArgument(where + ": 'link_mbps' must be between 0 (the host) and 400000");
  }
  device.link_mbps = static_cast<std::uint64_t>(link);
  device.speed = table["speed"].value_or(1.0);
  if (!(device.speed >= 0.001 && device.speed <= 1000)) return InvalidArgument(where + ": 'speed' must be between 0.001 and 1000");
  device.core_watts = table["core_watts"].value_or(0.0);
  device.power_cap_watts = table["power_cap_watts"].value_or(0.0);
  device.foreground_p99_us = table["foreground_p99_us"].value_or(0.0);
  if (!(device.foreground_p99_us >= 0 && device.foreground_p99_us <= 1e9)) return InvalidArgument(where + ": 'foreground_p99_us' must be between 0 and 1000000000");
  if (!(device.core_watts >= 0 && device.core_watts <= 1e4)) return InvalidArgument(where + ": 'core_watts' must be between 0 and 10000");
  if (!(device.power_cap_watts >= 0 && device.power_cap_watts <= 1e6)) return InvalidArgument(where + ": 'power_cap_watts' must be between 0 and 1000000");
  return device;
}

}  // namespace

ClusterPlan DefaultPlan() {
  ClusterPlan plan;
  plan.devices = {
      {"host0", "host", false, MachineCores(), 4_GiB, 0},
      {"csd0", "csd", false, 1, 1_GiB, 500},
      {"csd1", "csd", true, 1, 1_GiB, 2000},
      {"cpm0", "cpm", false, 0.5, 2_GiB, 8000},
  };
  return plan;
}

Result<ClusterPlan> ParsePlan(std::string_view text, std::string_view source_name) {
  toml::table document;
  try {
    document = toml::parse(text, source_name);
  } catch (const toml::parse_error& error) {
    return InvalidArgument(
        fmt::format("{}:{}: {}", source_name, error.source().begin.line, error.description()));
  } catch (const std::runtime_error& error) {
    return InvalidArgument(fmt::format("{}: {}", source_name, error.what()));
  }
  for (const auto& [key, node] : document) {
    if (key.str() != "device")
      return InvalidArgument(fmt::format("{}: unknown key '{}'", source_name, key.str()));
  }
  const toml::array* devices = document["device"].as_array();
  if (devices == nullptr || devices->empty() || devices->size() > ClusterPlan::kDevicesMax) {
    return InvalidArgument(
        fmt::format("{}: needs 1 to {} [[device]] tables", source_name, ClusterPlan::kDevicesMax));
  }
  ClusterPlan plan;
  std::set<std::string> names;
  for (const toml::node& node : *devices) {
    const std::string where = fmt::format("{}: device {}", source_name, plan.devices.size() + 1);
    const toml::table* table = node.as_table();
    if (table == nullptr) return InvalidArgument(where + ": is not a table");
    GODWIT_ASSIGN(PlannedDevice device, ParseDevice(*table, where));
    if (!names.insert(device.name).second)
      return InvalidArgument(fmt::format("{}: '{}' is there twice", where, device.name));
    plan.devices.push_back(std::move(device));
  }
  const auto hosts =
      std::count_if(plan.devices.begin(), plan.devices.end(), [](const auto& d) { return d.link_mbps == 0; });
  if (hosts != 1) {
    return InvalidArgument(fmt::format(
        "{}: exactly one device must have no 'link_mbps' (the host); {} have none", source_name, hosts));
  }
  return plan;
}

}  // namespace godwit::cli
