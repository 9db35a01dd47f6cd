// Element segments with items that read an imported global, which libwabt neither decodes nor validates: such items
// are nulls while libwabt looks at the module, and are put back after it.
#pragma once

#include <wabt/ir.h>

#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::wasm {

struct ElementGlobal {
  std::size_t segment, item;
  wabt::Var global;
};

// In a binary module. What cannot be followed is left to libwabt to refuse. kUnsupported for a global from 128 on, which
// has no place for a null.
Result<std::vector<ElementGlobal>> TakeElementGlobals(Bytes& binary);
// In a module read from text.
std::vector<ElementGlobal> TakeElementGlobals(wabt::Module& module);
// Puts them back. kInvalidArgument if a global is not an imported, immutable one of the segment's type.
Status PutElementGlobals(const std::vector<ElementGlobal>& taken, wabt::Module& module);

}  // namespace godwit::wasm
