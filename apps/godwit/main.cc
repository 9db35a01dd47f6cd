// godwit: the command line. Parses flags, picks the subcommand, turns its result into an exit code.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string_view>

#include "commands.h"

namespace godwit::cli {
namespace {

void AddGlobalFlags(CLI::App& app, Session& session) {
  app.set_version_flag("--version", std::string("godwit " GODWIT_VERSION));
  app.add_option("-o,--output", session.output, "Output format")
      ->check(CLI::IsMember({"table", "wide", "json", "yaml", "name"}));
  app.add_option("--context,--server", session.context, "Cluster to talk to: its controller's URL, or a context file");
  app.add_option("-n,--namespace", session.name_space, "Namespace");
  app.add_flag("--wait,!--no-wait", session.wait, "Wait until the change is in effect (default)");
  app.add_option("--timeout", session.timeout_s, "Seconds to wait")->check(CLI::NonNegativeNumber);
  app.add_flag("-q,--quiet", session.quiet, "No notes on stderr");
  app.add_flag("-v,--verbose", session.verbose, "Notes and progress even where stderr is no terminal");
}

struct Command {
  std::string_view name;
  void (*add)(CLI::App& app, Session& session);
};

constexpr Command kCommands[] = {
    {"run", AddRunCommand},           {"resume", AddResumeCommand}, {"build", AddBuildCommand},   {"inspect", AddInspectCommand},
    {"doctor", AddDoctorCommand},     {"up", AddUpCommand},         {"down", AddDownCommand},     {"bench", AddBenchCommand},
    {"apply", AddApplyCommand},       {"deploy", AddDeployCommand}, {"delete", AddDeleteCommand}, {"get", AddGetCommand},
    {"top", AddTopCommand},           {"explain", AddExplainCommand},
    {"describe", AddDescribeCommand}, {"invoke", AddInvokeCommand}, {"migrate", AddMigrateCommand}, {"logs", AddLogsCommand},
    {"data", AddDataCommand},         {"cordon", AddCordonCommand}, {"uncordon", AddUncordonCommand}, {"drain", AddDrainCommand},
};

// Describing every command to the parser takes longer than loading a program: if the first word names one, that is it.
void AddCommands(CLI::App& app, Session& session, std::string_view first) {
  const auto* named = std::find_if(std::begin(kCommands), std::end(kCommands), [&](const Command& c) { return c.name == first; });
  if (named != std::end(kCommands)) return named->add(app, session);
  for (const Command& command : kCommands) command.add(app, session);
}

// `godwit run -- prog ...`: the parser would take the separator for itself, so `run` gets it under another name.
std::vector<std::string> ProtectSeparator(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  const auto command = std::find_if(words.begin(), words.end(), [](const std::string& w) { return !w.starts_with("-"); });
  if (command != words.end() && *command == "run") {
    const auto separator = std::find(command, words.end(), "--");
    if (separator != words.end()) *separator = kSeparator;
  }
  std::reverse(words.begin(), words.end());  // As CLI11 wants them.
  return words;
}

int Main(int argc, char** argv) {
  Session session;
  CLI::App app("Godwit runs WebAssembly services on hosts and devices, and moves them while they run.", "godwit");
  app.footer(
      "Examples:\n"
      "  godwit run hello.wasm world                  run a WASI program here\n"
      "  godwit build hello.wasm -o hello.gwp         compile it for every ISA\n"
      "  godwit run --stop-after 50 --snapshot s hello.gwp; godwit resume s\n"
      "  godwit doctor                                what this machine offers and lacks");
  app.require_subcommand(1);
  app.fallthrough();
  AddGlobalFlags(app, session);
  AddCommands(app, session, argc > 1 ? argv[1] : "");
  try {
    app.parse(ProtectSeparator(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kExitDone : kExitUsage;
  }
  const Result<int> code = session.action();
  if (code.ok()) return *code;
  std::fprintf(stderr, "godwit: %s\n", code.error().message.c_str());
  return kExitFailed;
}

}  // namespace
}  // namespace godwit::cli

int main(int argc, char** argv) { return godwit::cli::Main(argc, argv); }
