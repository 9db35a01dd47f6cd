#include "device/profile.h"

#include <cmath>
#include <set>

#include <fmt/format.h>
#include "model/manifest.h"
#include "model/toml.h"

namespace godwit::device {
namespace {

constexpr double kCoresMax = 4096, kSpeedMax = 1000, kQueueMax = 65536, kRateMax = 1e13, kLatencyMax = 1e9, kWattsMax = 1000;

Error Bad(std::string_view key, std::string_view what) { return InvalidArgument(fmt::format("device profile: {} {}", key, what)); }

Status ReadNumber(const toml::table& table, const char* key, double least, double most, double* to) {
  const auto node = table[key];
  if (!node) return {};
  const auto value = node.value<double>();
  if (!value || !(*value >= least && *value <= most)) return Bad(key, fmt::format("must be a number from {} to {}", least, most));
  *to = *value;
  return {};
}

Status ReadSize(const toml::table& table, const char* key, ByteCount* to) {
  const auto node = table[key];
  if (!node) return {};
  const auto text = node.value<std::string>();
  const auto bytes = text ? model::ParseByteCount(*text) : std::nullopt;
  if (!bytes || bytes->value == 0) return Bad(key, "must be a size as \"256Mi\"");
  *to = *bytes;
  return {};
}

}  // namespace

Result<Profile> ParseProfile(std::string_view text) {
  toml::table table;
  try {
    table = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return InvalidArgument(fmt::format("device profile: line {}: {}", error.source().begin.line, std::string(error.description())));
  } catch (const std::exception& error) {
    return InvalidArgument(fmt::format("device profile: {}", error.what()));
  }
  static const std::set<std::string_view> kKeys = {"name", "class", "cores", "speed", "memory", "tenant_memory", "queue_max",
                                                   "link_bytes_per_second", "link_latency_us", "core_watts", "foreground_p99_us"};
  for (const auto& [key, value] : table) {
    if (kKeys.count(key.str()) == 0) return Bad(key.str(), "is no key of a profile");
  }
  Profile profile;
  profile.name = table["name"].value_or(std::string());
  profile.device_class = table["class"].value_or(std::string());
  if (profile.name.empty()) return Bad("name", "is missing");
  static const std::set<std::string_view> kClasses = {"host", "dpu", "csd", "cpm"};
  if (kClasses.count(profile.device_class) == 0) return Bad("class", "must be host, dpu, csd or cpm");
  double cores = profile.cores, queue = profile.queue_max, foreground = 0;
  GODWIT_TRY(ReadNumber(table, "cores", 1, kCoresMax, &cores));
  GODWIT_TRY(ReadNumber(table, "queue_max", 1, kQueueMax, &queue));
  profile.cores = static_cast<std::uint32_t>(cores);
  profile.queue_max = static_cast<std::uint32_t>(queue);
  GODWIT_TRY(ReadNumber(table, "foreground_p99_us", 0, kLatencyMax, &foreground));
  profile.foreground_p99_us = static_cast<std::uint32_t>(foreground);
  GODWIT_TRY(ReadNumber(table, "speed", 0.001, kSpeedMax, &profile.speed));
  GODWIT_TRY(ReadSize(table, "memory", &profile.memory));
  GODWIT_TRY(ReadSize(table, "tenant_memory", &profile.tenant_memory));
  GODWIT_TRY(ReadNumber(table, "link_bytes_per_second", 0, kRateMax, &profile.link_bytes_per_second));
  GODWIT_TRY(ReadNumber(table, "link_latency_us", 0, kLatencyMax, &profile.link_latency_us));
  GODWIT_TRY(ReadNumber(table, "core_watts", 0, kWattsMax, &profile.core_watts));
  return profile;
}

std::uint64_t EnergyUj(const Profile& profile, std::uint64_t busy_us) {
  return static_cast<std::uint64_t>(std::llround(profile.core_watts * static_cast<double>(busy_us)));
}

}  // namespace godwit::device
