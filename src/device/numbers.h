// Numbers of requests on their way to a device that several connections share: each counts from somewhere else.
#pragma once

#include <cstdint>
#include <random>

namespace godwit::device {

// Drawn from 2^64, so that the counts of two connections do not meet.
inline std::uint64_t FirstNumber() {
  std::random_device random;
  return static_cast<std::uint64_t>(random()) << 32 | random();
}

}  // namespace godwit::device
