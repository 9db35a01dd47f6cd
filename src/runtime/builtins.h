// The functions of the runtime that generated code calls (abi::Builtins).
#pragma once

#include "package/native_abi.h"

namespace godwit::runtime {

const abi::Builtins& BuiltinTable();

}  // namespace godwit::runtime
