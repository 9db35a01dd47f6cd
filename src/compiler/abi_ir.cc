#include "compiler/abi_ir.h"

#include <llvm/IR/Instructions.h>
#include <llvm/IR/MDBuilder.h>

#include <iterator>

namespace godwit::compiler {

using llvm::FunctionType;

AbiIr::AbiIr(llvm::Module& m, bool may_throw)
    : module(m),
      llvm(m.getContext()),
      exceptions(may_throw),
      i1(llvm::Type::getInt1Ty(llvm)),
      i8(llvm::Type::getInt8Ty(llvm)),
      i32(llvm::Type::getInt32Ty(llvm)),
      i64(llvm::Type::getInt64Ty(llvm)),
      f32(llvm::Type::getFloatTy(llvm)),
      f64(llvm::Type::getDoubleTy(llvm)),
      void_(llvm::Type::getVoidTy(llvm)),
      v128(llvm::FixedVectorType::get(i64, 2)),
      context_ptr(llvm::PointerType::get(llvm, kContextSpace)),
      memory_ptr(llvm::PointerType::get(llvm, kMemorySpace)),
      ptr(llvm::PointerType::get(llvm, 0)) {}

llvm::Type* AbiIr::ValueType(wabt::Type type) const {
  switch (type) {
    case wabt::Type::I32: case wabt::Type::FuncRef: case wabt::Type::ExternRef: return i32;
    case wabt::Type::I64: return i64;
    case wabt::Type::F32: return f32;
    case wabt::Type::F64: return f64;
    case wabt::Type::V128: return v128;
    default: return nullptr;
  }
}

llvm::Type* AbiIr::ResultType(const wabt::FuncSignature& signature) const {
  if (signature.result_types.empty()) return void_;
  if (signature.result_types.size() == 1) return ValueType(signature.result_types[0]);
  std::vector<llvm::Type*> types;
  for (wabt::Type type : signature.result_types) types.push_back(ValueType(type));
  return llvm::StructType::get(llvm, types);
}

FunctionType* AbiIr::GuestType(const wabt::FuncSignature& signature) const {
  std::vector<llvm::Type*> types{context_ptr, memory_ptr};
  for (wabt::Type type : signature.param_types) types.push_back(ValueType(type));
  return FunctionType::get(ResultType(signature), types, false);
}

FunctionType* AbiIr::ResumeType(llvm::Type* result) const {
  return FunctionType::get(result, {context_ptr, memory_ptr}, false);
}

llvm::Function* AbiIr::MakeGuest(const std::string& name, FunctionType* type, llvm::CallingConv::ID convention) {
  if (llvm::Function* found = module.getFunction(name)) return found;
  auto* function = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, name, module);
  function->setCallingConv(convention);
  function->setVisibility(llvm::GlobalValue::HiddenVisibility);
  function->setDSOLocal(true);
  if (!exceptions) function->setDoesNotThrow();
  // Context and memory never overlap, and each function reaches them only through its parameters.
  function->addParamAttr(0, llvm::Attribute::NoAlias);
  function->addParamAttr(1, llvm::Attribute::NoAlias);
  return function;
}

llvm::Function* AbiIr::GuestFunction(std::uint32_t index, FunctionType* type) {
  return MakeGuest(GuestName(index), type, llvm::CallingConv::C);
}

llvm::Function* AbiIr::TailFunction(std::uint32_t index, FunctionType* type) {
  return MakeGuest(TailName(index), type, llvm::CallingConv::Tail);
}

llvm::Function* AbiIr::Opaque(const std::string& name, FunctionType* type, bool runs_guest) {
  if (llvm::Function* found = module.getFunction(name)) return found;
  auto* function = llvm::Function::Create(type, llvm::GlobalValue::ExternalLinkage, name, module);
  if (!exceptions || !runs_guest) function->setDoesNotThrow();
  return function;
}

