// godwit run: runs a WASI program here.
#include <CLI/CLI.hpp>
#include <filesystem>

#include "commands.h"
#include "guest.h"
#include "program.h"

namespace godwit::cli {
namespace {

struct RunCommand {
  RunOptions options;
  bool no_package = false;
  int optimisation_level = -1;
};

Result<int> Run(RunCommand& command, const std::vector<std::string>& rest, const Session& session) {
  const std::filesystem::path program = rest.front();
  RunOptions& options = command.options;
  options.carry_package = !command.no_package;
  options.arguments = rest;
  options.arguments[0] = (program.has_filename() ? program : program.parent_path()).filename().string();
  CompileFlags flags;
  flags.optimisation_level = command.optimisation_level;
  flags.targets = {package::HostIsa()};
  // A snapshot's package should have code for wherever it goes.
  if (options.stop_after_ms) flags.targets = {package::Isa::kX86_64, package::Isa::kAarch64};
  GODWIT_ASSIGN(auto package, OpenProgram(program, flags, session));
  return RunProgram(std::move(package), nullptr, options);
}

// The program and its arguments, from what the parser left; throws the parser's errors.
std::vector<std::string> GuestWords(std::vector<std::string> rest) {
  if (!rest.empty() && rest.front() == kSeparator) {
    rest.erase(rest.begin());
  } else if (!rest.empty() && rest.front().starts_with("-")) {
    throw CLI::ExtrasError({rest.front()});
  }
  if (rest.empty()) throw CLI::RequiredError("prog.wasm");
  std::replace(rest.begin(), rest.end(), std::string(kSeparator), std::string("--"));
  return rest;
}

}  // namespace

void AddRunCommand(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("run", "Run a WASI program here; its exit code is ours");
  auto command = std::make_shared<RunCommand>();
  AddRunFlags(*sub, command->options, command->no_package);
  sub->add_option("--env", command->options.environment, "Environment variable: K=V, or K for our own value")
      ->expected(1)->take_all()->allow_extra_args(false)->type_name("K=V");
  sub->add_option("--stress-stops", command->options.stress_every,
                  "Stop at every Nth safepoint, encode, drop, decode and resume")->type_name("N");
  sub->add_option("-O", command->optimisation_level, "Optimisation level")->check(CLI::Range(0, 3));
  sub->fallthrough(false);
  sub->add_flag("-q,--quiet", session.quiet, "No notes on stderr");
  sub->add_flag("-v,--verbose", session.verbose, "Show progress even where stderr is no terminal");
  sub->footer(
      "Usage: godwit run [OPTIONS] [--] prog.wasm|prog.wat|prog.gwp [ARGS...]\n"
      "What follows the program is its own. A trap is printed and exits 134; --stop-after exits 75 when it stopped\n"
      "the program, and with the program's own code when that ended first.\n"
      "Examples:\n"
      "  godwit run hello.wasm world\n"
      "  godwit run --dir /srv/data:/data --env LANG=C count.wasm /data/words.txt\n"
      "  godwit run --stop-after 50 --snapshot s hello.gwp; godwit resume s");
  sub->prefix_command();
  sub->parse_complete_callback([sub, command, &session] {
    const std::vector<std::string> words = GuestWords(sub->remaining());
    if (const Status status = CheckRunOptions(command->options); !status.ok()) {
      throw CLI::ValidationError(status.error().message);
    }
    session.action = [command, words, &session] { return Run(*command, words, session); };
  });
}

}  // namespace godwit::cli
