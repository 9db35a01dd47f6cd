// Bringing a service to a cluster: compile where needed, upload the package, write the service, wait until it runs.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cluster_client.h"
#include "model/manifest.h"
#include "package/package.h"

namespace godwit::cli {

// The package that `path` (.wasm, .wat or a package) is or compiles to, for every ISA of a cluster; `folder` is for what is
// compiled and must live as long as the package is used.
Result<std::shared_ptr<const package::Package>> PackageOf(const std::string& path, const std::string& folder, const Session& session);

// reactor if it exports godwit_handle, command if it exports _start. kInvalidArgument: neither.
Result<model::ServiceKind> GuessKind(const package::Package& package);

// Uploads what the controller lacks, and writes the service record.
Status UploadService(ClusterClient& cluster, const package::Package& package, const model::Manifest& manifest);

// Waits until the service is ready, if the session says so, and prints what came of it: the exit code.
Result<int> ReportService(ClusterClient& cluster, const Session& session, const std::string& name);

}  // namespace godwit::cli
