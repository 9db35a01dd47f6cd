// Reconcile: which changes bring the cluster's records nearer to what its services ask for. Pure: a view in, decisions
// out; no I/O, no clock.
//
// A service without a live instance gets one on a fitting device. A device whose lease is gone is offline: its
// stateless instances are placed elsewhere, its stateful ones are Failed, since their state was there. A device that is
// drained has its instances moved elsewhere, few at once. A migration that nobody can finish is ended. Applying all decisions and reconciling again yields none.
#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/records.h"

namespace godwit::control {

struct ClusterView {
  std::vector<model::DeviceRecord> devices;
  std::map<model::DeviceName, model::BootId> alive;  // Devices that hold their lease.
  std::vector<model::ServiceRecord> services;
  std::map<std::string, model::PackageRecord> packages;  // By digest.
  std::vector<model::InstanceRecord> instances;
  std::vector<model::MigrationRecord> migrations;
  std::vector<model::DatasetRecord> datasets;
  // Instances that failed so lately that they are not started again yet, and migrations without progress for too
  // long: what of the clock matters here.
  std::set<model::InstanceId> failed_lately;
  std::set<model::MigrationId> stalled;
  // Targets to which an instance could not be moved lately.
  std::set<std::pair<model::InstanceId, model::DeviceName>> refused_lately;
};

// Moves for draining at once: away from one device, and in the cluster.
inline constexpr std::size_t kDrainsOfDeviceMax = 2, kDrainsMax = 4;
// MigrationRecord::reason of these.
inline constexpr std::string_view kDrainReason = "drain";

struct SetDeviceState {
  model::DeviceName device;
  model::DeviceState state;
};
struct CreateInstance {
  model::InstanceRecord instance;
};
struct DeleteInstance {
  model::InstanceId instance;
};
struct SetInstanceState {
  model::InstanceId instance;
  model::InstanceState state;
  std::string reason;
};
struct EndMigration {
  model::MigrationId migration;
  model::MigrationPhase phase;
  std::string error;
};
struct StartMigration {
  model::MigrationRecord migration;
};
using Decision = std::variant<SetDeviceState, CreateInstance, DeleteInstance, SetInstanceState, EndMigration, StartMigration>;

// `new_id` makes an instance's id from a prefix.
std::vector<Decision> Reconcile(const ClusterView& view,
                                const std::function<std::string(const std::string& prefix)>& new_id);

// The intent to move `instance` of `service` from its device to `target`, both known to `view`, as its manifest has it.
model::MigrationRecord NewMigration(const ClusterView& view, const model::ServiceRecord& service, const model::InstanceRecord& instance,
                                    const model::DeviceName& target, model::MigrationId id);

// The device for one more instance of `service`, or for `moving`, which is somewhere else already. Required: the lease, state ready, the manifest's [placement]
// require, code for its ISA, memory. Then the first that decides: that the move is predicted to break no [slo] and no power cap (forecast.h), prefer,
// near, class host first, fewest instances, name. kResourceExhausted: none fits; the message says for each why not.
Result<model::DeviceName> ChooseDevice(const ClusterView& view, const model::ServiceRecord& service,
                                       const model::InstanceRecord* moving = nullptr);

// Why `device` can never run an instance of `service`; empty if it can.
std::string Misfit(const ClusterView& view, const model::ServiceRecord& service, const model::DeviceRecord& device);

// Why the instances of `service` stay where they are, whatever they do at the moment; empty if they may move.
std::string WhyStays(const ClusterView& view, const model::ServiceRecord& service);

// The reason that instances of a lost device get; while it stands, the device may come back with them.
std::string LostReason(const model::DeviceName& device);

}  // namespace godwit::control
