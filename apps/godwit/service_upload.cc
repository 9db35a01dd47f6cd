#include "service_upload.h"

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "model/records.h"
#include "print.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using package::Package;

Status UploadBlob(ClusterClient& cluster, const package::Blob& blob) {
  static constexpr std::size_t kPieceBytes = 1 << 20;
  transport::HttpCall call;
  call.method = "HEAD";
  call.target = "/v1/blobs/" + blob.digest;
  GODWIT_ASSIGN(const transport::HttpAnswer there, cluster.http().Call(call));
  if (there.status == 200) return {};
  call.method = "PUT";
  call.body_bytes = blob.bytes.size();
  call.body_source = [&blob, at = std::size_t{0}]() mutable -> Result<std::string> {
    const std::size_t size = std::min(kPieceBytes, blob.bytes.size() - at);
    std::string piece(AsText(blob.bytes.subspan(at, size)));
    at += size;
    return piece;
  };
  GODWIT_ASSIGN(const transport::HttpAnswer answer, cluster.http().Call(call));
  if (answer.status >= 400) return ErrorOfAnswer(answer).Within("upload of the package");
  return {};
}

}  // namespace

Result<std::shared_ptr<const Package>> PackageOf(const std::string& path, const std::string& folder, const Session& session) {
  std::error_code error;
  if (!fs::exists(path, error)) return NotFound(path + ": no such file or package");
  if (fs::is_directory(path, error)) return Package::Open(path);
  if (!session.quiet && (session.verbose || isatty(2))) std::fprintf(stderr, "compiling %s\n", path.c_str());
  const std::string built = folder + "/service.gwp";
  GODWIT_TRY(RunOrFail({OwnPath(), "build", path, "-o", built, "--target", "x86_64,aarch64"}));
  return Package::Open(built);
}

Result<model::ServiceKind> GuessKind(const Package& package) {
  bool start = false;
  if (const auto* exports = package.module().exports()) {
    for (const auto* one : *exports) {
      if (!one->name()) continue;
      if (one->name()->string_view() == "godwit_handle") return model::ServiceKind::kReactor;
      start = start || one->name()->string_view() == "_start";
    }
  }
  if (start) return model::ServiceKind::kCommand;
  return InvalidArgument("the module exports neither godwit_handle (a reactor) nor _start (a command)");
}

Status UploadService(ClusterClient& cluster, const Package& package, const model::Manifest& manifest) {
  model::PackageRecord record;
  record.digest = package.digest();
  for (const package::Blob& blob : package.blobs()) {
    record.blobs.push_back({blob.digest, {blob.bytes.size()}});
    GODWIT_TRY(UploadBlob(cluster, blob));
  }
  GODWIT_TRY(cluster.Send("PUT", "/v1/packages/" + record.digest, json::parse(record.ToJson())));
  model::ServiceRecord service;
  service.name = manifest.name;
  service.manifest = manifest;
  service.package = record.digest;
  GODWIT_TRY(cluster.Send("PUT", "/v1/services/" + service.name.value, json::parse(service.ToJson())));
  return {};
}

Result<int> ReportService(ClusterClient& cluster, const Session& session, const std::string& name) {
  json service;
  std::string reason;
  const auto ready = [&]() -> Result<bool> {
    GODWIT_ASSIGN(service, cluster.Get("/v1/services/" + name));
    for (const json& instance : service["instances"]) {
      if (instance.value("state", "") == "Failed") {
        return FailedPrecondition("service '" + name + "': instance " + instance.value("id", "") + " failed: " +
                                  instance.value("reason", ""));
      }
    }
    for (const json& condition : service["conditions"]) {
      if (condition.value("type", "") != "Ready") continue;
      reason = condition.value("reason", "");
      return condition.value("status", false);
    }
    return false;
  };
  if (session.wait) {
    GODWIT_ASSIGN(const bool done, WaitUntil(session.timeout_s, ready));
    if (!done) {
      std::fprintf(stderr, "godwit: service '%s' is not ready yet: %s\n", name.c_str(), reason.c_str());
      return kExitNotConverged;
    }
  } else {
    GODWIT_ASSIGN(service, cluster.Get("/v1/services/" + name));
  }
  if (session.output == "table") {
    const std::string url = service.value("url", "");
    std::printf("service/%s %s%s%s\n", name.c_str(), session.wait ? "is running" : "is written", url.empty() ? "" : " at ", url.c_str());
  } else {
    std::fputs(FormatRecords("services", json::array({service}), session.output).c_str(), stdout);
  }
  return kExitDone;
}

}  // namespace godwit::cli
