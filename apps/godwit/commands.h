// The subcommands of `godwit`, one file each, and what they share: global flags and exit codes.
//
// Each Add*Command registers one subcommand (flags, help, examples) on the application and, when the user chose
// it, sets Session::action. Nothing runs while flags are parsed: main runs the action afterwards.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"

namespace CLI {
class App;
}

namespace godwit::cli {

// Exit codes of the command line (INTERFACES). `run` and `resume` return the guest's own code.
inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitNotConverged = 3;
inline constexpr int kExitStopped = 75;   // `--stop-after`: stopped, and the snapshot is written.
inline constexpr int kExitTrapped = 134;  // The guest trapped: what a shell reports for a program that aborted.

// What main puts in the place of `run`'s "--".
inline constexpr char kSeparator[] = "\x1f--";

// Global flags, filled by the parser before any action runs.
struct Session {
  std::string output = "table";  // table, wide, json, yaml, name
  std::string context;           // Which cluster; empty: the current one.
  std::string name_space;        // -n
  bool wait = true;              // --wait/--no-wait
  double timeout_s = 60;         // --timeout
  bool quiet = false;            // -q: no notes on stderr
  bool verbose = false;          // -v: notes and progress even where stderr is no terminal
  // What the chosen subcommand does; its value is the exit code, its error is printed and exits 1.
  std::function<Result<int>()> action;

  bool json() const { return output == "json"; }
};

// Each command's own description of its flags is in its file.
void AddRunCommand(CLI::App& app, Session& session);
void AddResumeCommand(CLI::App& app, Session& session);
void AddBuildCommand(CLI::App& app, Session& session);
void AddInspectCommand(CLI::App& app, Session& session);
void AddDoctorCommand(CLI::App& app, Session& session);
void AddUpCommand(CLI::App& app, Session& session);
void AddDownCommand(CLI::App& app, Session& session);
void AddBenchCommand(CLI::App& app, Session& session);
void AddApplyCommand(CLI::App& app, Session& session);
void AddDeployCommand(CLI::App& app, Session& session);
void AddDeleteCommand(CLI::App& app, Session& session);
void AddGetCommand(CLI::App& app, Session& session);
void AddTopCommand(CLI::App& app, Session& session);
void AddExplainCommand(CLI::App& app, Session& session);
void AddDescribeCommand(CLI::App& app, Session& session);
void AddInvokeCommand(CLI::App& app, Session& session);
void AddMigrateCommand(CLI::App& app, Session& session);
void AddCordonCommand(CLI::App& app, Session& session);
void AddUncordonCommand(CLI::App& app, Session& session);
void AddDrainCommand(CLI::App& app, Session& session);
void AddLogsCommand(CLI::App& app, Session& session);
void AddDataCommand(CLI::App& app, Session& session);

}  // namespace godwit::cli
