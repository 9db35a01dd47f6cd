#include "control/api.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "control/forecast.h"
#include "control/metrics.h"
#include "control/openapi.h"
#include "control/view.h"
#include "package/isa.h"

namespace godwit::control {
namespace {

using namespace model;
using nlohmann::json;
using store::Compare;
using store::Delete;
using store::Get;
using store::KeyValue;
using store::Keys;
using store::Put;
using store::Transaction;

constexpr int kAttemptsMax = 16;  // Of a read-change-write that others keep overtaking.
constexpr std::size_t kLogBatchMax = 1000;
constexpr ByteCount kPackageIndexBytesMax = 1_MiB;

std::string ETagOf(store::Revision revision) { return "\"" + std::to_string(revision.value) + "\""; }

ApiResponse Json(int status, const json& body, std::string etag = "") {
  return {status, "application/json", body.dump() + "\n", std::move(etag)};
}
ApiResponse Record(int status, const std::string& value, store::Revision revision) {
  return {status, "application/json", value + "\n", ETagOf(revision)};
}

json Parse(const std::string& text) {
  json document = json::parse(text, nullptr, false);
  return document.is_discarded() ? json() : document;
}

Result<json> BodyObject(const ApiRequest& request) {
  json body = Parse(request.body);
  if (!body.is_object()) return InvalidArgument("the body must be a JSON object");
  return body;
}

Result<std::string> TextOf(const json& body, const char* key) {
  const auto found = body.find(key);
  if (found == body.end() || !found->is_string()) return InvalidArgument(std::string("member '") + key + "' must be a string");
  return found->get<std::string>();
}

Result<std::uint64_t> NumberOf(const json& body, const char* key, std::optional<std::uint64_t> otherwise = {}) {
  const auto found = body.find(key);
  if (found == body.end() && otherwise) return *otherwise;
  if (found == body.end() || !found->is_number_unsigned()) {
    return InvalidArgument(std::string("member '") + key + "' must be a whole number of 0 or more");
  }
  return found->get<std::uint64_t>();
}

// The record of that kind as canonical JSON, and its name.
template <typename R, typename Name>
Result<std::pair<std::string, std::string>> Canonical(const std::string& body, Name R::*name) {
  GODWIT_ASSIGN(const R record, R::FromJson(body));
  if constexpr (std::is_same_v<Name, std::string>) {
    return std::pair(record.*name, record.ToJson());
  } else {
    return std::pair((record.*name).value, record.ToJson());
  }
}

Result<std::pair<std::string, std::string>> CanonicalOf(const std::string& kind, const std::string& body) {
  if (kind == "devices") return Canonical(body, &DeviceRecord::name);
  if (kind == "services") return Canonical(body, &ServiceRecord::name);
  if (kind == "instances") return Canonical(body, &InstanceRecord::id);
  if (kind == "migrations") return Canonical(body, &MigrationRecord::id);
  if (kind == "datasets") return Canonical(body, &DatasetRecord::name);
  return Canonical(body, &PackageRecord::digest);
}

Status CheckIfMatch(const std::string& if_match, const std::optional<KeyValue>& item) {
  if (if_match.empty() || (if_match == "*" && item)) return {};
  if (!item || if_match != ETagOf(item->modified)) return Aborted("it was changed since it was read; read it again");
  return {};
}

Result<std::optional<KeyValue>> ReadOne(store::Metadata& metadata, const std::string& key) {
  GODWIT_ASSIGN(store::RangeResult range, metadata.Range(Keys::One(key)));
  if (range.items.empty()) return std::optional<KeyValue>();
  return std::optional<KeyValue>(std::move(range.items[0]));
}

Error NoSuch(const std::string& kind, const std::string& name) {
  return NotFound(kind.substr(0, kind.size() - 1) + " '" + name + "' does not exist");
}

// Of a device that is alive.
DeviceState StateUnder(Maintenance maintenance) {
  return maintenance == Maintenance::kNone ? DeviceState::kReady : DeviceState::kCordoned;
}

// How long the move would take, by the latest ones that were like it: {"memory_bytes", "bytes_per_second", "total_us", "downtime_us",
// "from"}, or {"unknown": why}. A guess: neither what the instance writes meanwhile nor what else uses the link is known.
json EstimateOf(const StoredView& stored, const MigrationRecord& wanted) {
  const MigrationRecord *of_service = nullptr, *of_link = nullptr;
  const auto later = [&](const MigrationRecord& one, const MigrationRecord* other) {
    return !other || stored.modified.at(KeyOf("migrations", one.id.value)) > stored.modified.at(KeyOf("migrations", other->id.value));
  };
  for (const MigrationRecord& migration : stored.view.migrations) {
    if (migration.phase != MigrationPhase::kDone || migration.total_us == 0) continue;
    const bool same_link = std::minmax(migration.source, migration.target) == std::minmax(wanted.source, wanted.target);
    if (migration.service == wanted.service && migration.shard == wanted.shard && later(migration, of_service)) of_service = &migration;
    if (same_link && later(migration, of_link)) of_link = &migration;
  }
  if (!of_service) return {{"unknown", "service '" + wanted.service.value + "' has not been moved yet: its memory is not known here"}};
  if (!of_link) of_link = of_service;
  const double bytes_per_second = 1e6 * static_cast<double>(of_link->bytes_sent) / static_cast<double>(of_link->total_us);
  return {{"memory_bytes", of_service->memory_bytes},
          {"bytes_per_second", static_cast<std::uint64_t>(bytes_per_second)},
          {"total_us", static_cast<std::uint64_t>(1e6 * static_cast<double>(of_service->bytes_sent) / std::max(1.0, bytes_per_second))},
          {"downtime_us", of_service->downtime_us},
          {"from", {of_service->id.value, of_link->id.value}}};
}

// JSON has no infinity: p99_ms is null where there is no bound.
json JsonOf(const Forecast& forecast) {
  json document{{"busy_cores", forecast.busy_cores}, {"watts", forecast.watts}, {"breaks", forecast.breaks}};
  if (forecast.p99_ms) {
    document["now_ms"] = forecast.now_ms;
    document["p99_ms"] = std::isfinite(*forecast.p99_ms) ? json(*forecast.p99_ms) : json();
  }
  return document;
}

// An instance's owner changes by confirm only.
Status CheckSameOwner(const std::string& before, const std::string& after) {
  GODWIT_ASSIGN(const InstanceRecord was, InstanceRecord::FromJson(before));
  GODWIT_ASSIGN(const InstanceRecord is, InstanceRecord::FromJson(after));
  if (was.id != is.id || was.service != is.service || was.shard != is.shard || was.package != is.package) {
    return InvalidArgument("an instance's id, service, shard and package cannot be changed");
  }
  if (was.device != is.device || was.epoch != is.epoch) {
    return FailedPrecondition("instance '" + was.id.value + "' is owned by " + was.device.value + " at epoch " +
                              std::to_string(was.epoch.value));
  }
  return {};
}

// What must be in the transaction that changes a migration from `before` to `after`.
Status CheckMigrationChange(const std::string& before, const std::string& after, Transaction& transaction) {
  GODWIT_ASSIGN(const MigrationRecord was, MigrationRecord::FromJson(before));
  GODWIT_ASSIGN(const MigrationRecord is, MigrationRecord::FromJson(after));
  if (IsFinal(was.phase)) {
    return FailedPrecondition("migration '" + was.id.value + "' is over: " + std::string(ToString(was.phase)) +
                              (was.error.empty() ? "" : ": " + was.error));
  }
  if (was.id != is.id || was.instance != is.instance || was.source != is.source || was.target != is.target ||
      was.epoch != is.epoch) {
    return InvalidArgument("a migration's id, instance, source, target and epoch cannot be changed");
  }
  if (IsFinal(is.phase)) transaction.then.push_back(Delete{Keys::One(std::string(kMovingPrefix) + is.instance.value)});
  return {};
}

std::string UrlOf(const ClusterView& view, const ServiceRecord& service) {
  const DeviceRecord* gateway = nullptr;
  for (const DeviceRecord& device : view.devices) {
    if (view.alive.count(device.name) == 0) continue;
    if (!gateway || (gateway->device_class != DeviceClass::kHost && device.device_class == DeviceClass::kHost)) gateway = &device;
  }
  if (!gateway || service.manifest.http.empty()) return "";
  std::string route = service.manifest.http[0].route;
  if (const std::size_t parameter = route.find("/{"); parameter != route.npos) route.resize(parameter);
  return gateway->url + route;
}

// What an instance of `service` does that keeps it where it is; empty: nothing.
std::string WhyNotNow(const ClusterView& view, const ServiceRecord& service) {
  for (const DeviceRecord& device : view.devices) {
    for (const auto& [id, files] : device.open_files) {
      const auto instance = std::ranges::find(view.instances, id, &InstanceRecord::id);
      if (instance == view.instances.end() || instance->device != device.name || instance->service != service.name) continue;
      return fmt::format("instance {} has {} files of device '{}' open: it may move once it has closed them", id.value, files, device.name.value);
    }
  }
  return "";
}

// The service's record with what is observed of it.
json Observed(const ClusterView& view, const ServiceRecord& service) {
  json item = Parse(service.ToJson());
  item["url"] = UrlOf(view, service);
  json instances = json::array();
  std::size_t running = 0;
  std::string waiting;
  for (const InstanceRecord& instance : view.instances) {
    if (instance.service != service.name) continue;
    instances.push_back(Parse(instance.ToJson()));
    if (instance.state == InstanceState::kRunning && instance.package == service.package) ++running;
    else waiting = instance.id.value + " is " + std::string(ToString(instance.state)) +
                   (instance.reason.empty() ? "" : ": " + instance.reason);
  }
  if (instances.empty()) {
    const auto device = ChooseDevice(view, service);
    waiting = device.ok() ? "an instance is about to be placed on " + device->value : device.error().message;
  }
  const std::size_t wanted = service.manifest.state == StateClass::kStateless ? service.manifest.scale_min : service.manifest.shards;
  const bool ready = running >= wanted;
  std::string fixed = WhyStays(view, service);
  if (fixed.empty() && running == 0) fixed = "no instance is running";
  if (fixed.empty()) fixed = WhyNotNow(view, service);
  item["instances"] = instances;
  item["conditions"] = json::array({{{"type", "Ready"}, {"status", ready}, {"reason", ready ? "" : waiting}},
                                    {{"type", "Migratable"}, {"status", fixed.empty()}, {"reason", fixed}}});
  return item;
}

}  // namespace

std::string KeyOf(std::string_view kind, std::string_view name) {
  return "/" + std::string(kind) + "/" + std::string(name);
}

bool IsKind(std::string_view kind) {
  return kind == "devices" || kind == "services" || kind == "instances" || kind == "migrations" || kind == "datasets" ||
         kind == "packages";
}

std::string_view NameMemberOf(std::string_view kind) {
  if (kind == "instances" || kind == "migrations") return "id";
  return kind == "packages" ? "digest" : "name";
}

int HttpStatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return 400;
    case ErrorCode::kNotFound: return 404;
    case ErrorCode::kFailedPrecondition: return 409;
    case ErrorCode::kUnavailable: return 503;
    case ErrorCode::kResourceExhausted: return 429;
    case ErrorCode::kCorrupt: return 422;
    case ErrorCode::kInternal: return 500;
    case ErrorCode::kUnsupported: return 501;
    case ErrorCode::kDeadlineExceeded: return 504;
    case ErrorCode::kPermissionDenied: return 403;
    case ErrorCode::kAborted: return 412;
  }
  return 500;
}

