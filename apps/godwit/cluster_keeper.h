// The keeper: the parent process of a cluster's daemons, which ends them and removes what was made for them.
//
// `godwit up` forks it and holds the write end of its lifeline. When that end closes without a farewell -
// Ctrl-C, kill -9 - the keeper takes the cluster down; after a farewell (--detach) it stays until `godwit
// down` ends it by SIGTERM. The daemons die with the keeper by the kernel's doing, and network links with the
// daemons.
#pragma once

#include <string>

#include "cluster_plan.h"

namespace godwit::cli {

struct KeeperOptions {
  ClusterPlan plan;
  std::string state_folder;    // Exists and is empty.
  std::string token_file;      // Exists.
  std::string daemon;          // godwitd for this machine.
  std::string daemon_aarch64;  // godwitd for AArch64; empty unless the plan needs it.
  std::string qemu;            // qemu-aarch64-static; empty where AArch64 runs natively.
  int lifeline = -1;           // Read end.
  int reports = -1;            // Write end: lines that begin with one of the letters below.
};

// What begins a report.
inline constexpr char kReportProgress = 'P';  // Text for people.
inline constexpr char kReportStarted = 'S';   // All daemons were started; the rest is the controller's URL.
inline constexpr char kReportFailed = 'E';    // It did not work, and why; everything is being removed.
inline constexpr char kReportExit = 'X';      // A daemon ended by itself: its name and how.
// The farewell byte on the lifeline.
inline constexpr char kFarewell = 'D';

// Runs until the cluster is to end and is gone. Call in a process of its own with one thread.
void KeepCluster(const KeeperOptions& options);

}  // namespace godwit::cli
