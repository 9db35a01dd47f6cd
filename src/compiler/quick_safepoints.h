// Safepoints of the fast level: cheap to make rather than cheap to run.
//
// The same frames and records as compiler/safepoints.h, but there are no resume clones: a function goes on in itself.
// Whatever a frame must hold lives in a memory frame; Context::resuming, which the function looks at when it is
// called, says that it is to go on from the topmost frame instead of its beginning. Half the code, no SSA repair, and
// nothing that the code generator's fast paths do not know.
#pragma once

#include <vector>

#include "compiler/safepoints.h"

namespace godwit::compiler {

// As InsertSafepoints.
Result<std::vector<FunctionSafepoints>> InsertQuickSafepoints(AbiIr& abi);

// Defines what functions with quick safepoints share in an image: capturing a frame, and entering one.
void DefineQuickHelpers(AbiIr& abi);

}  // namespace godwit::compiler
