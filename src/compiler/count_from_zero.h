// Makes loops that count up to zero count up from zero.
//
// clang's WebAssembly back end likes loops whose counter begins at -n and ends at 0, since that saves a comparison. Taken
// literally such a counter wraps around at its end, which keeps LLVM from knowing how often the loop runs, from
// vectorising it, and from folding its addresses; the same loop from 0 to n has none of that.
#pragma once

#include <llvm/IR/PassManager.h>

namespace godwit::compiler {

// Wants locals to be values already (mem2reg), and to run before LLVM widens counters.
class CountFromZeroPass : public llvm::PassInfoMixin<CountFromZeroPass> {
 public:
  llvm::PreservedAnalyses run(llvm::Function& function, llvm::FunctionAnalysisManager&);
};

}  // namespace godwit::compiler
