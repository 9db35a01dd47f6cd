#include "control/reconcile.h"

#include <algorithm>
#include <tuple>

#include <fmt/format.h>

#include "control/forecast.h"

namespace godwit::control {
namespace {

using namespace model;

template <typename Record, typename Id>
const Record* Find(const std::vector<Record>& records, const Id& id, Id Record::*member) {
  const auto found = std::find_if(records.begin(), records.end(), [&](const Record& r) { return r.*member == id; });
  return found == records.end() ? nullptr : &*found;
}

bool Live(const ClusterView& view, const DeviceName& device) { return view.alive.count(device) != 0; }

bool Matches(const DeviceRecord& device, const std::string& key, const std::string& value) {
  if (key == "class") return ToString(device.device_class) == value;
  if (key == "isa") return device.isa == value;
  return device.name.value == value;
}

class Reconciler {
 public:
  Reconciler(const ClusterView& view, const std::function<std::string(const std::string&)>& new_id)
      : view_(view), after_(view), new_id_(new_id) {}

  std::vector<Decision> Run() {
    for (const DeviceRecord& device : view_.devices) ReconcileDevice(device);
    for (const MigrationRecord& migration : view_.migrations) ReconcileMigration(migration);
    for (const InstanceRecord& instance : view_.instances) ReconcileInstance(instance);
    for (const DeviceRecord& device : view_.devices) Drain(device);
    for (const ServiceRecord& service : view_.services) ReconcileService(service);
    return std::move(decisions_);
  }

 private:
  void ReconcileDevice(const DeviceRecord& device) {
    if (device.state != DeviceState::kOffline && !Live(view_, device.name)) {
      decisions_.push_back(SetDeviceState{device.name, DeviceState::kOffline});
    }
  }

  void ReconcileMigration(const MigrationRecord& migration) {
    if (IsFinal(migration.phase)) return;
    const auto end = [&](MigrationPhase phase, const std::string& error) {
      decisions_.push_back(EndMigration{migration.id, phase, error});
      for (MigrationRecord& record : after_.migrations) {
        if (record.id == migration.id) record.phase = phase;
      }
    };
    const InstanceRecord* instance = Find(view_.instances, migration.instance, &InstanceRecord::id);
    if (!instance) return end(MigrationPhase::kFailed, "the instance was deleted");
    if (instance->epoch >= migration.epoch && instance->device == migration.target) {
      // The target has it; only the source's report is missing, and will not come.
      if (!Live(view_, migration.source) || view_.stalled.count(migration.id)) end(MigrationPhase::kDone, "");
      return;
    }
    if (instance->epoch == migration.epoch && instance->device == migration.source) {
      // The source won it back from a dead target; it says so itself, if it can.
      if (!Live(view_, migration.source) || view_.stalled.count(migration.id)) {
        end(MigrationPhase::kFailed, "the target " + migration.target.value + " was lost; the source went on");
      }
      return;
    }
    if (instance->epoch >= migration.epoch || instance->device != migration.source) {
      return end(MigrationPhase::kFailed, "the instance got another owner meanwhile");
    }
    // Once the state was sent, the target alone may have it and say so by confirming: wait for that.
    const bool sent = migration.phase >= MigrationPhase::kCommitting;
    if (!Live(view_, migration.source) && !(sent && Live(view_, migration.target) && !view_.stalled.count(migration.id))) {
      return end(MigrationPhase::kFailed, "the source " + migration.source.value + " is offline");
    }
    if (view_.stalled.count(migration.id)) {
      end(MigrationPhase::kFailed, "the source's agent made no progress in time while it was " +
                                       std::string(ToString(migration.phase)));
    }
  }

  bool Moving(const InstanceRecord& instance) const {
    return std::any_of(after_.migrations.begin(), after_.migrations.end(), [&](const MigrationRecord& m) {
      return m.instance == instance.id && !IsFinal(m.phase);
    });
  }

  void Delete(const InstanceRecord& instance) {
    decisions_.push_back(DeleteInstance{instance.id});
    std::erase_if(after_.instances, [&](const InstanceRecord& i) { return i.id == instance.id; });
  }

