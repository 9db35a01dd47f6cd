// Late safepoints: makes optimised guest functions stoppable, and makes their resume clones.
//
// Runs once, after the middle end, on the IR that all ISAs share. It puts a poll on the back edge of each loop
// that may run long and a check after each call that may stop; in a cold block it appends a frame with
// exactly the values live there (roots: what can be recomputed from them is not stored). Each function with safepoints gets
// ResumeName(index), a clone whose entry switches on the safepoint number, reloads the values and goes on
// there. package/native_abi.h says what a frame is.
//
// Nothing may be optimised afterwards: the code writes the context and returns early, which attributes and
// metadata inferred before deny; the pass strips them.
#pragma once

#include <vector>

#include "base/result.h"
#include "compiler/abi_ir.h"
#include "compiler/safepoint_records.h"

namespace godwit::compiler {

// The optimiser replaces arguments that a callee does not use by poison, and does not know that the callee is about
// to use its context: gives every call of a guest or opaque function its caller's context and memory again.
// Before InsertSafepoints, and without it too.
void RestoreContextArguments(AbiIr& abi);

// Instrumented functions write the context and return early, whatever was inferred of them before: takes back what
// attributes and metadata say. The first step of instrumenting, since cutting dead code would believe it.
void StripInferredFacts(AbiIr& abi);

// Instruments every guest function defined in `abi.module`. kInternal if a live value is of a kind that a
// frame cannot hold (a bug of the pipeline before it: the message names function and value).
Result<std::vector<FunctionSafepoints>> InsertSafepoints(AbiIr& abi);

}  // namespace godwit::compiler
