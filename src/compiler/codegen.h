// LLVM's two ends: optimising a module once, and generating one ISA's object code from it.
#pragma once

#include <llvm/IR/Module.h>

#include "base/bytes.h"
#include "base/result.h"
#include "package/isa.h"

namespace godwit::compiler {

// Registers the targets; call once before anything else here, any thread.
void InitialiseTargets();

// Gives an empty module the data layout and triple of the middle end: x86-64-v2's, with linear-memory
// pointers non-integral. The same for every target.
void PrepareForMiddleEnd(llvm::Module& module);

// The middle end at `level` 0..3. Loops never become calls of the C library.
void Optimise(llvm::Module& module, int level);

// The module as bitcode; equal modules give equal bytes.
Bytes ToBitcode(const llvm::Module& module);

// Generates an ELF relocatable object for `isa` from bitcode that has been optimised and instrumented. Uses a
// context of its own: calls may run in parallel.
Result<Bytes> GenerateObject(ByteView bitcode, package::Isa isa, int level);

// The same from the module itself, which cannot be used for anything else afterwards.
Result<Bytes> GenerateObject(llvm::Module& module, package::Isa isa, int level);

// Links objects into a shared object without dynamic relocations whose entry address is symbol `entry`.
// Serialised inside (the linker has global state).
Result<Bytes> LinkImage(const std::vector<Bytes>& objects, package::Isa isa, const std::string& entry);

}  // namespace godwit::compiler
