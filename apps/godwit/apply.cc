// godwit apply: a service as its manifest says.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <memory>

#include "commands.h"
#include "base/fresh_file.h"
#include "service_upload.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;

Result<int> Apply(const std::string& file, const Session& session) {
  GODWIT_ASSIGN(const std::string text, ReadWholeFile(file));
  GODWIT_ASSIGN(const model::Manifest manifest, model::Manifest::FromToml(text, file));
  const std::string& source = manifest.source.empty() ? manifest.package : manifest.source;
  if (source.empty()) return InvalidArgument(file + ": [service] needs source or package to be applied");
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const TemporaryFolder folder, TemporaryFolder::Create());
  const fs::path path = file == "-" ? fs::path(source) : fs::path(file).parent_path() / source;
  GODWIT_ASSIGN(const auto package, PackageOf(path.string(), folder.path(), session));
  GODWIT_ASSIGN(const model::ServiceKind kind, GuessKind(*package));
  if (kind != manifest.kind) {
    return InvalidArgument(file + ": kind = \"" + std::string(ToString(manifest.kind)) + "\", but " + path.string() + " is a " +
                           std::string(ToString(kind)));
  }
  GODWIT_TRY(UploadService(*cluster, *package, manifest));
  return ReportService(*cluster, session, manifest.name.value);
}

}  // namespace

void AddApplyCommand(CLI::App& app, Session& session) {
  auto file = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("apply", "Make a service as its manifest says, or change it");
  command->add_option("-f,--file", *file, "The manifest (TOML); - is standard input")->required();
  command->footer("Example:\n  godwit apply -f orders.toml");
  command->callback([file, &session] { session.action = [file, &session] { return Apply(*file, session); }; });
}

}  // namespace godwit::cli