ApiResponse Problem(int status, std::string_view code, std::string_view detail) {
  const json body{{"type", "about:blank"}, {"title", code}, {"status", status}, {"detail", detail}, {"code", code}};
  return {status, "application/problem+json", body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n", ""};
}

ApiResponse ProblemOf(const Error& error) {
  return Problem(HttpStatusOf(error.code), ErrorCodeName(error.code), error.message);
}

ApiResponse Api::Handle(const ApiRequest& request) {
  Result<ApiResponse> response = Route(request);
  return response.ok() ? std::move(*response) : ProblemOf(response.error());
}

Result<ApiResponse> Api::Route(const ApiRequest& request) {
  const std::string& path = request.path;
  const bool get = request.method == "GET" || request.method == "HEAD";
  if (path == "/healthz") return ApiResponse{200, "text/plain", "ok\n", ""};
  if (path == "/readyz") {
    GODWIT_ASSIGN([[maybe_unused]] const auto range, metadata_.Range(Keys::One("/ready")));
    return ApiResponse{200, "text/plain", "ok\n", ""};
  }
  if (path == "/metrics") return Metrics();
  if (path == "/openapi.json") return ApiResponse{200, "application/json", std::string(kOpenApi), ""};

  std::vector<std::string> parts;
  for (std::size_t begin = 1; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    parts.push_back(path.substr(begin, end - begin));
    begin = end + 1;
  }
  const std::size_t count = parts.size();
  if (count < 2 || parts[0] != "v1") return NotFound("no resource at " + path);
  const std::string& kind = parts[1];
  const bool post = request.method == "POST";
  const auto wrong_method = [&] { return Problem(405, "invalid_argument", request.method + " is not for " + path); };
  if (kind == "logs" && count == 2) return post ? TakeLogs(request) : wrong_method();
  if (kind == "leases" && count == 3) {
    std::int64_t id = 0;
    std::from_chars(parts[2].data(), parts[2].data() + parts[2].size(), id);
    if (post) {
      GODWIT_ASSIGN(const auto ttl, metadata_.KeepAlive({id}));
      return Json(200, {{"ttl_s", ttl.count()}});
    }
    if (request.method != "DELETE") return wrong_method();
    return Leave({id});
  }
  if (!IsKind(kind)) return NotFound("no resource at " + path);
  if (count == 2) {
    if (get) return List(kind);
    return kind == "migrations" && post ? StartMigration(request) : wrong_method();
  }
  const std::string& name = parts[2];
  if (count == 3 && !name.empty()) return Resource(request, kind, name);
  if (count == 4 && kind == "devices" && parts[3] == "lease") return post ? Register(request, name) : wrong_method();
  if (count == 4 && kind == "instances" && parts[3] == "confirm") return post ? Confirm(request, name) : wrong_method();
  if (count == 4 && kind == "services" && parts[3] == "logs") return get ? ReadLogs(request, name) : wrong_method();
  return NotFound("no resource at " + path);
}

// A lease that ends by itself may mean nothing (ReconcileLoop); one that its device gives back does.
Result<ApiResponse> Api::Leave(store::LeaseId lease) {
  GODWIT_ASSIGN(const store::RangeResult alive, metadata_.Range(Keys::Prefix(std::string(kAlivePrefix))));
  for (const KeyValue& item : alive.items) {
    if (item.lease != lease) continue;
    GODWIT_ASSIGN(const auto old, ReadOne(metadata_, KeyOf("devices", item.key.substr(kAlivePrefix.size()))));
    if (!old) continue;
    GODWIT_ASSIGN(DeviceRecord device, DeviceRecord::FromJson(old->value));
    device.state = DeviceState::kOffline;
    GODWIT_TRY(metadata_.Commit({{Compare::ModifiedAt(old->key, old->modified)}, {Put{old->key, device.ToJson(), {}}}, {}}));
  }
  GODWIT_TRY(metadata_.Revoke(lease));
  return ApiResponse{204, "", "", ""};
}

Result<ApiResponse> Api::Resource(const ApiRequest& request, const std::string& kind, const std::string& name) {
  if (request.method == "GET" || request.method == "HEAD") return GetOne(kind, name);
  if (request.method == "PUT") return PutOne(request, kind, name);
  if (request.method == "PATCH") return PatchOne(request, kind, name);
  if (request.method == "DELETE") return DeleteOne(request, kind, name);
  return Problem(405, "invalid_argument", request.method + " is not for " + request.path);
}

Result<ApiResponse> Api::List(const std::string& kind) {
  json items = json::array();
  if (kind == "services") {
    GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
    for (const ServiceRecord& service : stored.view.services) items.push_back(Observed(stored.view, service));
    return Json(200, {{"items", items}, {"revision", stored.revision.value}});
  }
  GODWIT_ASSIGN(const store::RangeResult range, metadata_.Range(Keys::Prefix(KeyOf(kind, ""))));
  for (const KeyValue& item : range.items) items.push_back(Parse(item.value));
  return Json(200, {{"items", items}, {"revision", range.revision.value}});
}

Result<ApiResponse> Api::GetOne(const std::string& kind, const std::string& name) {
  GODWIT_ASSIGN(const auto item, ReadOne(metadata_, KeyOf(kind, name)));
  if (!item) return NoSuch(kind, name);
  if (kind != "services") return Record(200, item->value, item->modified);
  GODWIT_ASSIGN(const ServiceRecord service, ServiceRecord::FromJson(item->value));
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  return Json(200, Observed(stored.view, service), ETagOf(item->modified));
}

Result<ApiResponse> Api::PutOne(const ApiRequest& request, const std::string& kind, const std::string& name) {
  const std::string key = KeyOf(kind, name);
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    GODWIT_ASSIGN(const auto old, ReadOne(metadata_, key));
    if (request.if_none_match == "*" && old) return Aborted("'" + name + "' is there already");
    GODWIT_TRY(CheckIfMatch(request.if_match, old));
    GODWIT_ASSIGN(const auto canonical, CanonicalOf(kind, request.body));
    if (canonical.first != name) {
      return InvalidArgument("the record's " + std::string(NameMemberOf(kind)) + " is '" + canonical.first + "', not '" + name + "'");
    }
    std::string value = canonical.second;
    Transaction transaction;
    transaction.when = {old ? Compare::ModifiedAt(key, old->modified) : Compare::Absent(key)};
    if (kind == "services") {
      GODWIT_ASSIGN(value, CheckService(value, old));
    } else if (kind == "packages") {
      GODWIT_ASSIGN(value, CheckPackage(value));
    } else if (kind == "instances") {
      // Only the reconciler makes instances.
      if (!old) return NoSuch(kind, name);
      GODWIT_TRY(CheckSameOwner(old->value, value));
    } else if (kind == "migrations") {
      if (!old) return NoSuch(kind, name);
      if (old->value == value) return Record(200, value, old->modified);
      GODWIT_TRY(CheckMigrationChange(old->value, value, transaction));
    }
    transaction.then.insert(transaction.then.begin(), Put{key, value, old ? old->lease : store::LeaseId{}});
    GODWIT_ASSIGN(const auto done, metadata_.Commit(transaction));
    if (done.succeeded) return Record(old ? 200 : 201, value, done.revision);
  }
  return Aborted("others kept changing '" + name + "'; try again");
}

