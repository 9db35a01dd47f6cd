#include "compiler/translation_stacks.h"

namespace godwit::compiler {

using llvm::BasicBlock;
using llvm::PHINode;
using llvm::Value;

Value* TranslationStacks::Pop() {
  Value* value = stack_.back();
  stack_.pop_back();
  return value;
}

std::vector<Value*> TranslationStacks::PopMany(std::size_t n) {
  std::vector<Value*> values(stack_.end() - n, stack_.end());
  stack_.resize(stack_.size() - n);
  return values;
}

std::vector<PHINode*> TranslationStacks::MakePhis(BasicBlock* block, const wabt::TypeVector& types) {
  llvm::IRBuilder<> at(block);
  std::vector<PHINode*> phis;
  for (wabt::Type type : types) phis.push_back(at.CreatePHI(abi_.ValueType(type), 2));
  return phis;
}

void TranslationStacks::FeedPhis(const std::vector<PHINode*>& phis) {
  for (std::size_t i = 0; i < phis.size(); ++i) {
    phis[i]->addIncoming(stack_[stack_.size() - phis.size() + i], b_.GetInsertBlock());
  }
}

TranslationStacks::Label& TranslationStacks::BeginLabel(Label::Kind kind, const wabt::Block& block) {
  const auto& sig = block.decl.sig;
  Label label;
  label.kind = kind;
  label.entered_unreachable = Dead();
  if (!label.entered_unreachable) {
    label.height = stack_.size() - sig.param_types.size();
    label.end = f_.NewBlock("end");
    label.end_phis = MakePhis(label.end, sig.result_types);
    label.target = label.end;
    label.target_phis = label.end_phis;
  }
  return labels_.emplace_back(std::move(label));
}

void TranslationStacks::EndLabel() {
  Label label = std::move(labels_.back());
  labels_.pop_back();
  if (label.entered_unreachable) return;
  if (!Dead()) {
    FeedPhis(label.end_phis);
    b_.CreateBr(label.end);
  }
  stack_.resize(label.height);
  if (label.end->use_empty()) {
    label.end->eraseFromParent();
    BecomeDead();
    return;
  }
  b_.SetInsertPoint(label.end);
  for (PHINode* phi : label.end_phis) Push(phi);
}

void TranslationStacks::EmitReturn() {
  llvm::Type* type = f_.function->getReturnType();
  const std::size_t n = func_.decl.sig.result_types.size();
  if (n == 0) {
    b_.CreateRetVoid();
  } else if (n == 1) {
    b_.CreateRet(stack_.back());
  } else {
    Value* all = llvm::PoisonValue::get(type);
    for (std::size_t i = 0; i < n; ++i) {
      all = b_.CreateInsertValue(all, stack_[stack_.size() - n + i], static_cast<unsigned>(i));
    }
    b_.CreateRet(all);
  }
}

void TranslationStacks::Branch(wabt::Index depth) {
  Label& target = Target(depth);
  FeedPhis(target.target_phis);
  b_.CreateBr(target.target);
}

Value* TranslationStacks::GlobalAddress(wabt::Index index) {
  return abi_.FieldAddress(b_, f_.context, abi::kGlobalsOffset + std::size_t(index) * abi::kGlobalBytes);
}

llvm::Function* TranslationStacks::Callee(wabt::Index index) {
  llvm::FunctionType* type = abi_.GuestType(module_.ir->funcs[index]->decl.sig);
  return module_.uses.tail_calls[index] ? abi_.TailFunction(index, type) : abi_.GuestFunction(index, type);
}

llvm::Function* TranslationStacks::IndirectCallee(const std::string& prefix, const wabt::Var& table, const wabt::FuncDeclaration& declaration) {
  llvm::FunctionType* guest = abi_.GuestType(declaration.sig);
  std::vector<llvm::Type*> types(guest->params().begin(), guest->params().end());
  types.push_back(abi_.i32);
  return abi_.Opaque(prefix + std::to_string(table.index()) + "." + std::to_string(module_.ir->GetFuncTypeIndex(declaration)),
                     llvm::FunctionType::get(guest->getReturnType(), types, false), true);
}

std::vector<Value*> TranslationStacks::CallArguments(const wabt::FuncSignature& sig, Value* last) {
  std::vector<Value*> arguments{f_.context, f_.memory};
  for (Value* value : PopMany(sig.param_types.size())) arguments.push_back(value);
  if (last) arguments.push_back(last);
  return arguments;
}

llvm::CallBase* TranslationStacks::CreateCall(llvm::Function* callee, llvm::ArrayRef<Value*> arguments) {
  BasicBlock* landing = callee->doesNotThrow() ? nullptr : LandingFrom(labels_.size());
  llvm::CallBase* call;
  if (landing) {
    BasicBlock* next = f_.NewBlock("");
    call = b_.CreateInvoke(callee, next, landing, arguments);
    b_.SetInsertPoint(next);
  } else {
    call = b_.CreateCall(callee, arguments);
  }
  call->setCallingConv(callee->getCallingConv());
  return call;
}

void TranslationStacks::EmitCall(llvm::Function* callee, const wabt::FuncSignature& sig, Value* last) {
  llvm::CallBase* call = CreateCall(callee, CallArguments(sig, last));
  if (sig.result_types.size() == 1) {
    Push(call);
  } else {
    for (unsigned i = 0; i < sig.result_types.size(); ++i) Push(b_.CreateExtractValue(call, i));
  }
}

void TranslationStacks::EmitTailCall(llvm::Function* callee, const wabt::FuncSignature& sig, Value* last) {
  llvm::CallInst* call = b_.CreateCall(callee, CallArguments(sig, last));
  call->setCallingConv(callee->getCallingConv());
  if (callee->getCallingConv() == llvm::CallingConv::Tail) call->setTailCallKind(llvm::CallInst::TCK_MustTail);
  if (call->getType()->isVoidTy()) {
    b_.CreateRetVoid();
  } else {
    b_.CreateRet(call);
  }
  BecomeDead();
}

Value* TranslationStacks::TagNumber(wabt::Index tag) {
  llvm::Function* number = abi_.Opaque("gw.tag." + std::to_string(tag), llvm::FunctionType::get(abi_.i32, {abi_.context_ptr}, false));
  number->setDoesNotAccessMemory();
  number->setWillReturn();
  return b_.CreateCall(number, {f_.context});
}

unsigned TranslationStacks::ExceptionCells() {
  std::size_t cells = 0;
  cell_type_ = abi_.i64;
  for (const wabt::Tag* tag : module_.ir->tags) {
    cells = std::max(cells, tag->decl.sig.param_types.size());
    for (wabt::Type type : tag->decl.sig.param_types) {
      if (type == wabt::Type::V128) cell_type_ = abi_.v128;
    }
  }
  return static_cast<unsigned>(cells);
}

Value* TranslationStacks::CellAddress(unsigned cell) {
  return GlobalAddress(static_cast<wabt::Index>(module_.ir->globals.size() + cell));
}

Value* TranslationStacks::LoadCell(unsigned cell, llvm::Type* type) {
  return b_.CreateAlignedLoad(type, CellAddress(cell), llvm::Align(8), /*isVolatile=*/true);
}

void TranslationStacks::StoreCells(const std::vector<Value*>& values) {
  for (unsigned i = 0; i < values.size(); ++i) b_.CreateAlignedStore(values[i], CellAddress(i), llvm::Align(8), /*isVolatile=*/true);
}

void TranslationStacks::EmitThrow(Value* tag) {
  CreateCall(abi_.OpaqueBuiltin(Builtin::kThrow), {f_.context, tag});
  b_.CreateUnreachable();
  BecomeDead();
}

BasicBlock* TranslationStacks::LandingFrom(std::size_t depth) {
  while (depth-- > 0) {
    Label& label = labels_[depth];
    if (label.kind != Label::Kind::kTry || !label.in_body || label.entered_unreachable) continue;
    if (label.attempt->kind == wabt::TryKind::Delegate) {
      depth -= label.attempt->delegate_target.index();  // Counted from outside the try.
    } else if (label.attempt->kind == wabt::TryKind::Catch) {
      if (!label.landing) label.landing = f_.NewBlock("landing");
      lands_ = true;
      return label.landing;
    }
  }
  return nullptr;
}

void TranslationStacks::EmitLanding(Label& label) {
  b_.SetInsertPoint(label.landing);
  llvm::LandingPadInst* pad = b_.CreateLandingPad(llvm::StructType::get(abi_.ptr, abi_.i32), 1);
  pad->addClause(llvm::ConstantPointerNull::get(abi_.ptr));
  label.caught_tag = b_.CreateCall(abi_.OpaqueBuiltin(Builtin::kCatch), {f_.context});
  while (label.handlers.size() < label.attempt->catches.size()) label.handlers.push_back(f_.NewBlock("catch"));
  for (std::size_t i = 0; i < label.handlers.size(); ++i) {
    const wabt::Catch& c = label.attempt->catches[i];
    if (c.IsCatchAll()) {
      b_.CreateBr(label.handlers[i]);
      return;
    }
    BasicBlock* next = f_.NewBlock("");
    b_.CreateCondBr(b_.CreateICmpEQ(label.caught_tag, TagNumber(c.var.index())), label.handlers[i], next);
    b_.SetInsertPoint(next);
  }
  EmitThrow(label.caught_tag);  // The cells are as they were thrown.
}

}  // namespace godwit::compiler
