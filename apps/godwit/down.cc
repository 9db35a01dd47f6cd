// godwit down: ends the cluster that `godwit up` started, also one whose keeper died.
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "cluster_record.h"
#include "commands.h"

namespace godwit::cli {
namespace {

constexpr std::chrono::seconds kKeeperGrace{15};  // Longer than the keeper gives its daemons.

Result<int> Down(const Session& session, const std::string& chosen_state) {
  std::error_code error;
  const std::string state =
      std::filesystem::absolute(chosen_state.empty() ? DefaultStateFolder() : chosen_state, error).string();
  const auto record = LoadRecord(state);
  if (!record.ok()) {
    if (record.error().code != ErrorCode::kNotFound) return record.error();
    if (!session.quiet) std::fprintf(stderr, "%s\n", record.error().message.c_str());
    return kExitDone;
  }
  if (IsRunning(record->keeper)) {
    kill(record->keeper.pid, SIGTERM);
    const auto end = std::chrono::steady_clock::now() + kKeeperGrace;
    while (IsRunning(record->keeper) && std::chrono::steady_clock::now() < end) poll(nullptr, 0, 20);
  }
  // The keeper has removed its record if it got that far; otherwise everything is removed here.
  if (const auto left = LoadRecord(state); left.ok()) Erase(state, *left);
  if (!session.quiet) std::fprintf(stderr, "the cluster at %s is gone\n", record->server.c_str());
  return kExitDone;
}

}  // namespace

void AddDownCommand(CLI::App& app, Session& session) {
  auto* command =
      app.add_subcommand("down", "End the cluster that 'godwit up' started, and remove all it left");
  auto state = std::make_shared<std::string>();
  command->add_option("--state", *state, "Its folder, if 'up' was given one");
  command->callback(
      [&session, state] { session.action = [&session, state] { return Down(session, *state); }; });
}

}  // namespace godwit::cli