Result<ApiResponse> Api::PatchOne(const ApiRequest& request, const std::string& kind, const std::string& name) {
  if (kind != "devices" && kind != "instances" && kind != "migrations") {
    return Problem(405, "invalid_argument", "PATCH is not for " + kind + "; PUT the whole record");
  }
  GODWIT_ASSIGN(const json patch, BodyObject(request));
  const std::string key = KeyOf(kind, name);
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    GODWIT_ASSIGN(const auto old, ReadOne(metadata_, key));
    if (!old) return NoSuch(kind, name);
    GODWIT_TRY(CheckIfMatch(request.if_match, old));
    json document = Parse(old->value);
    document.merge_patch(patch);
    GODWIT_ASSIGN(auto canonical, CanonicalOf(kind, document.dump()));
    if (kind == "devices") {
      GODWIT_ASSIGN(DeviceRecord device, DeviceRecord::FromJson(canonical.second));
      if (device.state != DeviceState::kOffline) device.state = StateUnder(device.maintenance);
      canonical.second = device.ToJson();
    }
    if (canonical.first != name) return InvalidArgument("a record's name cannot be changed");
    if (canonical.second == old->value) return Record(200, old->value, old->modified);
    Transaction transaction;
    transaction.when = {Compare::ModifiedAt(key, old->modified)};
    transaction.then = {Put{key, canonical.second, old->lease}};
    if (kind == "instances") GODWIT_TRY(CheckSameOwner(old->value, canonical.second));
    if (kind == "migrations") GODWIT_TRY(CheckMigrationChange(old->value, canonical.second, transaction));
    GODWIT_ASSIGN(const auto done, metadata_.Commit(transaction));
    if (done.succeeded) return Record(200, canonical.second, done.revision);
  }
  return Aborted("others kept changing '" + name + "'; try again");
}

