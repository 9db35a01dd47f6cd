// Directory: which service a path belongs to, and where its instances are, as far as this gateway knows. Pure.
//
// Records come from the controller's watches, which lag behind; news of a move also comes from agents. Of two
// statements about an instance the one with the higher epoch is right.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "model/ids.h"
#include "model/records.h"

namespace godwit::gateway {

// Where an instance is to be reached.
struct Place {
  model::InstanceId instance;
  model::DeviceName device;
  std::string channel;  // host:port
  model::Epoch epoch;
  friend bool operator==(const Place&, const Place&) = default;
};

struct RouteMatch {
  model::ServiceName service;
  std::string route;               // As the manifest has it.
  std::optional<std::string> key;  // The text where the route has its {parameter}.
};

class Directory {
 public:
  void Put(model::ServiceRecord record);
  void Put(model::InstanceRecord record);  // Ignored where a higher epoch is known.
  void Put(model::DeviceRecord record);
  void Remove(const model::ServiceName& service);
  void Remove(const model::InstanceId& instance);
  void Remove(const model::DeviceName& device);
  // An agent said that the instance moved. Ignored where a higher epoch is known.
  void Learn(const Place& place);

  // The service whose route matches the beginning of `path`, segment by segment; the longest wins, and of equally
  // long ones the one whose name comes first.
  std::optional<RouteMatch> Match(std::string_view path) const;
  // As Match, among the routes of `service` alone. A service without a route that matches gets an empty one.
  std::optional<RouteMatch> MatchWithin(const model::ServiceName& service, std::string_view path) const;

  const model::ServiceRecord* service(const model::ServiceName& name) const;
  // Where the instance is, if it runs and its device's channel is known.
  std::optional<Place> Find(const model::InstanceId& instance) const;
  // The instances that can take a request of that key: of a stateful service the key's shard, else all that run.
  std::vector<Place> Candidates(const RouteMatch& match) const;
  // Why Candidates is empty, for people.
  std::string WhyNone(const RouteMatch& match) const;

  static std::uint32_t ShardOf(std::string_view key, std::uint32_t shards);

 private:
  struct Instance {
    model::InstanceRecord record;
    std::string learned_channel;  // From Learn; used while the record's device is the learned one.
  };
  std::optional<Place> PlaceOf(const Instance& instance) const;
  bool Serves(const Instance& instance, const RouteMatch& match) const;

  std::map<model::ServiceName, model::ServiceRecord> services_;
  std::map<model::InstanceId, Instance> instances_;
  std::map<model::DeviceName, model::DeviceRecord> devices_;
};

}  // namespace godwit::gateway
