// Replaces the opaque "gw." functions by what they stand for: loads from the context and indirect calls.
//
// Runs after the safepoint pass, so that code addresses are never live at a safepoint.
#pragma once

#include "compiler/abi_ir.h"

namespace godwit::compiler {

void LowerOpaqueCalls(AbiIr& abi);

}  // namespace godwit::compiler
