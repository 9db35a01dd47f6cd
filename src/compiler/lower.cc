#include "compiler/lower.h"

#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>

#include <map>

namespace godwit::compiler {
namespace {

using llvm::CallInst;
using llvm::IRBuilder;
using llvm::Value;

class Lowerer {
 public:
  explicit Lowerer(AbiIr& abi) : abi_(abi) {
    for (unsigned i = 0; i < kBuiltins; ++i) {
      builtins_[std::string("gw.") + BuiltinName(static_cast<Builtin>(i))] = i;
    }
  }

  void Run() {
    std::vector<CallInst*> calls;
    for (llvm::Function& function : abi_.module) {
      for (llvm::Instruction& instruction : llvm::instructions(function)) {
        auto* call = llvm::dyn_cast<CallInst>(&instruction);
        if (call && call->getCalledFunction() && call->getCalledFunction()->getName().starts_with("gw.")) {
          calls.push_back(call);
        }
      }
    }
    for (CallInst* call : calls) Lower(*call);
    for (llvm::Function& function : llvm::make_early_inc_range(abi_.module)) {
      if (function.getName().starts_with("gw.") && function.use_empty()) function.eraseFromParent();
    }
  }

 private:
  void Lower(CallInst& call) {
    const std::string name = call.getCalledFunction()->getName().str();
    IRBuilder<> b(&call);
    Value* context = call.getArgOperand(0);
    if (auto builtin = builtins_.find(name); builtin != builtins_.end()) {
      call.setCalledOperand(LoadFrom(b, Field(b, context, offsetof(abi::Context, builtins)), builtin->second));
    } else if (name.starts_with("gw.host.")) {
      Value* imports = Field(b, context, offsetof(abi::Context, imports));
      const unsigned long number = std::stoul(name.substr(8));
      CallEntry(b, call, b.CreateConstGEP1_64(abi_.i8, imports, number * sizeof(abi::FunctionEntry)), call.arg_size());
    } else if (name.starts_with("gw.global.")) {
      LowerGlobal(b, call, std::stoul(name.substr(10)));
    } else if (name.starts_with("gw.tag.")) {
      call.replaceAllUsesWith(Load32(b, Field(b, context, offsetof(abi::Context, tags)), std::stoul(name.substr(7)) * 4));
      call.eraseFromParent();
    } else if (name == "gw.memory_written") {
      call.eraseFromParent();
    } else if (name.starts_with("gw.table_size.")) {
      const std::size_t table = std::stoul(name.substr(14)) * sizeof(abi::Table);
      call.replaceAllUsesWith(Load32(b, Field(b, context, offsetof(abi::Context, tables)), table + offsetof(abi::Table, size)));
      call.eraseFromParent();
    } else if (name == "gw.threw") {
      llvm::LoadInst* state = b.CreateAlignedLoad(abi_.i32, context, llvm::Align(8));
      state->setVolatile(true);
      call.replaceAllUsesWith(b.CreateICmpNE(b.CreateAnd(state, abi::kException), b.getInt32(0)));
      call.eraseFromParent();
    } else if (name.starts_with("gw.tail_host.")) {
      LowerTailHost(b, call, static_cast<std::uint32_t>(std::stoul(name.substr(13))));
    } else {
      LowerIndirect(call, name);
    }
  }

