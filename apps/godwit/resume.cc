// godwit resume: goes on from a snapshot, on any ISA its package has code for.
#include <CLI/CLI.hpp>

#include "commands.h"
#include "guest.h"
#include "program.h"
#include "snapshot_file.h"

namespace godwit::cli {
namespace {

struct ResumeCommand {
  RunOptions options;
  bool no_package = false;
  std::string file, package;
};

Result<std::shared_ptr<const package::Package>> FindPackage(const SnapshotFile& file, const std::string& named) {
  if (!named.empty()) {
    GODWIT_ASSIGN(auto package, package::Package::Open(named));
    if (package->digest() != file.snapshot.package_digest) {
      return FailedPrecondition(named + " is package " + package->digest() + ", but the snapshot is of " +
                                file.snapshot.package_digest);
    }
    return package;
  }
  GODWIT_ASSIGN(auto carried, CarriedPackage(file));
  if (carried) return carried;
  return FindCachedPackage(file.snapshot.package_digest);
}

Result<int> Resume(ResumeCommand& command) {
  command.options.carry_package = !command.no_package;
  GODWIT_ASSIGN(const SnapshotFile file, ReadSnapshotFile(command.file));
  GODWIT_ASSIGN(auto package, FindPackage(file, command.package));
  return RunProgram(std::move(package), &file.snapshot, command.options);
}

}  // namespace

void AddResumeCommand(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("resume", "Go on from a snapshot");
  auto command = std::make_shared<ResumeCommand>();
  sub->add_option("snapshot", command->file, "Snapshot file")->required();
  AddRunFlags(*sub, command->options, command->no_package);
  sub->get_option("--dir")->description("Use this host folder for the program's folder GUEST");
  sub->add_option("--package", command->package, "Package of a snapshot that does not carry it");
  sub->footer(
      "Folders are the ones of the snapshot unless --dir maps them anew. Exit codes are those of 'run'.\n"
      "Examples:\n"
      "  godwit resume s\n"
      "  godwit resume s --stop-after 50 --snapshot s2");
  sub->callback([command, &session] {
    if (const Status status = CheckRunOptions(command->options); !status.ok()) {
      throw CLI::ValidationError(status.error().message);
    }
    session.action = [command] { return Resume(*command); };
  });
}

}  // namespace godwit::cli