Result<ApiResponse> Api::DeleteOne(const ApiRequest& request, const std::string& kind, const std::string& name) {
  GODWIT_ASSIGN(const auto old, ReadOne(metadata_, KeyOf(kind, name)));
  if (!old) return NoSuch(kind, name);
  GODWIT_TRY(CheckIfMatch(request.if_match, old));
  if (kind == "services") return DeleteService(name);
  if (kind == "migrations") return DeleteMigration(*old);
  if (kind == "devices") {
    GODWIT_ASSIGN(const auto alive, ReadOne(metadata_, std::string(kAlivePrefix) + name));
    if (alive) return FailedPrecondition("device '" + name + "' is alive; stop its agent first");
  }
  if (kind == "packages") {
    GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
    for (const ServiceRecord& service : stored.view.services) {
      if (service.package == name) return FailedPrecondition("service '" + service.name.value + "' uses this package");
    }
  }
  GODWIT_ASSIGN(const auto done, metadata_.Commit({{Compare::ModifiedAt(old->key, old->modified)}, {Delete{Keys::One(old->key)}}, {}}));
  if (!done.succeeded) return Aborted("'" + name + "' was changed meanwhile; try again");
  return ApiResponse{204, "", "", ""};
}

Result<ApiResponse> Api::DeleteService(const std::string& name) {
  // Its instances go by the reconciler too, were there more than fit into one transaction.
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  Transaction transaction;
  transaction.then.push_back(Delete{Keys::One(KeyOf("services", name))});
  for (const InstanceRecord& instance : stored.view.instances) {
    if (instance.service.value != name || transaction.then.size() >= store::kTransactionOperationsMax) continue;
    transaction.then.push_back(Delete{Keys::One(KeyOf("instances", instance.id.value))});
  }
  GODWIT_TRY(metadata_.Commit(transaction));
  logs_.Forget(name);
  return ApiResponse{204, "", "", ""};
}

