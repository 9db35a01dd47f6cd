// The /v1 API as a function from requests to answers, over the metadata store.
//
// Resources are the records of model/records.h; KIND is devices, services, instances, migrations, datasets or
// packages, NAME a device's, service's or dataset's name, an instance's or migration's id, a package's digest.
//
//   GET    /v1/KIND                    {"items": [...], "revision": N}
//   GET    /v1/KIND?watch=true         server-sent events: first every record as `put`, then each change; `event:`
//                                      put or delete, `id:` revision, `data:` the record (of a deletion {"name"},
//                                      {"id"} or {"digest"}). With `Last-Event-ID: N` only the changes after N; 410
//                                      if those are no longer known. A comment line comes at least every 15 s.
//   GET    /v1/KIND/NAME               the record, with an ETag
//   PUT    /v1/KIND/NAME               the record; If-Match: ETag (412 if changed), If-None-Match: * (412 if there)
//   PATCH  /v1/KIND/NAME               JSON merge patch (RFC 7396) of a device, instance or migration; If-Match
//   DELETE /v1/KIND/NAME
//
// A service's record has, when read, also `url`, `instances` and `conditions`. Its PUT needs the package to be there;
// `generation` is counted here. Its DELETE deletes its instances. A PATCH or PUT of an instance must leave service,
// shard, device, epoch and package as they are (409: somebody else owns it); one of a migration that is over is 409.
//
//   PUT    /v1/blobs/DIGEST            bytes, checked against the digest; GET gives them back
//   POST   /v1/devices/NAME/lease      the device's record -> {"lease": "ID", "ttl_s": N}: (re)registers it
//   POST   /v1/leases/ID               keeps it alive -> {"ttl_s": N}; 404: register again
//   DELETE /v1/leases/ID               the device leaves
//   POST   /v1/migrations              {service, shard, target, max_downtime_ms?, mode?, reason?} -> 202 and the record
//   POST   /v1/instances/ID/confirm    {device, epoch, migration}: compare-and-swap of the owner; 409: lost
//   POST   /v1/logs                    {"lines": [{service, instance, device, time, level, message}]}
//   GET    /v1/services/NAME/logs      {"items": [...]}; ?follow=true: server-sent events `log`; ?tail=N
//   GET    /healthz /readyz /metrics /openapi.json
//
// Errors are problems (RFC 9457) with the member `code`, an ErrorCode's name.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "control/blobs.h"
#include "control/logs.h"
#include "model/records.h"
#include "store/metadata.h"

namespace godwit::control {

struct ApiRequest {
  std::string method;
  std::string path;                                           // Without the query.
  std::vector<std::pair<std::string, std::string>> query;
  std::string if_match, if_none_match;                        // Header values; empty: not sent.
  std::string body;
};

struct ApiResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::string etag;
};

// The HTTP status that an error's code becomes, and its problem body.
int HttpStatusOf(ErrorCode code);
ApiResponse ProblemOf(const Error& error);
ApiResponse Problem(int status, std::string_view code, std::string_view detail);

inline constexpr ByteCount kApiBodyBytesMax = 4_MiB;  // Of all requests but blobs.

// Keys of the metadata store.
std::string KeyOf(std::string_view kind, std::string_view name);
inline constexpr std::string_view kAlivePrefix = "/alive/";    // /alive/DEVICE, under the device's lease: its boot id.
inline constexpr std::string_view kMovingPrefix = "/moving/";  // /moving/INSTANCE: the migration under way.
bool IsKind(std::string_view kind);
// The member of a kind's records that names them: "name", "id" or "digest".
std::string_view NameMemberOf(std::string_view kind);

// Self-synchronised; blocks. Watches, log streams and blobs' bytes are the controller's.
class Api {
 public:
  struct Options {
    std::chrono::seconds lease_ttl{20};
  };
  Api(store::Metadata& metadata, Blobs& blobs, Logs& logs, Options options)
      : metadata_(metadata), blobs_(blobs), logs_(logs), options_(options) {}

  ApiResponse Handle(const ApiRequest& request);

 private:
  Result<ApiResponse> Route(const ApiRequest& request);
  Result<ApiResponse> Leave(store::LeaseId lease);
  Result<ApiResponse> Resource(const ApiRequest& request, const std::string& kind, const std::string& name);
  Result<ApiResponse> List(const std::string& kind);
  Result<ApiResponse> GetOne(const std::string& kind, const std::string& name);
  Result<ApiResponse> PutOne(const ApiRequest& request, const std::string& kind, const std::string& name);
  Result<ApiResponse> PatchOne(const ApiRequest& request, const std::string& kind, const std::string& name);
  Result<ApiResponse> DeleteOne(const ApiRequest& request, const std::string& kind, const std::string& name);
  Result<ApiResponse> DeleteService(const std::string& name);
  Result<ApiResponse> DeleteMigration(const store::KeyValue& item);
  Result<ApiResponse> Register(const ApiRequest& request, const std::string& name);
  Result<ApiResponse> StartMigration(const ApiRequest& request);
  Result<ApiResponse> Confirm(const ApiRequest& request, const std::string& id);
  Result<ApiResponse> TakeLogs(const ApiRequest& request);
  Result<ApiResponse> ReadLogs(const ApiRequest& request, const std::string& service);
  Result<ApiResponse> Metrics();
  Result<std::string> CheckService(const std::string& body, const std::optional<store::KeyValue>& old);
  Result<std::string> CheckPackage(const std::string& body);
  Status OnDeviceRestarted(const model::DeviceRecord& device);

  store::Metadata& metadata_;
  Blobs& blobs_;
  Logs& logs_;
  const Options options_;
};

}  // namespace godwit::control
