// Source files and lines of Wasm code, from the module's DWARF, and how they are attached to LLVM IR.
//
// Only for messages: a module whose DWARF is missing or damaged compiles as one without it.
#pragma once

#include <llvm/IR/DIBuilder.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "compiler/abi_ir.h"

namespace godwit::compiler {

// More rows or files than this and the module counts as having no lines.
inline constexpr std::size_t kSourceRowsMax = 20'000'000;
inline constexpr std::size_t kSourceFilesMax = 100'000;

// Immutable.
class SourceLines {
 public:
  struct Place {
    std::uint32_t file;  // Index into files().
    std::uint32_t line;
  };

  explicit SourceLines(const wasm::Module& module);
  bool empty() const { return rows_.empty(); }
  const std::vector<std::string>& files() const { return files_; }
  // What the byte at `offset` of the module's binary was made from; null where unknown.
  const Place* At(std::size_t offset) const;

 private:
  struct Row {
    std::uint64_t address;  // From the beginning of the code section's contents, as DWARF in Wasm counts.
    Place place;            // Line 0: unknown from here on.
  };

  std::uint64_t code_begin_ = 0;
  std::vector<std::string> files_;
  std::vector<Row> rows_;  // In order of address.
};

// Attaches locations to the functions of one LLVM module. Bound to one thread; `lines` must outlive it.
class SourceScope {
 public:
  SourceScope(llvm::Module& module, const SourceLines& lines);
  // Gives the function a scope; At then makes locations in it.
  void Begin(llvm::Function& function);
  // The location of the instruction whose last byte is at `end - 1`, or one without a line.
  llvm::DebugLoc At(std::size_t end);
  // After the last function.
  void Finish() { builder_.finalize(); }

 private:
  llvm::DIFile* File(std::uint32_t index);

  llvm::LLVMContext& llvm_;
  const SourceLines& lines_;
  llvm::DIBuilder builder_;
  llvm::DIFile* unknown_;
  std::map<std::uint32_t, llvm::DIFile*> files_;
  std::map<std::uint32_t, llvm::DIScope*> scopes_;  // Of the present function, by file.
  llvm::DISubprogram* function_ = nullptr;
};

}  // namespace godwit::compiler