// A pending one is cancelled, one that is over is forgotten.
Result<ApiResponse> Api::DeleteMigration(const KeyValue& item) {
  GODWIT_ASSIGN(MigrationRecord migration, MigrationRecord::FromJson(item.value));
  Transaction transaction;
  transaction.when = {Compare::ModifiedAt(item.key, item.modified)};
  if (IsFinal(migration.phase)) {
    transaction.then = {Delete{Keys::One(item.key)}};
  } else if (migration.phase == MigrationPhase::kPending) {
    migration.phase = MigrationPhase::kCancelled;
    migration.error = "cancelled";
    transaction.then = {Put{item.key, migration.ToJson(), {}},
                        Delete{Keys::One(std::string(kMovingPrefix) + migration.instance.value)}};
  } else {
    return FailedPrecondition("migration '" + migration.id.value + "' has begun: it is " + std::string(ToString(migration.phase)));
  }
  GODWIT_ASSIGN(const auto done, metadata_.Commit(transaction));
  if (!done.succeeded) return Aborted("the migration went on meanwhile; try again");
  return ApiResponse{204, "", "", ""};
}

Result<std::string> Api::CheckService(const std::string& body, const std::optional<KeyValue>& old) {
  GODWIT_ASSIGN(ServiceRecord service, ServiceRecord::FromJson(body));
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  if (stored.view.packages.count(service.package) == 0) {
    return FailedPrecondition("package '" + service.package + "' is not here; upload it first");
  }
  for (const ServiceRecord& other : stored.view.services) {
    if (other.name == service.name) continue;
    for (const HttpTrigger& mine : service.manifest.http) {
      for (const HttpTrigger& theirs : other.manifest.http) {
        if (mine.route == theirs.route) {
          return FailedPrecondition("route " + mine.route + " belongs to service '" + other.name.value + "'");
        }
      }
    }
  }
  service.generation = 1;
  if (old) {
    GODWIT_ASSIGN(const ServiceRecord before, ServiceRecord::FromJson(old->value));
    service.generation = before.generation;
    const bool has_state = before.manifest.state != StateClass::kStateless || service.manifest.state != StateClass::kStateless;
    const bool used = std::any_of(stored.view.instances.begin(), stored.view.instances.end(),
                                  [&](const InstanceRecord& i) { return i.service == service.name; });
    if (has_state && used && (before.package != service.package || before.manifest.shards != service.manifest.shards ||
                              before.manifest.state != service.manifest.state)) {
      return FailedPrecondition("service '" + service.name.value +
                                "' has state, which another binary, state class or number of shards cannot take over; "
                                "'godwit delete' it first to begin anew");
    }
    if (service.ToJson() != old->value) ++service.generation;
  }
  return service.ToJson();
}

