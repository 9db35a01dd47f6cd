// godwit build: compiles a Wasm module into a package.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "commands.h"
#include "package/signature.h"
#include "program.h"

namespace godwit::cli {
namespace {

struct BuildCommand {
  std::string source, output, sign;
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
  package::Key key;
  if (!command.sign.empty()) {
    GODWIT_ASSIGN(key, package::LoadSigningKey(command.sign));
  }
  GODWIT_ASSIGN(std::string digest, CompileTo(command.source, flags, command.output, session));
  if (key) {
    GODWIT_ASSIGN(digest, package::SignPackage(command.output, key));
  }
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
  sub->add_option("--sign", command->sign, "Sign it with the Ed25519 private key in this PEM file")->type_name("KEY.pem");
  sub->add_flag("--no-safepoints", command->no_safepoints, "Code that cannot be stopped, to measure what stops cost");
  sub->footer(
      "Prints the package's digest. Same input, same bytes. The package is an OCI image layout.\n"
      "Examples:\n"
      "  godwit build hello.wasm -o hello.gwp\n"
      "  godwit build -O2 --target x86_64 hello.wat -o hello.gwp\n"
      "  openssl genpkey -algorithm ed25519 -out key.pem; openssl pkey -in key.pem -pubout -out trusted.pem\n"
      "  godwit build hello.wasm -o hello.gwp --sign key.pem; godwit run --trust-keys trusted.pem hello.gwp");
  sub->callback([command, &session] { session.action = [command, &session] { return Build(*command, session); }; });
}

}  // namespace godwit::cli
