#include "gateway/directory.h"

#include <algorithm>

#include <fmt/format.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "transport/http_client.h"

namespace godwit::gateway {

namespace {

std::vector<std::string_view> Segments(std::string_view path) {
  std::vector<std::string_view> segments;
  while (!path.empty()) {
    path.remove_prefix(1);  // The slash.
    const auto end = std::min(path.find('/'), path.size());
    segments.push_back(path.substr(0, end));
    path.remove_prefix(end);
  }
  if (!segments.empty() && segments.back().empty()) segments.pop_back();
  return segments;
}

// How many segments of the route match; nullopt if it does not. Sets `key`.
std::optional<std::size_t> MatchRoute(std::string_view route, const std::vector<std::string_view>& path, std::optional<std::string>& key) {
  const auto pattern = Segments(route);
  if (pattern.size() > path.size()) return std::nullopt;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const bool parameter = pattern[i].starts_with('{') && pattern[i].ends_with('}');
    if (!parameter && pattern[i] != path[i]) return std::nullopt;
    if (!parameter) continue;
    auto decoded = transport::PercentDecode(path[i]);
    if (!decoded.ok() || decoded->empty()) return std::nullopt;
    key = *std::move(decoded);
  }
  return pattern.size();
}

}  // namespace

void Directory::Put(model::ServiceRecord record) { services_[record.name] = std::move(record); }
void Directory::Put(model::DeviceRecord record) { devices_[record.name] = std::move(record); }

void Directory::Put(model::InstanceRecord record) {
  Instance& known = instances_[record.id];
  if (known.record.epoch > record.epoch && !known.record.id.empty()) return;
  if (known.record.device != record.device || known.record.epoch != record.epoch) known.learned_channel.clear();
  known.record = std::move(record);
}

void Directory::Remove(const model::ServiceName& service) { services_.erase(service); }
void Directory::Remove(const model::InstanceId& instance) { instances_.erase(instance); }
void Directory::Remove(const model::DeviceName& device) { devices_.erase(device); }

void Directory::Learn(const Place& place) {
  const auto found = instances_.find(place.instance);
  if (found == instances_.end() || found->second.record.epoch > place.epoch) return;
  found->second.record.device = place.device;
  found->second.record.epoch = place.epoch;
  found->second.record.state = model::InstanceState::kRunning;
  found->second.learned_channel = place.channel;
}

std::optional<RouteMatch> Directory::Match(std::string_view path) const {
  if (!path.starts_with('/')) return std::nullopt;
  const auto segments = Segments(path);
  std::optional<RouteMatch> best;
  std::size_t best_length = 0;
  for (const auto& [name, record] : services_) {
    for (const auto& trigger : record.manifest.http) {
      std::optional<std::string> key;
      const auto length = MatchRoute(trigger.route, segments, key);
      if (!length || (best && *length < best_length)) continue;
      // Of equally long routes one without a parameter is the closer one.
      if (best && *length == best_length && !(best->key && !key)) continue;
      best = RouteMatch{name, trigger.route, std::move(key)};
      best_length = *length;
    }
  }
  return best;
}

std::optional<RouteMatch> Directory::MatchWithin(const model::ServiceName& service, std::string_view path) const {
  const auto* record = this->service(service);
  if (!record) return std::nullopt;
  RouteMatch best{service, "", std::nullopt};
  std::optional<std::size_t> best_length;
  const auto segments = path.starts_with('/') ? Segments(path) : std::vector<std::string_view>();
  for (const auto& trigger : record->manifest.http) {
    std::optional<std::string> key;
    const auto length = MatchRoute(trigger.route, segments, key);
    if (!length || (best_length && *length <= *best_length)) continue;
    best = RouteMatch{service, trigger.route, std::move(key)};
    best_length = length;
  }
  return best;
}

const model::ServiceRecord* Directory::service(const model::ServiceName& name) const {
  const auto found = services_.find(name);
  return found == services_.end() ? nullptr : &found->second;
}

std::optional<Place> Directory::PlaceOf(const Instance& instance) const {
  const auto& record = instance.record;
  if (record.state != model::InstanceState::kRunning || record.device.empty()) return std::nullopt;
  std::string channel = instance.learned_channel;
  if (const auto device = devices_.find(record.device); device != devices_.end() && !device->second.channel.empty()) channel = device->second.channel;
  if (channel.empty()) return std::nullopt;
  return Place{record.id, record.device, channel, record.epoch};
}

std::optional<Place> Directory::Find(const model::InstanceId& instance) const {
  const auto found = instances_.find(instance);
  return found == instances_.end() ? std::nullopt : PlaceOf(found->second);
}

bool Directory::Serves(const Instance& instance, const RouteMatch& match) const {
  if (instance.record.service != match.service) return false;
  const auto* record = service(match.service);
  if (!record || record->manifest.state == model::StateClass::kStateless || record->manifest.shards <= 1) return true;
  return instance.record.shard == ShardOf(match.key.value_or(""), record->manifest.shards);
}

std::vector<Place> Directory::Candidates(const RouteMatch& match) const {
  std::vector<Place> places;
  for (const auto& [id, instance] : instances_) {
    if (!Serves(instance, match)) continue;
    if (auto place = PlaceOf(instance)) places.push_back(*std::move(place));
  }
  return places;
}

std::string Directory::WhyNone(const RouteMatch& match) const {
  for (const auto& [id, instance] : instances_) {
    if (!Serves(instance, match)) continue;
    const auto& record = instance.record;
    if (record.state == model::InstanceState::kRunning) {
      return fmt::format("instance {} runs on {}, whose channel is not known here", id.value, record.device.value);
    }
    return fmt::format("instance {} is {}{}{}", id.value, model::ToString(record.state), record.reason.empty() ? "" : ": ", record.reason);
  }
  return "it has no instance yet";
}

std::uint32_t Directory::ShardOf(std::string_view key, std::uint32_t shards) {
  return shards <= 1 ? 0 : static_cast<std::uint32_t>(XXH64(key.data(), key.size(), 0) % shards);
}

}  // namespace godwit::gateway
