// godwitd's subcommands: each adds itself to the command line and runs in its callback.
#pragma once

#include <chrono>
#include <string>

#include <CLI/CLI.hpp>

#include "base/result.h"

namespace godwit::daemon {

// `exit_code` gets what main returns.
void AddControllerCommand(CLI::App& app, int& exit_code);
void AddAgentCommand(CLI::App& app, int& exit_code);

struct Endpoint {
  std::string address;
  std::uint16_t port = 0;
};
// "ADDRESS:PORT" or "[v6]:PORT".
Result<Endpoint> ParseEndpoint(const std::string& text);
// The first line of the file; kInvalidArgument if it is empty or longer than 4 KiB.
Result<std::string> ReadToken(const std::string& path);

// SIGTERM, SIGINT and, with `die_with_parent`, the parent's end are waited for by WaitForSignal. To be called before
// any thread is made.
Status BlockSignals(bool die_with_parent);
// Gives up what an agent or a controller does not need, and says in the log whether this system can (sandbox/sandbox.h). To be
// called before any thread is made.
Status EnterSandbox();
// Returns the signal's number.
int WaitForSignal();
// True: another one came.
bool EndSignalWithin(std::chrono::milliseconds time);

}  // namespace godwit::daemon
