// MigrationStore: what a migration's two ends ask of the control plane.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "model/ids.h"
#include "model/records.h"

namespace godwit::agent {

// Blocks; self-synchronised. kUnavailable and kDeadlineExceeded: the effect is unknown, ask again.
class MigrationStore {
 public:
  virtual ~MigrationStore() = default;
  // Merges the members of `patch` (a JSON object) into the migration's record.
  virtual Status Patch(const model::MigrationId& id, const std::string& patch) = 0;
  // Makes `device` the owner at `epoch` if that is the next one. Idempotent. kFailedPrecondition, kNotFound: never.
  virtual Status Confirm(const model::InstanceId& instance, const model::DeviceName& device, model::Epoch epoch,
                         const model::MigrationId& migration) = 0;
  virtual Result<model::InstanceRecord> Instance(const model::InstanceId& id) = 0;
  virtual Result<model::DeviceRecord> Device(const model::DeviceName& name) = 0;
};

// Over the controller's /v1 API. `token` may be empty.
Result<std::unique_ptr<MigrationStore>> ConnectMigrationStore(const std::string& url, const std::string& token);

}  // namespace godwit::agent
