// Writes the ISA-neutral description of a compiled module (package/module.fbs).
#pragma once

#include "compiler/safepoints.h"

namespace godwit::compiler {

// `types`: the module's function types and, after them, those of synthetic functions, as image thunks number them.
struct TypeTable {
  std::vector<wabt::FuncSignature> signatures;
  std::uint32_t synthetic_types = 0;  // Of the first synthetic function; the others' follow.
};
TypeTable MakeTypeTable(const wasm::Module& module);

Bytes DescribeModule(const wasm::Module& module, const TypeTable& types, std::vector<FunctionSafepoints> safepoints,
                     ByteView ir_hash, std::string_view wasm_digest, bool safepoints_enabled);

}  // namespace godwit::compiler
