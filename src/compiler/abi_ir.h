// The native ABI (package/native_abi.h) as LLVM IR: types, context fields, and the names of the opaque
// functions that stand for the runtime until they are lowered (compiler/lower.h).
//
// Opaque functions keep code addresses out of the middle end: "gw.trap", "gw.host.N", "gw.icall.TABLE.TYPE",
// "gw.global.N.get|set", "gw.tag.N", "gw.table_size.N", "gw.<builtin>"; "gw.tail_host.N" and "gw.tail_icall.TABLE.TYPE" in tail position;
// "gw.threw" asks whether the call before it ended in an exception; "gw.memory_written" says to the optimiser that a builtin, which
// is given no pointer to memory, wrote there. "isa.swizzle" stands for what each ISA does in its own
// instructions. Guest functions are "wasm.N" by module function index; the body of one that makes tail calls is "tail.N",
// of calling convention tailcc, and "wasm.N" calls that.
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
  kTableGrow, kTableFill, kTableCopy, kTableInit, kElemDrop, kThrow, kCatch,
};
inline constexpr unsigned kBuiltins = 17;

// Functions of our own making that follow the module's functions in the index space.
enum class Synthetic : unsigned { kMemoryFill, kMemoryCopy, kMemoryInit };
inline constexpr unsigned kSyntheticFunctions = 3;

class AbiIr {
 public:
  // `exceptions`: whether guest functions may throw, for all that the optimiser knows.
  explicit AbiIr(llvm::Module& module, bool exceptions = false);

  llvm::Type* ValueType(wabt::Type type) const;
  llvm::Type* ResultType(const wabt::FuncSignature& signature) const;
  llvm::FunctionType* GuestType(const wabt::FuncSignature& signature) const;
  llvm::FunctionType* ResumeType(llvm::Type* result) const;

  // The guest function's declaration or definition, made on first use.
  llvm::Function* GuestFunction(std::uint32_t index, llvm::FunctionType* type);
  // The entry for tail calls of a guest function that makes some, likewise.
  llvm::Function* TailFunction(std::uint32_t index, llvm::FunctionType* type);
  // An opaque stand-in, made on first use; one that runs guest functions may throw what they throw.
  llvm::Function* Opaque(const std::string& name, llvm::FunctionType* type, bool runs_guest = false);
  llvm::Function* OpaqueBuiltin(Builtin builtin);
  // The builtin's C type.
  llvm::FunctionType* BuiltinType(Builtin builtin) const;

  // Loads a field of the context.
  llvm::Value* LoadField(llvm::IRBuilderBase& b, llvm::Value* context, llvm::Type* type, std::size_t offset) const;
  llvm::Value* FieldAddress(llvm::IRBuilderBase& b, llvm::Value* context, std::size_t offset) const;

  llvm::Module& module;
  llvm::LLVMContext& llvm;
  const bool exceptions;
  llvm::Type *i1, *i8, *i32, *i64, *f32, *f64, *void_;
  llvm::Type* v128;  // <2 x i64>, whatever the lanes mean.
  llvm::PointerType *context_ptr, *memory_ptr, *ptr;

 private:
  llvm::Function* MakeGuest(const std::string& name, llvm::FunctionType* type, llvm::CallingConv::ID convention);
};

// Whether a function of this name is a guest function: its index follows the first five characters.
inline bool IsGuestName(llvm::StringRef name) { return name.starts_with("wasm.") || name.starts_with("tail."); }
// Whether a symbol is that of the part of a function that LLVM split off.
inline bool IsColdPart(llvm::StringRef symbol) { return symbol.ends_with(".cold"); }
// Whether the call's result, if any, is returned at once.
bool IsFollowedByReturn(const llvm::CallInst& call);
// The weights of a branch of whose two ways one is hardly ever gone.
llvm::MDNode* HardlyEver(llvm::LLVMContext& llvm, unsigned way = 0);
// A new block that returns a result which nobody reads: to callers that see for themselves that this was no usual return.
llvm::BasicBlock* MakeLeavingBlock(AbiIr& abi, llvm::Function& function, const char* name);

std::string GuestName(std::uint32_t index);
std::string TailName(std::uint32_t index);
std::string ResumeName(std::uint32_t index);
const char* BuiltinName(Builtin builtin);

}  // namespace godwit::compiler