Result<std::string> Api::CheckPackage(const std::string& body) {
  GODWIT_ASSIGN(PackageRecord package, PackageRecord::FromJson(body));
  if (!IsDigest(package.digest)) return InvalidArgument("'" + package.digest + "' is not sha256: and 64 hexadecimal digits");
  if (package.blobs.empty() || package.blobs[0].digest != package.digest) {
    return InvalidArgument("the first blob must be the index, whose digest is the package's");
  }
  for (const PackageRecord::Blob& blob : package.blobs) {
    const Result<ByteCount> size = blobs_.SizeOf(blob.digest);
    if (!size.ok()) return FailedPrecondition(size.error().message + "; upload it first");
    if (*size != blob.size) return InvalidArgument("blob " + blob.digest + ": has " + std::to_string(size->value) + " bytes");
  }
  GODWIT_ASSIGN(const std::string index, blobs_.Read(package.digest, kPackageIndexBytesMax));
  const json document = Parse(index);
  if (!document.is_object() || !document.contains("manifests") || !document["manifests"].is_array()) {
    return InvalidArgument("package " + package.digest + ": is no OCI image index");
  }
  package.isas.clear();
  for (const json& manifest : document["manifests"]) {
    if (!manifest.is_object() || !manifest.contains("platform") || !manifest["platform"].is_object()) continue;
    const json& platform = manifest["platform"];
    if (!platform.contains("architecture") || !platform["architecture"].is_string()) continue;
    const auto isa = package::ParseIsa(platform["architecture"].get_ref<const std::string&>());
    if (isa) package.isas.emplace_back(package::IsaName(*isa));
  }
  return package.ToJson();
}

// The agent came back as another process: what ran there is gone.
Status Api::OnDeviceRestarted(const DeviceRecord& device) {
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  for (InstanceRecord instance : stored.view.instances) {
    if (instance.device != device.name || instance.state == InstanceState::kPending) continue;
    const std::string key = KeyOf("instances", instance.id.value);
    Transaction transaction;
    transaction.when = {Compare::ModifiedAt(key, stored.modified.at(key))};
    const auto service = std::find_if(stored.view.services.begin(), stored.view.services.end(),
                                      [&](const ServiceRecord& s) { return s.name == instance.service; });
    if (service == stored.view.services.end() || service->manifest.state == StateClass::kStateless) {
      transaction.then = {Delete{Keys::One(key)}};
    } else if (instance.state != InstanceState::kFailed || instance.reason == LostReason(device.name)) {
      instance.state = InstanceState::kFailed;
      instance.reason = "its device " + device.name.value + " restarted; its state was in memory";
      transaction.then = {Put{key, instance.ToJson(), {}}};
    } else {
      continue;
    }
    GODWIT_TRY(metadata_.Commit(transaction));
  }
  for (MigrationRecord migration : stored.view.migrations) {
    if (IsFinal(migration.phase) || migration.source != device.name) continue;
    const std::string key = KeyOf("migrations", migration.id.value);
    const auto instance = std::find_if(stored.view.instances.begin(), stored.view.instances.end(),
                                       [&](const InstanceRecord& i) { return i.id == migration.instance; });
    // After the state was sent only the target can say whether it arrived; the reconciler waits for that.
    if (migration.phase >= MigrationPhase::kCommitting) continue;
    const bool arrived = instance != stored.view.instances.end() && instance->device == migration.target &&
                         instance->epoch >= migration.epoch;
    migration.phase = arrived ? MigrationPhase::kDone : MigrationPhase::kFailed;
    if (!arrived) migration.error = "the source " + device.name.value + " restarted";
    GODWIT_TRY(metadata_.Commit({{Compare::ModifiedAt(key, stored.modified.at(key))},
                                 {Put{key, migration.ToJson(), {}},
                                  Delete{Keys::One(std::string(kMovingPrefix) + migration.instance.value)}},
                                 {}}));
  }
  return {};
}

Result<ApiResponse> Api::Register(const ApiRequest& request, const std::string& name) {
  GODWIT_ASSIGN(DeviceRecord device, DeviceRecord::FromJson(request.body));
  if (device.name.value != name) return InvalidArgument("the record's name is '" + device.name.value + "', not '" + name + "'");
  const std::string key = KeyOf("devices", name), alive_key = std::string(kAlivePrefix) + name;
  GODWIT_ASSIGN(const auto alive, ReadOne(metadata_, alive_key));
  GODWIT_ASSIGN(const auto old, ReadOne(metadata_, key));
  if (old) {
    GODWIT_ASSIGN(const DeviceRecord before, DeviceRecord::FromJson(old->value));
    if (alive && before.boot_id != device.boot_id && before.channel != device.channel) {
      return FailedPrecondition("device '" + name + "' is alive at " + before.channel +
                                "; choose another --name, or stop that agent and wait until its lease has ended");
    }
    if (before.boot_id != device.boot_id) GODWIT_TRY(OnDeviceRestarted(device));
    const bool again = before.maintenance == Maintenance::kLeave && before.boot_id != device.boot_id;
    device.maintenance = again ? Maintenance::kNone : before.maintenance;
  }
  device.state = StateUnder(device.maintenance);
  GODWIT_ASSIGN(const store::LeaseId lease, metadata_.Grant(options_.lease_ttl));
  Transaction transaction;
  transaction.when = {alive ? Compare::ModifiedAt(alive_key, alive->modified) : Compare::Absent(alive_key)};
  transaction.then = {Put{key, device.ToJson(), {}}, Put{alive_key, device.boot_id.ToString(), lease}};
  GODWIT_ASSIGN(const auto done, metadata_.Commit(transaction));
  if (!done.succeeded) {
    static_cast<void>(metadata_.Revoke(lease));
    return Aborted("device '" + name + "' registered twice at once; try again");
  }
  if (alive) static_cast<void>(metadata_.Revoke(alive->lease));  // It would only end later by itself.
  // The same process, back after a lost lease: it still has its instances.
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  for (InstanceRecord instance : stored.view.instances) {
    if (instance.device != device.name || instance.state != InstanceState::kFailed ||
        instance.reason != LostReason(device.name)) {
      continue;
    }
    instance.state = InstanceState::kRunning;
    instance.reason.clear();
    const std::string instance_key = KeyOf("instances", instance.id.value);
    GODWIT_TRY(metadata_.Commit({{Compare::ModifiedAt(instance_key, stored.modified.at(instance_key))},
                                 {Put{instance_key, instance.ToJson(), {}}}, {}}));
  }
  return Json(200, {{"lease", std::to_string(lease.value)}, {"ttl_s", options_.lease_ttl.count()}});
}