llvm::Function* AbiIr::OpaqueBuiltin(Builtin builtin) {
  const bool throws = builtin == Builtin::kThrow;
  llvm::Function* function = Opaque(std::string("gw.") + BuiltinName(builtin), BuiltinType(builtin), throws);
  if (builtin == Builtin::kTrap || throws) {
    function->setDoesNotReturn();
    function->addFnAttr(llvm::Attribute::Cold);
  }
  return function;
}

FunctionType* AbiIr::BuiltinType(Builtin builtin) const {
  auto make = [&](llvm::Type* result, unsigned words) {
    std::vector<llvm::Type*> types{context_ptr};
    types.insert(types.end(), words, i32);
    return FunctionType::get(result, types, false);
  };
  switch (builtin) {
    case Builtin::kTrap: return make(void_, 1);
    case Builtin::kPoll: return make(void_, 0);
    case Builtin::kNextResume: return make(ptr, 0);
    case Builtin::kMemoryGrow: return make(i32, 2);
    case Builtin::kMemoryFill: return make(void_, 3);
    case Builtin::kMemoryCopy: return make(void_, 3);
    case Builtin::kMemoryInit: return make(void_, 4);
    case Builtin::kDataDrop: return make(void_, 1);
    case Builtin::kTableGet: return make(i32, 2);
    case Builtin::kTableSet: return make(void_, 3);
    case Builtin::kTableGrow: return make(i32, 3);
    case Builtin::kTableFill: return make(void_, 4);
    case Builtin::kTableCopy: return make(void_, 5);
    case Builtin::kTableInit: return make(void_, 5);
    case Builtin::kElemDrop: return make(void_, 1);
    case Builtin::kThrow: return make(void_, 1);
    case Builtin::kCatch: return make(i32, 0);
  }
  GODWIT_CHECK(false, "builtin");
}

llvm::Value* AbiIr::FieldAddress(llvm::IRBuilderBase& b, llvm::Value* context, std::size_t offset) const {
  return offset == 0 ? context : b.CreateConstInBoundsGEP1_64(i8, context, offset);
}

llvm::Value* AbiIr::LoadField(llvm::IRBuilderBase& b, llvm::Value* context, llvm::Type* type,
                              std::size_t offset) const {
  return b.CreateAlignedLoad(type, FieldAddress(b, context, offset), llvm::Align(4));
}

llvm::BasicBlock* MakeLeavingBlock(AbiIr& abi, llvm::Function& function, const char* name) {
  llvm::BasicBlock* block = llvm::BasicBlock::Create(abi.llvm, name, &function);
  llvm::Type* type = function.getReturnType();
  llvm::ReturnInst::Create(abi.llvm, type->isVoidTy() ? nullptr : llvm::Constant::getNullValue(type), block);
  return block;
}

bool IsFollowedByReturn(const llvm::CallInst& call) {
  auto* ret = llvm::dyn_cast<llvm::ReturnInst>(call.getNextNode());
  return ret && (!ret->getReturnValue() || ret->getReturnValue() == &call);
}

// The smallest probability that LLVM can hold: cold wherever it stands.
llvm::MDNode* HardlyEver(llvm::LLVMContext& llvm, unsigned way) {
  constexpr std::uint32_t kNearlyAlways = (1u << 31) - 1;
  return llvm::MDBuilder(llvm).createBranchWeights(way == 0 ? 1 : kNearlyAlways, way == 0 ? kNearlyAlways : 1);
}

std::string GuestName(std::uint32_t index) { return "wasm." + std::to_string(index); }
std::string TailName(std::uint32_t index) { return "tail." + std::to_string(index); }
std::string ResumeName(std::uint32_t index) { return "resume." + std::to_string(index); }

const char* BuiltinName(Builtin builtin) {
  static constexpr const char* kNames[] = {"trap",       "poll",      "next_resume", "memory_grow", "memory_fill",
                                           "memory_copy", "memory_init", "data_drop", "table_get",   "table_set",
                                           "table_grow", "table_fill", "table_copy", "table_init",  "elem_drop",
                                           "throw",      "catch"};
  static_assert(std::size(kNames) == kBuiltins);
  return kNames[static_cast<unsigned>(builtin)];
}

}  // namespace godwit::compiler