  void ReconcileInstance(const InstanceRecord& instance) {
    const ServiceRecord* service = Find(view_.services, instance.service, &ServiceRecord::name);
    if (!service) return Delete(instance);
    const bool stateless = service->manifest.state == StateClass::kStateless;
    if (!Live(view_, instance.device)) {
      // One that never ran has no state to lose.
      if (stateless || instance.state == InstanceState::kPending) return Delete(instance);
      if (instance.state != InstanceState::kFailed) {
        decisions_.push_back(SetInstanceState{instance.id, InstanceState::kFailed, LostReason(instance.device)});
      }
      return;
    }
    if (!stateless || Moving(instance)) return;
    if (instance.state == InstanceState::kFailed && !view_.failed_lately.count(instance.id)) return Delete(instance);
    if (instance.package != service->package) return Delete(instance);
  }

  void Drain(const DeviceRecord& device) {
    if (device.maintenance < Maintenance::kDrain || !Live(view_, device.name)) return;
    for (const InstanceRecord& instance : view_.instances) {
      const ServiceRecord* service = Find(view_.services, instance.service, &ServiceRecord::name);
      if (instance.device != device.name || !service || Moving(instance)) continue;
      // Where nothing would be lost another one is made elsewhere.
      const bool stays = !WhyStays(view_, *service).empty();
      if (instance.state == InstanceState::kPending || (stays && service->manifest.state == StateClass::kStateless)) {
        Delete(instance);
        continue;
      }
      if (instance.state != InstanceState::kRunning || stays) continue;
      std::size_t here = 0, everywhere = 0;
      for (const MigrationRecord& migration : after_.migrations) {
        if (IsFinal(migration.phase)) continue;
        ++everywhere;
        here += migration.source == device.name;
      }
      if (here >= kDrainsOfDeviceMax || everywhere >= kDrainsMax) continue;
      const Result<DeviceName> target = ChooseDevice(after_, *service, &instance);
      if (!target.ok()) continue;
      MigrationRecord migration = NewMigration(view_, *service, instance, *target, MigrationId(new_id_("m")));
      migration.reason = kDrainReason;
      after_.migrations.push_back(migration);
      decisions_.push_back(StartMigration{std::move(migration)});
    }
  }

  void ReconcileService(const ServiceRecord& service) {
    std::map<std::uint32_t, std::vector<const InstanceRecord*>> by_shard;
    for (const InstanceRecord& instance : after_.instances) {
      if (instance.service == service.name) by_shard[instance.shard].push_back(&instance);
    }
    if (service.manifest.state == StateClass::kStateless) {
      auto& mine = by_shard[0];
      std::vector<InstanceRecord> surplus;
      while (mine.size() > service.manifest.scale_max) {
        surplus.push_back(*mine.back());
        mine.pop_back();
      }
      std::size_t count = mine.size();
      for (const InstanceRecord& instance : surplus) Delete(instance);
      for (; count < service.manifest.scale_min; ++count) Create(service, 0);
      return;
    }
    for (std::uint32_t shard = 0; shard < service.manifest.shards; ++shard) {
      if (by_shard[shard].empty()) Create(service, shard);
    }
  }

  void Create(const ServiceRecord& service, std::uint32_t shard) {
    const Result<DeviceName> device = ChooseDevice(after_, service);
    if (!device.ok()) return;
    InstanceRecord instance;
    instance.id = InstanceId(new_id_(service.name.value + "-" + std::to_string(shard)));
    instance.service = service.name;
    instance.shard = shard;
    instance.device = *device;
    instance.package = service.package;
    decisions_.push_back(CreateInstance{instance});
    after_.instances.push_back(instance);
  }

