// One WASI program running in this process, from its start or from a snapshot, to its end or to a stop.
//
// Used by one thread; the time limit of RunOptions::stop_after is watched by a second one that only asks the
// instance to stop.
#pragma once

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "package/package.h"
#include "snapshot/snapshot.h"

namespace CLI {
class App;
}

namespace godwit::cli {

struct RunOptions {
  std::vector<std::string> folders;      // HOST[:GUEST]
  std::vector<std::string> listen;       // ADDRESS:PORT
  std::vector<std::string> environment;  // K=V, or K for our own value
  std::vector<std::string> arguments;    // argv[0] first
  std::optional<std::uint64_t> stop_after_ms;
  std::string snapshot;                  // Where the stopped program goes.
  bool carry_package = true;
  std::string trust_keys;                // File of package/signature.h's public keys; empty: signatures do not matter.
  std::uint64_t stress_every = 0;        // 0: off
};

// The flags that `run` and `resume` share. CheckRunOptions reports combinations that make no sense.
void AddRunFlags(CLI::App& command, RunOptions& options, bool& no_package);
Status CheckRunOptions(const RunOptions& options);

// Runs the package's _start, or goes on from `from` (of the same package). The value is the exit code: the
// guest's own, kExitStopped with the snapshot written, or kExitTrapped after the trap was printed.
Result<int> RunProgram(std::shared_ptr<const package::Package> package, const snapshot::Snapshot* from,
                       const RunOptions& options);

}  // namespace godwit::cli
