// godwit build: compiles a Wasm module into a package.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "commands.h"
#include "program.h"

namespace godwit::cli {
namespace {

struct BuildCommand {
  std::string source, output;
  std::vector<std::string> targets{"x86_64", "aarch64"};
  int optimisation_level = -1;
  bool no_safepoints = false;
};

Result<int> Build(const BuildCommand& command, const Session& session) {
  CompileFlags flags;
  GODWIT_ASSIGN(flags.targets, ParseTargets(command.targets));
  // What is built is run often: it takes the time that good code takes, however large it is.
  flags.optimisation_level = command.optimisation_level < 0 ? 3 : command.optimisation_level;
  flags.safepoints = !command.no_safepoints;
  GODWIT_ASSIGN(const std::string digest, CompileTo(command.source, flags, command.output, session));
  if (!session.quiet) std::printf("%s\n", digest.c_str());
  return kExitDone;
}

}  // namespace

void AddBuildCommand(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("build", "Compile a Wasm module into a package");
  auto command = std::make_shared<BuildCommand>();
  sub->add_option("source", command->source, ".wasm or .wat file")->required();
  sub->add_option("-o", command->output, "Package folder to write")->required()->type_name("FILE.gwp");
  sub->add_option("--target", command->targets, "ISAs: x86_64, aarch64")->delimiter(',')->capture_default_str();
  sub->add_option("-O", command->optimisation_level, "Optimisation level")->check(CLI::Range(0, 3));
  sub->add_flag("--no-safepoints", command->no_safepoints, "Code that cannot be stopped, to measure what stops cost");
  sub->footer(
      "Prints the package's digest. Same input, same bytes. The package is an OCI image layout.\n"
      "Examples:\n"
      "  godwit build hello.wasm -o hello.gwp\n"
      "  godwit build -O2 --target x86_64 hello.wat -o hello.gwp");
  sub->callback([command, &session] { session.action = [command, &session] { return Build(*command, session); }; });
}

}  // namespace godwit::cli
