// godwit deploy: a module or package as a service, without a manifest.
#include <CLI/CLI.hpp>
#include <memory>

#include "commands.h"
#include "base/fresh_file.h"
#include "service_upload.h"

namespace godwit::cli {
namespace {

struct DeployOptions {
  std::string path, name, route, kind, state, memory;
  std::vector<std::string> data, calls, env;
  std::string device;
  std::uint32_t concurrency = 1;
};

// "NAME" or "NAME:ACCESS".
Status AddData(model::Manifest& manifest, const std::string& grant) {
  const std::size_t colon = grant.find(':');
  const std::string name = grant.substr(0, colon), access = colon == grant.npos ? "read" : grant.substr(colon + 1);
  GODWIT_TRY(model::CheckDatasetName(name));
  if (access != "read" && access != "read-write") return InvalidArgument("--data " + grant + ": access is read or read-write");
  manifest.data[model::DatasetName(name)] = access == "read" ? model::DataAccess::kRead : model::DataAccess::kReadWrite;
  return {};
}

Result<int> Deploy(const DeployOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const TemporaryFolder folder, TemporaryFolder::Create());
  GODWIT_ASSIGN(const auto package, PackageOf(options.path, folder.path(), session));
  model::Manifest manifest;
  manifest.name = model::ServiceName(options.name);
  GODWIT_ASSIGN(manifest.kind, GuessKind(*package));
  if (options.kind == "reactor") manifest.kind = model::ServiceKind::kReactor;
  if (options.kind == "command") manifest.kind = model::ServiceKind::kCommand;
  // A reactor's memory lives on between requests; unless told otherwise it is worth keeping.
  const std::string state = !options.state.empty() ? options.state : manifest.kind == model::ServiceKind::kReactor ? "stateful" : "stateless";
  manifest.state = state == "stateless" ? model::StateClass::kStateless : state == "durable" ? model::StateClass::kDurable : model::StateClass::kStateful;
  manifest.http = {{options.route.empty() ? "/" + options.name : options.route, options.concurrency}};
  if (!options.memory.empty()) {
    const auto memory = model::ParseByteCount(options.memory);
    if (!memory) return InvalidArgument("--memory " + options.memory + ": must be a size such as 64Mi");
    manifest.limits.memory = *memory;
  }
  for (const std::string& grant : options.data) GODWIT_TRY(AddData(manifest, grant));
  for (const std::string& callee : options.calls) manifest.calls.emplace_back(callee);
  for (const std::string& pair : options.env) {
    const std::size_t equals = pair.find('=');
    if (equals == pair.npos || equals == 0) return InvalidArgument("--env " + pair + ": must be NAME=VALUE");
    manifest.env[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  if (!options.device.empty()) manifest.placement.prefer["device"] = options.device;
  // The manifest's own rules, with its messages.
  GODWIT_ASSIGN(const model::Manifest checked, model::Manifest::FromJson(manifest.ToJson()));
  GODWIT_TRY(UploadService(*cluster, *package, checked));
  return ReportService(*cluster, session, options.name);
}

}  // namespace

void AddDeployCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<DeployOptions>();
  CLI::App* command = app.add_subcommand("deploy", "Run a module or package as a service");
  command->add_option("path", options->path, "A .wasm or .wat module, or a package")->required();
  command->add_option("--name", options->name, "The service's name")->required();
  command->add_option("--route", options->route, "HTTP route (default: /NAME)");
  command->add_option("--kind", options->kind, "Default: by what the module exports")->check(CLI::IsMember({"reactor", "command"}));
  command->add_option("--state", options->state, "Default: stateful for reactors, stateless for commands")
      ->check(CLI::IsMember({"stateless", "stateful", "durable"}));
  command->add_option("--concurrency", options->concurrency, "Requests inside one instance at once");
  command->add_option("--memory", options->memory, "Limit of linear memory, for example 64Mi");
  command->add_option("--env", options->env, "NAME=VALUE")->expected(1)->take_all();
  command->add_option("--data", options->data, "Dataset it may read: NAME or NAME:read-write")->expected(1)->take_all();
  command->add_option("--call", options->calls, "Service it may call")->expected(1)->take_all();
  command->add_option("--device", options->device, "Device to prefer");
  command->footer("Examples:\n  godwit deploy hello.wasm --name hello --route /hello\n  godwit deploy scan.gwp --name scan --data words --device csd0");
  command->callback([options, &session] { session.action = [options, &session] { return Deploy(*options, session); }; });
}

}  // namespace godwit::cli
