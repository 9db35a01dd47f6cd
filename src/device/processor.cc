#include "device/processor.h"

#include <time.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <string>

namespace godwit::device {
namespace {

namespace fs = std::filesystem;

// "25000 100000" of version 2, or the same from two files.
std::optional<double> Cores(const std::string& quota, const std::string& period) {
  char* end = nullptr;
  const double used = std::strtod(quota.c_str(), &end), of = std::strtod(period.c_str(), nullptr);
  if (end == quota.c_str() || used <= 0 || of <= 0) return std::nullopt;  // "max", or -1: none.
  return used / of;
}

std::optional<double> LimitOf(const fs::path& group) {
  std::string quota, period;
  if (std::ifstream(group / "cpu.max") >> quota >> period) return Cores(quota, period);
  std::ifstream(group / "cpu.cfs_quota_us") >> quota;
  std::ifstream(group / "cpu.cfs_period_us") >> period;
  return Cores(quota, period);
}

bool Names(const std::string& controllers, const std::string& wanted) {
  return ("," + controllers + ",").find("," + wanted + ",") != std::string::npos;
}

std::optional<double> LeastLimit(const fs::path& groups, const fs::path& mount) {
  std::optional<double> least;
  std::ifstream lines(groups);
  for (std::string line; std::getline(lines, line);) {  // hierarchy-ID:controller-list:cgroup-path
    const auto first = line.find(':'), second = line.find(':', first + 1);
    if (first == line.npos || second == line.npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty() && !Names(controllers, "cpu")) continue;
    const fs::path root = controllers.empty() ? mount : fs::exists(mount / controllers) ? mount / controllers : mount / "cpu";
    // In a container the path may be the one outside; then only the root is there.
    for (fs::path path = fs::path(line.substr(second + 1)).relative_path();; path = path.parent_path()) {
      const auto limit = LimitOf(root / path);
      if (limit) least = std::min(least.value_or(*limit), *limit);
      if (path.empty()) break;
    }
  }
  return least;
}

}  // namespace

ProcessorUse UseOfProcessor(const fs::path& groups, const fs::path& mount) {
  timespec used{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
  return {LeastLimit(groups, mount), std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec)};
}

}  // namespace godwit::device
