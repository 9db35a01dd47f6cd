// Believing a module description: the FlatBuffers verifier, then every index and range in it.
//
// After success every vector of the description is present (perhaps empty), every index in it is in range, every
// enumeration has a known value, and the ranges of safepoints and pointers are ordered and inside their vectors.
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "package/module_generated.h"

namespace godwit::package {

inline constexpr std::uint32_t kSafepointPayloadMax = 16 << 20;  // bytes of one frame
inline constexpr std::uint64_t kExpressionStepsMax = 1 << 16;    // of one initialiser
inline constexpr std::uint32_t kTagParametersMax = 128;
inline constexpr std::uint32_t kDescriptionTablesMax = 64 << 20;

// The root of the description in `bytes`, which must outlive it. kCorrupt names what is wrong; kUnsupported for
// another ABI version (rebuild the package).
Result<const fbs::Module*> CheckModule(ByteView bytes);

}  // namespace godwit::package
