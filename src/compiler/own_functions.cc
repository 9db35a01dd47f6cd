// Functions that stand between guest functions and the runtime: import wrappers, bulk operations, entry thunks.
#include "compiler/function_builder.h"
#include "compiler/translate.h"

namespace godwit::compiler {

using llvm::BasicBlock;
using llvm::PHINode;
using llvm::Value;

void DefineImportWrapper(const wasm::Module& module, std::uint32_t index, AbiIr& abi) {
  const wabt::FuncSignature& sig = module.ir->funcs[index]->decl.sig;
  llvm::FunctionType* type = abi.GuestType(sig);
  FunctionBuilder f(abi, abi.GuestFunction(index, type));
  f.function->addFnAttr(llvm::Attribute::NoInline);
  llvm::Function* host = abi.Opaque("gw.host." + std::to_string(index), type, true);
  BasicBlock* loop = f.NewBlock("call");
  BasicBlock* again = f.NewBlock("again");
  BasicBlock* done = f.NewBlock("done");
  f.b.CreateBr(loop);
  f.b.SetInsertPoint(loop);
  std::vector<Value*> arguments;
  for (llvm::Argument& argument : f.function->args()) arguments.push_back(&argument);
  Value* result = f.b.CreateCall(host, arguments);
  llvm::LoadInst* state = f.b.CreateAlignedLoad(abi.i32, f.context, llvm::Align(4));
  state->setVolatile(true);
  f.b.CreateCondBr(f.b.CreateICmpNE(f.b.CreateAnd(state, abi::kRestart), f.I32(0)), again, done);
  // The latch that the safepoint pass polls: with kRestart set the poll always captures.
  f.b.SetInsertPoint(again);
  f.b.CreateBr(loop);
  f.b.SetInsertPoint(done);
  if (type->getReturnType()->isVoidTy()) {
    f.b.CreateRetVoid();
  } else {
    f.b.CreateRet(result);
  }
}

std::uint32_t SyntheticIndex(const wasm::Module& module, Synthetic which) {
  return static_cast<std::uint32_t>(module.ir->funcs.size()) + static_cast<std::uint32_t>(which);
}

wabt::FuncSignature SyntheticSignature(Synthetic which) {
  wabt::FuncSignature sig;
  sig.param_types.assign(which == Synthetic::kMemoryInit ? 4 : 3, wabt::Type::I32);
  return sig;
}

void DefineSynthetic(const wasm::Module& module, Synthetic which, AbiIr& abi) {
  const bool copy = which == Synthetic::kMemoryCopy, init = which == Synthetic::kMemoryInit;
  FunctionBuilder f(abi, abi.GuestFunction(SyntheticIndex(module, which), abi.GuestType(SyntheticSignature(which))));
  f.function->addFnAttr(llvm::Attribute::NoInline);
  auto& b = f.b;
  Value *to = f.function->getArg(2), *second = f.function->getArg(3), *bytes = f.function->getArg(4);
  Value* size = abi.LoadField(b, f.context, abi.i64, offsetof(abi::Context, memory_bytes));
  auto past_end = [&](Value* start, Value* end) {
    return b.CreateICmpUGT(b.CreateAdd(b.CreateZExt(start, abi.i64), b.CreateZExt(bytes, abi.i64)), end);
  };
  f.TrapIf(past_end(to, size), abi::TrapCode::kMemoryOutOfBounds);
  if (copy) f.TrapIf(past_end(second, size), abi::TrapCode::kMemoryOutOfBounds);
  if (init) f.TrapIf(past_end(second, f.I64(1ull << 32)), abi::TrapCode::kMemoryOutOfBounds);
  Value* limit = f.I32(abi::kBulkChunkBytes);
  llvm::Function* chunk = abi.OpaqueBuiltin(copy ? Builtin::kMemoryCopy : init ? Builtin::kMemoryInit : Builtin::kMemoryFill);
  BasicBlock *entry = nullptr, *done = f.NewBlock("done");

  // One loop over chunks of what remains, from the front or from the back (overlapping copies upwards).
  auto loop = [&](bool backward) {
    entry = b.GetInsertBlock();
    BasicBlock* header = f.NewBlock("chunk");
    BasicBlock* latch = f.NewBlock("latch");
    b.CreateBr(header);
    b.SetInsertPoint(header);
    PHINode* left = b.CreatePHI(abi.i32, 2);
    left->addIncoming(bytes, entry);
    Value* now = b.CreateBinaryIntrinsic(llvm::Intrinsic::umin, left, limit);
    Value* rest = b.CreateSub(left, now);
    Value* offset = backward ? rest : b.CreateSub(bytes, left);
    std::vector<Value*> arguments{f.context, b.CreateAdd(to, offset), copy || init ? b.CreateAdd(second, offset) : second, now};
    if (init) arguments.insert(arguments.begin() + 1, f.function->getArg(5));
    b.CreateCall(chunk, arguments);
    b.CreateCall(abi.Opaque("gw.memory_written", llvm::FunctionType::get(abi.void_, {abi.memory_ptr}, false)), {f.memory});
    b.CreateCondBr(b.CreateICmpEQ(rest, f.I32(0)), done, latch);
    b.SetInsertPoint(latch);
    b.CreateBr(header);
    left->addIncoming(rest, latch);
  };
  if (copy) {
    BasicBlock *forward = f.NewBlock("forward"), *backward = f.NewBlock("backward");
    b.CreateCondBr(b.CreateICmpUGT(to, second), backward, forward);
    b.SetInsertPoint(backward);
    loop(true);
    b.SetInsertPoint(forward);
  }
  loop(init);  // The end of a segment first: if that is inside it, all is, and otherwise nothing has been written.
  b.SetInsertPoint(done);
  b.CreateRetVoid();
}

void DefineTailWrapper(const wasm::Module& module, std::uint32_t index, AbiIr& abi) {
  llvm::FunctionType* type = abi.GuestType(module.ir->funcs[index]->decl.sig);
  llvm::Function *wrapper = abi.GuestFunction(index, type), *body = abi.TailFunction(index, type);
  llvm::IRBuilder<> b(BasicBlock::Create(abi.llvm, "entry", wrapper));
  std::vector<Value*> arguments;
  for (llvm::Argument& argument : wrapper->args()) arguments.push_back(&argument);
  llvm::CallInst* call = b.CreateCall(body, arguments);
  call->setCallingConv(body->getCallingConv());
  if (call->getType()->isVoidTy()) {
    b.CreateRetVoid();
  } else {
    b.CreateRet(call);
  }
}

void DefineEntryThunks(const wabt::FuncSignature& sig, std::uint32_t type_index, AbiIr& abi) {
  auto* thunk_type = llvm::FunctionType::get(abi.void_, {abi.context_ptr, abi.memory_ptr, abi.ptr, abi.ptr}, false);
  auto make = [&](const std::string& name, bool with_parameters) {
    auto* thunk = llvm::Function::Create(thunk_type, llvm::GlobalValue::ExternalLinkage,
                                         name + std::to_string(type_index), abi.module);
    thunk->setVisibility(llvm::GlobalValue::HiddenVisibility);
    thunk->setDSOLocal(true);
    thunk->setDoesNotThrow();
    llvm::IRBuilder<> b(BasicBlock::Create(abi.llvm, "entry", thunk));
    Value *code = thunk->getArg(2), *cells = thunk->getArg(3);
    auto cell = [&](std::size_t i) { return b.CreateConstGEP1_64(abi.i8, cells, i * 16); };
    std::vector<Value*> arguments{thunk->getArg(0), thunk->getArg(1)};
    llvm::FunctionType* type = abi.ResumeType(abi.ResultType(sig));
    if (with_parameters) {
      type = abi.GuestType(sig);
      for (std::size_t i = 0; i < sig.param_types.size(); ++i) {
        arguments.push_back(b.CreateAlignedLoad(abi.ValueType(sig.param_types[i]), cell(i), llvm::Align(8)));
      }
    }
    Value* result = b.CreateCall(type, code, arguments);
    for (unsigned i = 0; i < sig.result_types.size(); ++i) {
      Value* value = sig.result_types.size() == 1 ? result : b.CreateExtractValue(result, i);
      b.CreateAlignedStore(value, cell(i), llvm::Align(8));
    }
    b.CreateRetVoid();
  };
  make("entry.", true);
  make("reentry.", false);
}

}  // namespace godwit::compiler
