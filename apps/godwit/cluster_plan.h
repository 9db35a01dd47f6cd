// What `godwit up` is to start: the devices of a cluster on this machine, and how they are emulated.
//
// A plan is a value; nothing here starts, creates or checks anything outside of it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::cli {

struct PlannedDevice {
  std::string name;
  std::string device_class;  // host, dpu, csd, cpm
  bool aarch64 = false;      // Run the AArch64 build, under qemu-user where this machine is not AArch64.
  double cores = 1;          // Processor time, in cores.
  ByteCount memory;
  std::uint64_t link_mbps = 0;  // Speed of its link to the host in Mbit/s; 0: it is the host, without a link.
  double speed = 1, core_watts = 0, power_cap_watts = 0, foreground_p99_us = 0;  // As the agent's flags.
  ByteCount data_cache;
  std::string trust_domain;  // As the agent's flag; empty: none.
};

struct ClusterPlan {
  // Most devices in one cluster: each has a /30 of the cluster's own /24, and its own processes.
  static constexpr std::size_t kDevicesMax = 32;
  std::vector<PlannedDevice> devices;
};

// host0 (x86-64 host), csd0 (drive), csd1 (AArch64 drive), cpm0 (memory device).
ClusterPlan DefaultPlan();

// Reads cluster.toml: `[[device]]` tables with name, class, isa ("native" or "aarch64"), cores, memory,
// link_mbps, speed, core_watts, power_cap_watts, foreground_p99_us, data_cache, trust_domain. kInvalidArgument names the key that is unknown, missing or out of range; there is exactly one
// device without a link.
Result<ClusterPlan> ParsePlan(std::string_view toml, std::string_view source_name);

}  // namespace godwit::cli