Result<ApiResponse> Api::StartMigration(const ApiRequest& request) {
  GODWIT_ASSIGN(const json body, BodyObject(request));
  GODWIT_ASSIGN(const std::string service_name, TextOf(body, "service"));
  GODWIT_ASSIGN(const std::string wanted_target, TextOf(body, "target"));
  GODWIT_ASSIGN(const std::uint64_t shard, NumberOf(body, "shard", 0));
  const bool dry_run = body.contains("dry_run") && body["dry_run"] == json(true);
  const bool force = body.contains("force") && body["force"] == json(true);
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
    const ClusterView& view = stored.view;
    const auto service = std::find_if(view.services.begin(), view.services.end(),
                                      [&](const ServiceRecord& s) { return s.name.value == service_name; });
    if (service == view.services.end()) return NoSuch("services", service_name);
    std::string target_name = wanted_target;
    if (wanted_target == "auto") {
      const auto moving = std::find_if(view.instances.begin(), view.instances.end(),
                                       [&](const InstanceRecord& i) { return i.service == service->name && i.shard == shard; });
      if (moving == view.instances.end()) return NotFound("service '" + service_name + "' has no instance of shard " + std::to_string(shard));
      GODWIT_ASSIGN(const DeviceName chosen, ChooseDevice(view, *service, &*moving));
      target_name = chosen.value;
    }
    const auto target = std::find_if(view.devices.begin(), view.devices.end(),
                                     [&](const DeviceRecord& d) { return d.name.value == target_name; });
    if (target == view.devices.end()) return NoSuch("devices", target_name);
    if (const std::string why = WhyStays(view, *service); !why.empty()) {
      return FailedPrecondition("service '" + service_name + "' does not move: " + why);
    }
    if (target->state != DeviceState::kReady || view.alive.count(target->name) == 0) {
      return FailedPrecondition("device '" + target_name + "' is " +
                                std::string(view.alive.count(target->name) ? ToString(target->state) : "offline"));
    }
    if (const std::string misfit = Misfit(view, *service, *target); !misfit.empty()) {
      return FailedPrecondition("device '" + target_name + "' cannot take it: " + misfit);
    }
    const auto instance = std::find_if(view.instances.begin(), view.instances.end(), [&](const InstanceRecord& i) {
      return i.service == service->name && i.shard == shard && i.device != target->name;
    });
    const bool there = std::any_of(view.instances.begin(), view.instances.end(), [&](const InstanceRecord& i) {
      return i.service == service->name && i.shard == shard && i.device == target->name;
    });
    if (instance == view.instances.end()) {
      if (there) return FailedPrecondition("service '" + service_name + "' is on '" + target_name + "' already");
      return NotFound("service '" + service_name + "' has no instance of shard " + std::to_string(shard));
    }
    if (instance->state != InstanceState::kRunning) {
      return FailedPrecondition("instance '" + instance->id.value + "' is " + std::string(ToString(instance->state)) +
                                (instance->reason.empty() ? "" : ": " + instance->reason));
    }
    const Forecast forecast = ForecastOf(view, *service, *instance, *target);
    if (!forecast.breaks.empty() && !force) {
      return FailedPrecondition("device '" + target_name + "' should not take it: " + forecast.breaks + " ('force' moves it all the same)");
    }
    const auto source = std::find_if(view.devices.begin(), view.devices.end(),
                                     [&](const DeviceRecord& d) { return d.name == instance->device; });
    if (source == view.devices.end() || view.alive.count(source->name) == 0) {
      return FailedPrecondition("the instance's device '" + instance->device.value + "' is offline");
    }
    if (const auto moving = stored.moving.find(instance->id); moving != stored.moving.end()) {
      return FailedPrecondition("instance '" + instance->id.value + "' is being moved already: migration " + moving->second.value);
    }
    MigrationRecord migration = NewMigration(view, *service, *instance, target->name, MigrationId(RandomId("m")));
    migration.reason = body.value("reason", json("manual")).is_string() ? body.value("reason", std::string("manual")) : "manual";
    const std::string mode = body.contains("mode") && body["mode"].is_string() ? body["mode"].get<std::string>() : "auto";
    if (mode == "postcopy" || mode == "hybrid") return Unsupported("mode '" + mode + "' is not there yet; use 'auto', 'precopy' or 'stop'");
    if (mode != "auto" && mode != "precopy" && mode != "stop") return InvalidArgument("mode '" + mode + "': use 'auto', 'precopy' or 'stop'");
    migration.mode = mode;
    if (body.contains("max_downtime_ms")) {
      GODWIT_ASSIGN(migration.max_downtime_ms, NumberOf(body, "max_downtime_ms"));
    }
    if (dry_run) {
      return Json(200, {{"migration", json::parse(migration.ToJson())}, {"estimate", EstimateOf(stored, migration)}, {"forecast", JsonOf(forecast)}});
    }
    GODWIT_ASSIGN(const auto done, metadata_.Commit(StartOf(stored, migration)));
    if (done.succeeded) return Record(202, migration.ToJson(), done.revision);
  }
  return Aborted("the instance kept changing; try again");
}

