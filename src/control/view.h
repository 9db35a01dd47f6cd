// The cluster's records as the metadata store has them at one revision.
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "control/reconcile.h"
#include "store/metadata.h"

namespace godwit::control {

struct StoredView {
  ClusterView view;
  store::Revision revision;
  std::map<std::string, store::Revision> modified;  // Of each key that was read.
  std::map<model::InstanceId, model::MigrationId> moving;
};

// What begins the migration: its record and the instance's lock, provided that the instance is as it was read.
store::Transaction StartOf(const StoredView& stored, const model::MigrationRecord& migration);

// Records that cannot be read (written by something else) are left out: one bad record must not stop the others.
Result<StoredView> LoadView(store::Metadata& metadata);

}  // namespace godwit::control
