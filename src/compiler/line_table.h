// The table that leads from native code back to functions and source lines (abi::LineTable), in an image of its own ISA.
#pragma once

#include <string>
#include <vector>

#include "compiler/abi_ir.h"
#include "package/isa.h"

namespace godwit::compiler {

inline constexpr char kLinesSymbol[] = "godwit_lines";

// Of one native function, or the cold part of one, by its symbol.
struct PartLines {
  struct Row {
    std::uint32_t offset;  // In the function's code; what follows belongs to the row, up to the next.
    std::uint32_t file;    // Index into NativeLines::files.
    std::uint32_t line;    // 0: unknown.
  };
  std::string symbol;
  std::uint32_t function = 0;
  std::vector<Row> rows;
};

struct NativeLines {
  std::vector<std::string> files;
  std::vector<PartLines> parts;

  // Adds the guest functions, cold parts and resume clones of an object file that GenerateObject made: cold parts
  // whether or not they have lines.
  Status Add(ByteView object);
};

// Defines kLinesSymbol in an empty module.
void DefineLineTable(const NativeLines& lines, AbiIr& abi);

}  // namespace godwit::compiler
