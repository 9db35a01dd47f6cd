// A Wasm module as the compiler wants to see it: decoded and validated by libwabt, with the sizes of its bodies.
//
// Immutable once made. Knows no LLVM and runs nothing.
#pragma once

#include <wabt/ir.h>

#include <memory>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "wasm/uses.h"

namespace godwit::wasm {

struct Module {
  Bytes binary;
  std::unique_ptr<wabt::Module> ir;  // All variables in it are indices.
  // Bytes of each defined function's body, imports not counted.
  std::vector<std::uint32_t> body_bytes;
  Uses uses;
  // The sections of `binary`, in order.
  struct Section {
    std::uint8_t id;
    std::size_t offset, bytes;  // Of the content.
  };
  std::vector<Section> sections;
  std::size_t first_body = 0;  // Where the first body begins; the others follow, each after its size.
  std::string FunctionName(std::uint32_t index) const;  // From the name section; empty where unknown.
};

// Limits on what is accepted (the Wasm JavaScript API's implementation limits, rounded up where clang needs it).
inline constexpr std::size_t kModuleBytesMax = 256u << 20;
inline constexpr std::uint32_t kFunctionsMax = 1'000'000;
inline constexpr std::uint32_t kTypesMax = 20'000;
inline constexpr std::uint32_t kNestingMax = 50'000;  // Of blocks, loops, ifs and tries in each other.
inline constexpr std::uint32_t kLoopNestingMax = 2'000;  // LLVM notes each block in all loops around it.
inline constexpr std::uint32_t kLocalsMax = 50'000;
inline constexpr std::uint32_t kParametersMax = 1'000;
inline constexpr std::uint32_t kTagParametersMax = 128;
inline constexpr std::size_t kInitialiserStepsMax = 1 << 16;
inline constexpr std::uint32_t kBrTableTargetsMax = 100'000;

// Reads a binary or, if it does not begin with "\0asm", the text format. kInvalidArgument with file, offset or
// line and what is wrong; kUnsupported names a feature that is not supported; kResourceExhausted names a limit.
Result<Module> Read(ByteView source, std::string_view name);

// An unsigned LEB128 number of a binary that has been read; moves `at` past it.
std::uint32_t ReadLeb(ByteView bytes, std::size_t& at);

}  // namespace godwit::wasm