  // gw.icall.TABLE.TYPE(context, memory, parameters..., element index), and gw.tail_icall likewise.
  void LowerIndirect(CallInst& call, const std::string& name) {
    const std::size_t begin = name.find('.', 3) + 1, dot = name.find('.', begin);
    const unsigned long table = std::stoul(name.substr(begin, dot - begin)), type = std::stoul(name.substr(dot + 1));
    IRBuilder<> b(&call);
    Value* context = call.getArgOperand(0);
    Value* index = call.getArgOperand(call.arg_size() - 1);
    Value* entry_of_table = b.CreateConstGEP1_64(abi_.i8, Field(b, context, offsetof(abi::Context, tables)), table * sizeof(abi::Table));
    Value* size = Load32(b, entry_of_table, offsetof(abi::Table, size));
    TrapIf(call, b.CreateICmpUGE(index, size), abi::TrapCode::kUndefinedElement);
    b.SetInsertPoint(&call);
    Value* elements = b.CreateAlignedLoad(abi_.ptr, entry_of_table, llvm::Align(8));
    Value* reference = b.CreateAlignedLoad(abi_.i32, b.CreateGEP(abi_.i32, elements, b.CreateZExt(index, abi_.i64)), llvm::Align(4));
    Value* entry = b.CreateGEP(abi_.i8, Field(b, context, offsetof(abi::Context, functions)),
                               b.CreateShl(b.CreateZExt(reference, abi_.i64), 5));
    Value* signature = Load32(b, entry, offsetof(abi::FunctionEntry, signature));
    Value* expected = Load32(b, Field(b, context, offsetof(abi::Context, signatures)), type * 4);
    Value* mismatch = b.CreateICmpNE(signature, expected);
    // A null's signature is 0, which no type has: told apart only when something is wrong.
    llvm::Instruction* bad = llvm::SplitBlockAndInsertIfThen(mismatch, &call, true, HardlyEver(abi_.llvm));
    IRBuilder<> at_bad(bad);
    Value* code = at_bad.CreateSelect(at_bad.CreateICmpEQ(reference, at_bad.getInt32(0)),
                                      at_bad.getInt32(std::uint32_t(abi::TrapCode::kIndirectCallToNull)),
                                      at_bad.getInt32(std::uint32_t(abi::TrapCode::kIndirectCallTypeMismatch)));
    EmitTrap(at_bad, context, code);

    b.SetInsertPoint(&call);
    if (call.isMustTailCall()) JumpIfPossible(call, entry, call.arg_size() - 1);
    b.SetInsertPoint(&call);
    CallEntry(b, call, entry, call.arg_size() - 1);
  }

  // gw.tail_host.N(context, memory, parameters...): another instance's function may be jumped to; else the import's
  // wrapper is called, which knows how to call a host function again.
  void LowerTailHost(IRBuilder<>& b, CallInst& call, std::uint32_t number) {
    if (call.isMustTailCall()) {
      Value* imports = Field(b, call.getArgOperand(0), offsetof(abi::Context, imports));
      JumpIfPossible(call, b.CreateConstGEP1_64(abi_.i8, imports, number * sizeof(abi::FunctionEntry)), call.arg_size());
    }
    call.setTailCallKind(CallInst::TCK_None);
    call.setCalledFunction(abi_.GuestFunction(number, call.getFunctionType()));
    call.setCallingConv(llvm::CallingConv::C);
  }

  // Before `call`, which returns follow: jumps to the entry for tail calls of what the abi::FunctionEntry says, if it
  // has one.
  void JumpIfPossible(CallInst& call, Value* entry, unsigned count) {
    IRBuilder<> b(&call);
    Value* distance = Load32(b, entry, offsetof(abi::FunctionEntry, tail));
    llvm::Instruction* last = llvm::SplitBlockAndInsertIfThen(b.CreateICmpNE(distance, b.getInt32(0)), &call, true);
    b.SetInsertPoint(last);
    Value* code = b.CreateGEP(abi_.i8, b.CreateAlignedLoad(abi_.ptr, entry, llvm::Align(8)), b.CreateSExt(distance, abi_.i64));
    CallInst* jump = CreateEntryCall(b, call, entry, code, count);
    jump->setCallingConv(llvm::CallingConv::Tail);
    jump->setTailCallKind(CallInst::TCK_MustTail);
    if (jump->getType()->isVoidTy()) {
      b.CreateRetVoid();
    } else {
      b.CreateRet(jump);
    }
    last->eraseFromParent();
  }

