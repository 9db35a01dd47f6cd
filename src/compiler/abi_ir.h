// The native ABI (package/native_abi.h) as LLVM IR: types, context fields, and the names of the opaque
// functions that stand for the runtime until they are lowered (compiler/lower.h).
//
// Opaque functions keep code addresses out of the middle end: "gw.trap", "gw.host.N", "gw.icall.TABLE.TYPE",
// "gw.<builtin>". "isa.swizzle" stands for what each ISA does in its own instructions. Guest functions are "wasm.N" by module function index.
#pragma once

#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Module.h>

#include <cstdint>
#include <string>
#include <vector>

#include "package/native_abi.h"
#include "wasm/module.h"

namespace godwit::compiler {

inline constexpr unsigned kContextSpace = 1;  // Pointers to abi::Context.
inline constexpr unsigned kMemorySpace = 2;   // Pointers into linear memory 0. Non-integral in the middle end.

// Position of a builtin in abi::Builtins.
enum class Builtin : unsigned {
  kTrap, kPoll, kNextResume, kMemoryGrow, kMemoryFill, kMemoryCopy, kMemoryInit, kDataDrop, kTableGet, kTableSet,
  kTableGrow, kTableFill, kTableCopy, kTableInit, kElemDrop,
};

// Functions of our own making that follow the module's functions in the index space.
enum class Synthetic : unsigned { kMemoryFill, kMemoryCopy };
inline constexpr unsigned kSyntheticFunctions = 2;

class AbiIr {
 public:
  explicit AbiIr(llvm::Module& module);

  llvm::Type* ValueType(wabt::Type type) const;
  llvm::Type* ResultType(const wabt::FuncSignature& signature) const;
  llvm::FunctionType* GuestType(const wabt::FuncSignature& signature) const;
  llvm::FunctionType* ResumeType(llvm::Type* result) const;

  // The guest function's declaration or definition, made on first use.
  llvm::Function* GuestFunction(std::uint32_t index, llvm::FunctionType* type);
  // An opaque stand-in, made on first use.
  llvm::Function* Opaque(const std::string& name, llvm::FunctionType* type);
  llvm::Function* OpaqueBuiltin(Builtin builtin);
  // The builtin's C type.
  llvm::FunctionType* BuiltinType(Builtin builtin) const;

  // Loads a field of the context.
  llvm::Value* LoadField(llvm::IRBuilderBase& b, llvm::Value* context, llvm::Type* type, std::size_t offset) const;
  llvm::Value* FieldAddress(llvm::IRBuilderBase& b, llvm::Value* context, std::size_t offset) const;

  llvm::Module& module;
  llvm::LLVMContext& llvm;
  llvm::Type *i1, *i8, *i32, *i64, *f32, *f64, *void_;
  llvm::Type* v128;  // <2 x i64>, whatever the lanes mean.
  llvm::PointerType *context_ptr, *memory_ptr, *ptr;
};

std::string GuestName(std::uint32_t index);
std::string ResumeName(std::uint32_t index);
const char* BuiltinName(Builtin builtin);

}  // namespace godwit::compiler
