// Exceptions without unwind tables.
//
// The middle end sees calls that may throw as `invoke` and `call`; afterwards they become calls followed by the question
// "gw.threw": yes leads to the landing, or out of the function. The safepoint pass answers it together with its own test of
// the state word where it can. What the middle end found not to throw is not asked.
#pragma once

#include "compiler/abi_ir.h"

namespace godwit::compiler {

// After the middle end, before everything else; no invoke, landingpad or personality remains.
void LowerExceptions(AbiIr& abi);

}  // namespace godwit::compiler
