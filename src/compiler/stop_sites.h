// Where optimised functions can stop: which calls, and which back edges.
#pragma once

#include <llvm/IR/Instructions.h>

#include <vector>

#include "compiler/abi_ir.h"

namespace godwit::compiler {

// The places of one function that become safepoints, in a fixed order. Back edges have been given a block of
// their own, whose terminator is the site.
struct StopSites {
  llvm::Function* function;
  std::vector<llvm::Instruction*> polls;    // Terminator of a back edge's own block, or a tail call.
  std::vector<llvm::CallInst*> calls;       // Calls that may stop and are followed by more than a return.
};

// kFull: short loops are not polled, and tight ones so that a poll serves several iterations. kQuick: every loop is
// polled as it is, which takes a fraction of the time to decide.
enum class LoopCare { kFull, kQuick };

// Decides for all guest functions defined in the module, callees before callers, and splits the back edges.
// A function may stop if it has a loop that is not known to be short, may call itself again, or calls what may
// stop; functions of other modules and indirect calls may.
std::vector<StopSites> FindStopSites(AbiIr& abi, LoopCare care);

}  // namespace godwit::compiler