Result<ApiResponse> Api::Confirm(const ApiRequest& request, const std::string& id) {
  GODWIT_ASSIGN(const json body, BodyObject(request));
  GODWIT_ASSIGN(const std::string device, TextOf(body, "device"));
  GODWIT_ASSIGN(const std::uint64_t epoch, NumberOf(body, "epoch"));
  GODWIT_ASSIGN(const std::string migration_id, TextOf(body, "migration"));
  const std::string key = KeyOf("instances", id), migration_key = KeyOf("migrations", migration_id);
  for (int attempt = 0; attempt < kAttemptsMax; ++attempt) {
    GODWIT_ASSIGN(const auto item, ReadOne(metadata_, key));
    if (!item) return NoSuch("instances", id);
    GODWIT_ASSIGN(InstanceRecord instance, InstanceRecord::FromJson(item->value));
    if (instance.epoch.value == epoch && instance.device.value == device) return Record(200, item->value, item->modified);
    if (instance.epoch.value + 1 != epoch) {
      return FailedPrecondition("instance '" + id + "' is owned by " + instance.device.value + " at epoch " +
                                std::to_string(instance.epoch.value) + "; epoch " + std::to_string(epoch) + " is not the next");
    }
    GODWIT_ASSIGN(const auto migration_item, ReadOne(metadata_, migration_key));
    if (!migration_item) return NoSuch("migrations", migration_id);
    GODWIT_ASSIGN(const MigrationRecord migration, MigrationRecord::FromJson(migration_item->value));
    if (migration.instance.value != id || migration.epoch.value != epoch ||
        (migration.target.value != device && migration.source.value != device)) {
      return FailedPrecondition("migration '" + migration_id + "' does not give instance '" + id + "' to " + device +
                                " at epoch " + std::to_string(epoch));
    }
    if (IsFinal(migration.phase)) {
      return FailedPrecondition("migration '" + migration_id + "' is over: " + std::string(ToString(migration.phase)));
    }
    instance.device = DeviceName(device);
    instance.epoch = {epoch};
    instance.state = InstanceState::kRunning;
    instance.reason.clear();
    // The migration may be written meanwhile (progress), but must not have ended: it then let go of /moving.
    GODWIT_ASSIGN(const auto done,
                  metadata_.Commit({{Compare::ModifiedAt(key, item->modified),
                                     Compare::ValueIs(std::string(kMovingPrefix) + id, migration_id)},
                                    {Put{key, instance.ToJson(), {}}},
                                    {}}));
    if (done.succeeded) return Record(200, instance.ToJson(), done.revision);
  }
  return Aborted("the instance kept changing; try again");
}

Result<ApiResponse> Api::TakeLogs(const ApiRequest& request) {
  GODWIT_ASSIGN(const json body, BodyObject(request));
  if (!body.contains("lines") || !body["lines"].is_array()) return InvalidArgument("member 'lines' must be a list");
  if (body["lines"].size() > kLogBatchMax) return InvalidArgument("a batch has at most 1000 lines");
  for (const json& line : body["lines"]) {
    if (!line.is_object()) return InvalidArgument("each line must be an object");
    GODWIT_ASSIGN(const std::string service, TextOf(line, "service"));
    json kept = line;
    if (kept.contains("message") && kept["message"].is_string()) {
      auto& message = kept["message"].get_ref<std::string&>();
      if (message.size() > kLogLineBytesMax) message.resize(kLogLineBytesMax);
    }
    logs_.Append(service, kept.dump(-1, ' ', false, json::error_handler_t::replace));
  }
  return ApiResponse{204, "", "", ""};
}

Result<ApiResponse> Api::ReadLogs(const ApiRequest& request, const std::string& service) {
  std::size_t tail = kLogLinesMax;
  for (const auto& [key, value] : request.query) {
    if (key == "tail" && std::from_chars(value.data(), value.data() + value.size(), tail).ec != std::errc()) {
      return InvalidArgument("tail must be a number of lines");
    }
  }
  GODWIT_ASSIGN(const auto item, ReadOne(metadata_, KeyOf("services", service)));
  if (!item) return NoSuch("services", service);
  json items = json::array();
  for (const std::string& line : logs_.Tail(service, tail)) items.push_back(Parse(line));
  return Json(200, {{"items", items}});
}

Result<ApiResponse> Api::Metrics() {
  GODWIT_ASSIGN(const StoredView stored, LoadView(metadata_));
  return ApiResponse{200, "application/openmetrics-text; version=1.0.0; charset=utf-8", MetricsText(stored.view), ""};
}

}  // namespace godwit::control
