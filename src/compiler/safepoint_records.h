// What the safepoint passes say of the frames they make.
#pragma once

#include <cstdint>
#include <vector>

namespace godwit::compiler {

enum class SafepointKind : std::uint8_t { kLoop = 0, kCall = 1 };

// The frame of one safepoint.
struct SafepointRecord {
  SafepointKind kind;
  std::uint32_t payload_bytes;               // Before padding to 8.
  std::vector<std::uint32_t> memory_pointers;  // Offsets in it of int64 distances from the memory base.
};

struct FunctionSafepoints {
  std::uint32_t function;  // Module function index.
  std::vector<SafepointRecord> safepoints;
};

}  // namespace godwit::compiler
