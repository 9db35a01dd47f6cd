// Site: what runs on this device: its instance hosts, from the records that assign them and from migrations that
// bring and take them.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "agent/channel_session.h"
#include "agent/control_client.h"
#include "agent/instance_host.h"
#include "agent/migration_driver.h"
#include "agent/migration_lane.h"
#include "agent/package_cache.h"

namespace godwit::agent {

// Self-synchronised.
class Site final : public MigrationSite {
 public:
  struct Options {
    model::DeviceName device;
    ByteCount memory;
    std::size_t instances_max = 256;
  };
  Site(Options options, std::shared_ptr<Environment> environment, PackageCache& packages, ControlClient& control);
  // Stops all instances.
  ~Site() override;

  // --- Records. Any thread.
  void PutService(const model::ServiceRecord& service);
  void RemoveService(const model::ServiceName& service);
  void PutInstance(const model::InstanceRecord& instance);
  void RemoveInstance(const model::InstanceId& instance);
  std::optional<model::ServiceRecord> service(const model::ServiceName& name) const;

  // --- Requests. On the loop.
  void Open(const wire::OpenRequest& open, const std::shared_ptr<ChannelSession>& session);
  void Attach(const wire::AttachRequest& attach, const std::shared_ptr<ChannelSession>& session);

  // --- MigrationSite
  std::shared_ptr<InstanceHost> Find(const model::InstanceId& id) override;
  void OnLeft(const model::InstanceId& id, const Location& to) override;
  void OnKept(const model::InstanceId& id, model::Epoch epoch) override;
  void OnLost(const model::InstanceId& id, const std::string& reason) override;
  Result<InstanceHost::Options> Prepare(const model::InstanceRecord& record, const model::ServiceRecord& service,
                                        std::uint64_t memory_bytes) override;
  void Abandon(const model::InstanceId& id) override;
  void Adopt(std::shared_ptr<InstanceHost> host) override;
  void OnArrived(const model::InstanceId& id) override;

  struct Resident {
    model::InstanceId instance;
    model::ServiceName service;
    InstanceHost::Statistics statistics;
  };
  std::vector<Resident> residents() const;
  // InstanceHost::Pace of all of them.
  InstanceHost::Computed Pace(double share, std::chrono::steady_clock::duration credit);

 private:
  std::vector<std::shared_ptr<InstanceHost>> Hosts() const;
  struct Entry {
    std::shared_ptr<InstanceHost> host;
    bool arrived = true;  // False: adopted, not confirmed: no request may reach it.
    std::optional<Location> left;
    model::Epoch epoch;
    std::vector<std::function<void(std::shared_ptr<InstanceHost>)>> waiting;  // For its arrival; null: it did not come.
  };
  void StartIfAssigned(const model::InstanceRecord& instance);  // mutex_ is held.
  void StartOne(model::InstanceRecord instance, model::ServiceRecord service);
  void ReportState(const model::InstanceId& id, model::InstanceState state, const std::string& reason);
  void Dispose(std::shared_ptr<InstanceHost> host);
  ByteCount Reserved() const;  // mutex_ is held.

  const Options options_;
  const std::shared_ptr<Environment> environment_;
  PackageCache& packages_;
  ControlClient& control_;
  mutable std::mutex mutex_;
  std::map<model::ServiceName, model::ServiceRecord> services_;
  std::map<model::InstanceId, model::InstanceRecord> assigned_;  // To this device, as the records say.
  std::map<model::InstanceId, Entry> entries_;
  std::set<model::InstanceId> starting_;
  std::map<model::InstanceId, ByteCount> reserved_;  // By Prepare.
  Lane starts_, ends_;
};

}  // namespace godwit::agent
