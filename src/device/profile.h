// Profile: what kind of device this is, from a data file (profiles/*.toml).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::device {

struct Profile {
  std::string name;
  std::string device_class;         // host, dpu, csd, cpm
  std::uint32_t cores = 1;          // That run functions.
  double speed = 1.0;               // Of one core; a core of the host profile is 1.
  ByteCount memory = 256_MiB;       // Of function data memory.
  ByteCount tenant_memory = 64_MiB; // Of it, for one tenant.
  std::uint32_t queue_max = 256;    // Requests that wait before the device pushes back.
  double link_bytes_per_second = 0;     // To the host; 0: the same memory.
  double link_latency_us = 0;
  std::uint32_t foreground_p99_us = 0;  // Bound of the device's own reads and writes; 0: none.
  double core_watts = 0;            // One busy core; a model, not a measurement.
};

// kInvalidArgument naming the key, or the line where the text is no TOML.
Result<Profile> ParseProfile(std::string_view toml);

// By the model of `profile`: core_watts * busy time.
std::uint64_t EnergyUj(const Profile& profile, std::uint64_t busy_us);

}  // namespace godwit::device
