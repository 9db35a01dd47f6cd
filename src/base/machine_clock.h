// Moments that processes of one running kernel can compare.
#pragma once

#include <chrono>
#include <fstream>
#include <string>

namespace godwit {

// The kernel whose CLOCK_MONOTONIC std::chrono::steady_clock reads: its boot id (random(4)), the same for all its processes until it is
// started again; empty where it cannot be read. Any thread.
inline const std::string& RunningKernel() {
  static const std::string id = [] {
    std::string line;
    std::ifstream("/proc/sys/kernel/random/boot_id") >> line;
    return line;
  }();
  return id;
}

}  // namespace godwit
