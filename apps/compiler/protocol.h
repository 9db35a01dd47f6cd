// What godwit-compiler writes: records of a kind byte, a length (uint64, this machine's byte order) and bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "compiler/compile.h"

namespace godwit::cli {

enum class CompilerRecord : std::uint8_t {
  kProgress = 1,  // uint64 done, uint64 total, phase
  kError = 2,     // ErrorCode byte, message; the last record
  kWasm = 3,
  kModule = 4,
  kIsa = 5,       // Isa byte; of the image that follows
  kImage = 6,
  kDone = 7,      // The last record.
};

inline constexpr std::uint64_t kCompilerRecordBytesMax = 4ull << 30;

}  // namespace godwit::cli
