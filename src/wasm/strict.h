// What the specification wants of a binary module and libwabt does not check.
#pragma once

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::wasm {

// Sections and custom sections are framed as they should be, and custom sections are named in UTF-8. To be called
// before libwabt reads the module. kInvalidArgument names the offset.
Status CheckSections(ByteView binary);

// So many types, functions and constructs in each other that libwabt and LLVM get over them: kTypesMax, kFunctionsMax,
// kNestingMax, kLoopNestingMax (wasm/module.h). To be called before libwabt builds anything of the module; what else is wrong is not noticed.
// kResourceExhausted.
Status CheckSize(ByteView binary);

// To be called on what libwabt has read without an error: constructs and constant expressions end where they should, as
// many data segments come as were announced, call_indirect uses tables of functions. kInvalidArgument.
Status CheckInstructions(ByteView binary);

}  // namespace godwit::wasm
