// Partitions: runs of functions that are compiled together, in parallel with other runs.
//
// Where one ends depends on the functions near its end alone, so that a change in one function changes its own
// partition and leaves the others as they were, to be found in the cache by their keys.
#pragma once

#include <string>
#include <vector>

#include "wasm/module.h"

namespace godwit::compiler {

// Of Wasm code. A partition ends behind a function that makes it larger than the first, with a probability that grows
// with the function, or at the second.
inline constexpr std::uint64_t kPartitionBytesMin = 64 << 10;
inline constexpr std::uint64_t kPartitionBytesMax = 512 << 10;

struct Partition {
  std::uint32_t first, end;  // Defined functions, [first, end) by module function index.
  std::uint64_t bytes = 0;
  // Digest of all that what is compiled from it depends on: its functions, what other functions and the like are
  // declared as, and `settings`.
  std::string key;
};

// All functions, in order; at least one partition. `settings`: what else decides about the outcome.
std::vector<Partition> Divide(const wasm::Module& module, const std::string& settings);

}  // namespace godwit::compiler
