#include "control/view.h"

#include "control/api.h"

namespace godwit::control {
namespace {

template <typename Record>
void Add(const std::string& json, std::vector<Record>& to) {
  if (auto record = Record::FromJson(json); record.ok()) to.push_back(std::move(*record));
}

}  // namespace

store::Transaction StartOf(const StoredView& stored, const model::MigrationRecord& migration) {
  using store::Compare;
  const std::string key = KeyOf("migrations", migration.id.value), moving_key = std::string(kMovingPrefix) + migration.instance.value;
  const std::string instance_key = KeyOf("instances", migration.instance.value);
  return {{Compare::Absent(moving_key), Compare::Absent(key), Compare::ModifiedAt(instance_key, stored.modified.at(instance_key))},
          {store::Put{key, migration.ToJson(), {}}, store::Put{moving_key, migration.id.value, {}}},
          {}};
}

Result<StoredView> LoadView(store::Metadata& metadata) {
  GODWIT_ASSIGN(const store::RangeResult all, metadata.Range(store::Keys::Prefix("/")));
  StoredView stored;
  stored.revision = all.revision;
  ClusterView& view = stored.view;
  for (const store::KeyValue& item : all.items) {
    stored.modified[item.key] = item.modified;
    const std::size_t slash = item.key.find('/', 1);
    if (slash == item.key.npos) continue;
    const std::string_view kind = std::string_view(item.key).substr(1, slash - 1);
    const std::string name = item.key.substr(slash + 1);
    if (kind == "devices") Add(item.value, view.devices);
    if (kind == "services") Add(item.value, view.services);
    if (kind == "instances") Add(item.value, view.instances);
    if (kind == "migrations") Add(item.value, view.migrations);
    if (kind == "datasets") Add(item.value, view.datasets);
    if (kind == "packages") {
      if (auto record = model::PackageRecord::FromJson(item.value); record.ok()) view.packages[name] = std::move(*record);
    }
    if (kind == "alive") {
      if (const auto boot_id = model::BootId::Parse(item.value)) view.alive[model::DeviceName(name)] = *boot_id;
    }
    if (kind == "moving") stored.moving[model::InstanceId(name)] = model::MigrationId(item.value);
  }
  return stored;
}

}  // namespace godwit::control
