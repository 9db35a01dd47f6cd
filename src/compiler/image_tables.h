// The part of an image that leads the runtime to its code: header, function tables, entry thunks.
#pragma once

#include <set>

#include "compiler/describe.h"

namespace godwit::compiler {

inline constexpr char kImageSymbol[] = "godwit_image";

// Fills an empty module with one constant, kImageSymbol (abi::ImageHeader and the arrays it leads to), and the
// thunks of every type. `with_resume` are the functions that have a resume clone; with `has_lines` the image will have
// kLinesSymbol (compiler/line_table.h).
void DefineImageTables(const wasm::Module& module, const TypeTable& types, const std::set<std::uint32_t>& with_resume,
                       ByteView ir_hash, bool has_lines, AbiIr& abi);

}  // namespace godwit::compiler
