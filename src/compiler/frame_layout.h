// How live values become the bytes of a frame and back: packed, little-endian, the same for every ISA.
//
// Integers are zero-extended to 1, 2, 4, 8 or 16 bytes, vectors of i1 are one integer, linear-memory pointers
// are int64 distances from the memory base, context pointers from the context, structs are their elements. Nothing is
// taken from a data layout.
#pragma once

#include <optional>

#include "compiler/abi_ir.h"

namespace godwit::compiler {

class FrameLayout {
 public:
  // False if no frame can hold values of this type (a bare pointer, a token).
  static bool CanHold(llvm::Type* type);

  // Emits the store of `value` at `frame` + the next offset.
  void Spill(AbiIr& abi, llvm::IRBuilderBase& b, llvm::Value* frame, llvm::Value* value, llvm::Value* context,
             llvm::Value* memory);
  // Emits the load of the next value, of type `type`. Must mirror Spill call for call.
  llvm::Value* Restore(AbiIr& abi, llvm::IRBuilderBase& b, llvm::Value* frame, llvm::Type* type, llvm::Value* context,
                       llvm::Value* memory);

  // Counts a value of `type` without emitting anything.
  void Skip(llvm::Type* type);

  std::uint32_t bytes() const { return bytes_; }
  const std::vector<std::uint32_t>& memory_pointers() const { return memory_pointers_; }

 private:
  // The integer or plain vector type that stands for `type` in a frame, and its size.
  static llvm::Type* StoredType(llvm::Type* type);
  std::uint32_t Take(llvm::Type* stored, bool memory_pointer);

  std::uint32_t bytes_ = 0;
  std::vector<std::uint32_t> memory_pointers_;
};

}  // namespace godwit::compiler
