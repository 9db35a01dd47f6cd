// Translates validated Wasm functions to LLVM IR in SSA form, before any optimisation.
//
// Every guest function gets the native ABI's shape (context, memory, parameters). What only the runtime can
// do is a call of an opaque "gw." function (compiler/abi_ir.h). Loads and stores are plain accesses relative to the memory base, in
// kMemorySpace, align 1, never inbounds: guard pages catch what is out of bounds. A load whose result Wasm
// drops is volatile, since its trap must still happen.
#pragma once

#include "compiler/abi_ir.h"
#include "compiler/source_lines.h"

namespace godwit::compiler {

// Defines GuestName(index) in `abi.module`, or TailName(index) if the function makes tail calls, with source locations from
// `scope` unless it is null. kUnsupported names the instruction that the engine does not have.
Status TranslateFunction(const wasm::Module& module, std::uint32_t index, AbiIr& abi, SourceScope* scope);

// Defines the wrapper of imported function `index`: calls the host function, again after a resume if the host
// function asked for that (abi::kRestart).
void DefineImportWrapper(const wasm::Module& module, std::uint32_t index, AbiIr& abi);

// Defines GuestName(index) of a function that makes tail calls, whose body is TailName(index): the entry of the usual
// convention. After the middle end, which would make more of it than a call and a return: the function's safepoints are
// those of its body alone.
void DefineTailWrapper(const wasm::Module& module, std::uint32_t index, AbiIr& abi);

// Module function index and signature of a synthetic function.
std::uint32_t SyntheticIndex(const wasm::Module& module, Synthetic which);
wabt::FuncSignature SyntheticSignature(Synthetic which);
// memory.fill, memory.copy and memory.init (whose segment is its last parameter) in chunks with a safepoint between.
void DefineSynthetic(const wasm::Module& module, Synthetic which, AbiIr& abi);

// void entry.T(context, memory, code, cells) and void reentry.T(...): abi::ImageHeader says what they do.
void DefineEntryThunks(const wabt::FuncSignature& signature, std::uint32_t type_index, AbiIr& abi);

}  // namespace godwit::compiler
