// The processor time of this process: how much it may use, and has used.
#pragma once

#include <chrono>
#include <filesystem>
#include <optional>

namespace godwit::device {

struct ProcessorUse {
  // Cores that cgroups let this process use (cgroups(7): cpu.max, or cpu.cfs_quota_us of version 1), the least of its own and those around it; nullopt: any.
  std::optional<double> limit;
  std::chrono::nanoseconds used{0};
};

// `groups` and `mount`: where the kernel tells the groups of a process, and where their folders are. What cannot be read is no limit. Any thread.
ProcessorUse UseOfProcessor(const std::filesystem::path& groups = "/proc/self/cgroup", const std::filesystem::path& mount = "/sys/fs/cgroup");

}  // namespace godwit::device
