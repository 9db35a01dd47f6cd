// Function types as numbers: equal types have equal numbers across all modules of the process, so that an
// indirect call compares one number.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "package/module_generated.h"

namespace godwit::runtime {

// Different function types one process can hold; far above what real modules have together.
inline constexpr std::uint32_t kSignaturesMax = 1u << 20;

// Never 0. kResourceExhausted past kSignaturesMax. Any thread.
Result<std::uint32_t> InternSignature(const fbs::FunctionType& type);

}  // namespace godwit::runtime