  // gw.global.N.get(context), gw.global.N.set(context, value): an imported mutable global's.
  void LowerGlobal(IRBuilder<>& b, CallInst& call, std::size_t index) {
    Value* cell = Field(b, call.getArgOperand(0), abi::kGlobalsOffset + index * abi::kGlobalBytes);
    if (call.arg_size() == 1) {
      call.replaceAllUsesWith(b.CreateAlignedLoad(call.getType(), cell, llvm::Align(8)));
    } else {
      b.CreateAlignedStore(call.getArgOperand(1), cell, llvm::Align(8));
    }
    call.eraseFromParent();
  }

  // Calls what the abi::FunctionEntry says, with its context and memory and the other arguments of `call`, of which
  // there are `count`, and puts that in place of `call`.
  void CallEntry(IRBuilder<>& b, CallInst& call, Value* entry, unsigned count) {
    CallInst* direct = CreateEntryCall(b, call, entry, b.CreateAlignedLoad(abi_.ptr, entry, llvm::Align(8)), count);
    call.replaceAllUsesWith(direct);
    call.eraseFromParent();
  }

  CallInst* CreateEntryCall(IRBuilder<>& b, CallInst& call, Value* entry, Value* code, unsigned count) {
    std::vector<Value*> arguments(call.arg_begin(), call.arg_begin() + count);
    arguments[0] = b.CreateAlignedLoad(abi_.context_ptr, b.CreateConstGEP1_64(abi_.i8, entry, offsetof(abi::FunctionEntry, context)), llvm::Align(8));
    arguments[1] = b.CreateAlignedLoad(abi_.memory_ptr, b.CreateConstGEP1_64(abi_.i8, entry, offsetof(abi::FunctionEntry, memory)), llvm::Align(8));
    std::vector<llvm::Type*> types;
    for (Value* argument : arguments) types.push_back(argument->getType());
    CallInst* direct = b.CreateCall(llvm::FunctionType::get(call.getType(), types, false), code, arguments);
    direct->setDoesNotThrow();
    direct->setDebugLoc(call.getDebugLoc());
    return direct;
  }

  void TrapIf(CallInst& before, Value* condition, abi::TrapCode code) {
    Value* context = before.getArgOperand(0);
    IRBuilder<> b(llvm::SplitBlockAndInsertIfThen(condition, &before, true, HardlyEver(abi_.llvm)));
    EmitTrap(b, context, b.getInt32(static_cast<std::uint32_t>(code)));
  }
  void EmitTrap(IRBuilder<>& b, Value* context, Value* code) {
    Value* table = Field(b, context, offsetof(abi::Context, builtins));
    CallInst* trap = b.CreateCall(abi_.BuiltinType(Builtin::kTrap), LoadFrom(b, table, 0), {context, code});
    trap->setDoesNotReturn();
    if (trap->getDebugLoc()) trap->addFnAttr(llvm::Attribute::NoMerge);
  }

  Value* Field(IRBuilder<>& b, Value* context, std::size_t offset) {
    return b.CreateAlignedLoad(abi_.ptr, abi_.FieldAddress(b, context, offset), llvm::Align(8));
  }
  Value* LoadFrom(IRBuilder<>& b, Value* table, std::size_t position) {
    return b.CreateAlignedLoad(abi_.ptr, b.CreateConstGEP1_64(abi_.i8, table, position * 8), llvm::Align(8));
  }
  Value* Load32(IRBuilder<>& b, Value* base, std::size_t offset) {
    return b.CreateAlignedLoad(abi_.i32, b.CreateConstGEP1_64(abi_.i8, base, offset), llvm::Align(4));
  }

  AbiIr& abi_;
  std::map<std::string, unsigned> builtins_;
};

}  // namespace

void LowerOpaqueCalls(AbiIr& abi) { Lowerer(abi).Run(); }

}  // namespace godwit::compiler