  const ClusterView& view_;
  ClusterView after_;  // The view with the decisions so far applied.
  const std::function<std::string(const std::string&)>& new_id_;
  std::vector<Decision> decisions_;
};

}  // namespace

std::string LostReason(const DeviceName& device) { return "its device " + device.value + " is offline"; }

std::string Misfit(const ClusterView& view, const ServiceRecord& service, const DeviceRecord& device) {
  for (const auto& [key, value] : service.manifest.placement.require) {
    if (!Matches(device, key, value)) return "[placement] requires " + key + " = " + value;
  }
  const auto package = view.packages.find(service.package);
  if (package != view.packages.end() && !package->second.isas.empty()) {
    const auto& isas = package->second.isas;
    if (std::find(isas.begin(), isas.end(), device.isa) == isas.end()) return "the package has no code for " + device.isa;
  }
  if (device.memory.value != 0 && device.memory < service.manifest.limits.memory) {
    return "it has less memory than [limits] memory = " + FormatByteCount(service.manifest.limits.memory);
  }
  return "";
}

std::string WhyStays(const ClusterView& view, const ServiceRecord& service) {
  if (!service.manifest.migration.allow) return "[migration] allow = false";
  if (service.manifest.kind != model::ServiceKind::kCommand) return "";
  for (const auto& [name, access] : service.manifest.data) {
    const DatasetRecord* dataset = Find(view.datasets, name, &DatasetRecord::name);
    const bool with_it = dataset != nullptr && std::ranges::any_of(view.instances, [&](const InstanceRecord& instance) {
      return instance.service == service.name && instance.device == dataset->device;
    });
    if (with_it) return fmt::format("it reads dataset '{}' as a file of device '{}', and files of a device do not move", name.value, dataset->device.value);
  }
  return "";
}

MigrationRecord NewMigration(const ClusterView& view, const ServiceRecord& service, const InstanceRecord& instance, const DeviceName& target,
                             MigrationId id) {
  MigrationRecord migration;
  migration.id = std::move(id);
  migration.service = service.name;
  migration.instance = instance.id;
  migration.shard = instance.shard;
  migration.source = instance.device;
  migration.target = target;
  migration.epoch = instance.epoch.Next();
  migration.mode = "auto";
  for (const DeviceRecord& device : view.devices) {
    if (device.name == instance.device) migration.source_isa = device.isa;
    if (device.name == target) migration.target_isa = device.isa;
  }
  if (service.manifest.migration.max_downtime) {
    migration.max_downtime_ms = static_cast<std::uint64_t>(service.manifest.migration.max_downtime->count());
  }
  return migration;
}

Result<DeviceName> ChooseDevice(const ClusterView& view, const ServiceRecord& service, const InstanceRecord* moving) {
  // Smaller is better, members in the order of the header.
  using Rank = std::tuple<bool, int, int, int, std::size_t, DeviceName>;
  std::optional<Rank> best;
  std::string reasons;
  for (const DeviceRecord& device : view.devices) {
    std::string reason = Misfit(view, service, device);
    if (!Live(view, device.name)) reason = "is offline";
    else if (device.state != DeviceState::kReady) reason = "is " + std::string(ToString(device.state));
    else if (moving && moving->device == device.name) reason = "has it";
    else if (moving && view.refused_lately.count({moving->id, device.name}) != 0) reason = "could not take it a moment ago";
    if (!reason.empty()) {
      reasons += "; " + device.name.value + ": " + reason;
      continue;
    }
    int unmet = 0;
    for (const auto& [key, value] : service.manifest.placement.prefer) unmet += !Matches(device, key, value);
    bool far = false;
    if (service.manifest.placement.near) {
      const DatasetRecord* dataset = Find(view.datasets, *service.manifest.placement.near, &DatasetRecord::name);
      far = dataset && dataset->device != device.name;
    }
    const auto instances = std::count_if(view.instances.begin(), view.instances.end(),
                                         [&](const InstanceRecord& i) { return i.device == device.name; });
    const bool breaks = moving && !ForecastOf(view, service, *moving, device).breaks.empty();
    const Rank rank{breaks, unmet, far, device.device_class != DeviceClass::kHost, static_cast<std::size_t>(instances), device.name};
    if (!best || rank < *best) best = rank;
  }
  if (best) return std::get<DeviceName>(*best);
  return ResourceExhausted("no device fits" + (reasons.empty() ? ": there are none" : reasons));
}

std::vector<Decision> Reconcile(const ClusterView& view, const std::function<std::string(const std::string&)>& new_id) {
  return Reconciler(view, new_id).Run();
}

}  // namespace godwit::control
