// godwit delete: services, and what else can be deleted.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"
#include "model/manifest.h"

namespace godwit::cli {
namespace {

struct DeleteOptions {
  std::vector<std::string> words;
  std::string file;
};

Result<int> Delete(const DeleteOptions& options, const Session& session) {
  std::string kind = "services";
  std::vector<std::string> names = options.words;
  if (!options.file.empty()) {
    GODWIT_ASSIGN(const std::string text, ReadWholeFile(options.file));
    GODWIT_ASSIGN(const model::Manifest manifest, model::Manifest::FromToml(text, options.file));
    names.push_back(manifest.name.value);
  } else if (names.size() > 1) {
    // "delete service a" as well as "delete a b".
    if (const auto named = KindOf(names[0]); named.ok()) {
      kind = *named;
      names.erase(names.begin());
    }
  }
  if (names.empty()) return InvalidArgument("delete what? Give a service's name or -f MANIFEST");
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  for (const std::string& name : names) {
    GODWIT_TRY(cluster->Delete("/v1/" + kind + "/" + name));
    if (!session.quiet) std::printf("%s/%s deleted\n", kind.substr(0, kind.size() - 1).c_str(), name.c_str());
  }
  return kExitDone;
}

}  // namespace

void AddDeleteCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<DeleteOptions>();
  CLI::App* command = app.add_subcommand("delete", "Delete services with their instances, or other records");
  command->add_option("what", options->words, "[KIND] NAME...; the kind is service unless given");
  command->add_option("-f,--file", options->file, "The service of this manifest");
  command->footer("Examples:\n  godwit delete hello\n  godwit delete migration m-abcdefgh");
  command->callback([options, &session] { session.action = [options, &session] { return Delete(*options, session); }; });
}

}  // namespace godwit::cli
