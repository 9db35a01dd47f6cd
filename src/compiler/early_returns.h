// Ways out of a function that lead past none of its calls.
#pragma once

#include <llvm/ADT/ArrayRef.h>
#include <llvm/IR/Instructions.h>

namespace godwit::compiler {

// Gives them a return of their own. Where one return serves these and the ways that lead past a call, LLVM's register
// allocator may bring what lives across calls to its place at the function's beginning already, also when it then returns
// at once, as recursive functions mostly do.
void SeparateEarlyReturns(llvm::Function& function, llvm::ArrayRef<llvm::CallInst*> calls);

}  // namespace godwit::compiler
