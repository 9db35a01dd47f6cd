#include "compiler/translate.h"

#include <optional>

#include "compiler/translation_stacks.h"

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::PHINode;
using llvm::Value;
using wabt::Opcode;

constexpr std::uint8_t kSimdPrefix = 0xfd;

class Translator : public wabt::ExprVisitor::DelegateNop, private TranslationStacks {
 public:
  Translator(const wasm::Module& module, const wabt::Func& func, FunctionBuilder& f)
      : TranslationStacks(module, func, f) {}

  Status Run() {
    DeclareLocals();
    Label& outer = labels_.emplace_back();
    outer.kind = Label::Kind::kFunction;
    outer.end = outer.target = f_.NewBlock("return");
    outer.end_phis = MakePhis(outer.end, func_.decl.sig.result_types);
    outer.target_phis = outer.end_phis;
    wabt::ExprVisitor visitor(this);
    const auto visited = visitor.VisitExprList(const_cast<wabt::ExprList&>(func_.exprs));
    if (error_) return *error_;
    if (wabt::Failed(visited)) return Internal("the expression visitor gave up");
    EndLabel();
    if (b_.GetInsertBlock()) EmitReturn();
    if (lands_) f_.function->setPersonalityFn(abi_.Opaque("gw.personality", llvm::FunctionType::get(abi_.i32, true)));
    return {};
  }

 private:
  using R = wabt::Result;
  static constexpr wabt::Result::Enum kOk = wabt::Result::Ok;

  R Fail(Error error) {
    if (!error_) error_ = std::move(error);
    return wabt::Result::Error;
  }
  void Locate(const wabt::Expr& expr) { f_.LocateAt(expr.loc.offset); }
  R NotSupported(const char* what) { return Fail(Unsupported(std::string("instruction ") + what)); }

  // --- Values and locals ---
  void DeclareLocals() {
    auto declare = [&](wabt::Type type, Value* initial) {
      llvm::Type* llvm_type = abi_.ValueType(type);
      llvm::AllocaInst* slot = b_.CreateAlloca(llvm_type);
      b_.CreateStore(initial ? initial : llvm::Constant::getNullValue(llvm_type), slot);
      locals_.push_back(slot);
    };
    for (wabt::Index i = 0; i < func_.GetNumParams(); ++i) declare(func_.GetParamType(i), f_.function->getArg(i + 2));
    for (const auto& [type, count] : func_.local_types.decls()) {
      for (wabt::Index i = 0; i < count; ++i) declare(type, nullptr);
    }
  }

 public:
  // --- Control ---
  R OnNopExpr(wabt::NopExpr*) override { return kOk; }
  R OnUnreachableExpr(wabt::UnreachableExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    f_.Trap(abi::TrapCode::kUnreachable);
    BecomeDead();
    return kOk;
  }
  R BeginBlockExpr(wabt::BlockExpr* e) override {
    BeginLabel(Label::Kind::kBlock, e->block);
    return kOk;
  }
  R EndBlockExpr(wabt::BlockExpr*) override {
    EndLabel();
    return kOk;
  }
  R BeginLoopExpr(wabt::LoopExpr* e) override {
    Label& label = BeginLabel(Label::Kind::kLoop, e->block);
    if (label.entered_unreachable) return kOk;
    label.target = f_.NewBlock("loop");
    label.target_phis = MakePhis(label.target, e->block.decl.sig.param_types);
    FeedPhis(label.target_phis);
    PopMany(label.target_phis.size());
    b_.CreateBr(label.target);
    b_.SetInsertPoint(label.target);
    for (PHINode* phi : label.target_phis) Push(phi);
    return kOk;
  }
  R EndLoopExpr(wabt::LoopExpr*) override {
    EndLabel();
    return kOk;
  }
  R BeginIfExpr(wabt::IfExpr* e) override {
    Value* condition = Dead() ? nullptr : IsTrue(Pop());
    Label& label = BeginLabel(Label::Kind::kIf, e->true_);
    if (label.entered_unreachable) return kOk;
    BasicBlock* then = f_.NewBlock("then");
    label.otherwise = f_.NewBlock("else");
    label.parameters.assign(stack_.begin() + label.height, stack_.end());
    b_.CreateCondBr(condition, then, label.otherwise);
    b_.SetInsertPoint(then);
    return kOk;
  }
  R AfterIfTrueExpr(wabt::IfExpr*) override {
    Label& label = labels_.back();
    if (label.entered_unreachable) return kOk;
    if (!Dead()) {
      FeedPhis(label.end_phis);
      b_.CreateBr(label.end);
    }
    stack_.resize(label.height);
    for (Value* value : label.parameters) Push(value);
    b_.SetInsertPoint(label.otherwise);
    label.otherwise = nullptr;
    return kOk;
  }
  R EndIfExpr(wabt::IfExpr*) override {
    Label& label = labels_.back();
    if (!label.entered_unreachable && label.otherwise) AfterIfTrueExpr(nullptr);  // No else branch in the source.
    EndLabel();
    return kOk;
  }
  R OnBrExpr(wabt::BrExpr* e) override {
    if (Dead()) return kOk;
    Branch(e->var.index());
    BecomeDead();
    return kOk;
  }
  R OnBrIfExpr(wabt::BrIfExpr* e) override {
    if (Dead()) return kOk;
    Value* condition = IsTrue(Pop());
    Label& target = Target(e->var.index());
    FeedPhis(target.target_phis);
    BasicBlock* next = f_.NewBlock("");
    b_.CreateCondBr(condition, target.target, next);
    b_.SetInsertPoint(next);
    return kOk;
  }
  R OnBrTableExpr(wabt::BrTableExpr* e) override {
    if (Dead()) return kOk;
    if (e->targets.size() > wasm::kBrTableTargetsMax) return Fail(ResourceExhausted("br_table with too many targets"));
    Value* index = Pop();
    Label& fallback = Target(e->default_target.index());
    llvm::SwitchInst* jump = b_.CreateSwitch(index, fallback.target, e->targets.size());
    FeedPhis(fallback.target_phis);
    for (std::size_t i = 0; i < e->targets.size(); ++i) {
      Label& target = Target(e->targets[i].index());
      jump->addCase(llvm::cast<llvm::ConstantInt>(f_.I32(static_cast<std::uint32_t>(i))), target.target);
      FeedPhis(target.target_phis);
    }
    BecomeDead();
    return kOk;
  }
  R OnReturnExpr(wabt::ReturnExpr*) override {
    if (Dead()) return kOk;
    Branch(static_cast<wabt::Index>(labels_.size() - 1));
    BecomeDead();
    return kOk;
  }
  R OnCallExpr(wabt::CallExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    const wabt::Index index = e->var.index();
    const wabt::FuncSignature& sig = module_.ir->funcs[index]->decl.sig;
    EmitCall(Callee(index), sig, nullptr);
    return kOk;
  }
  R OnCallIndirectExpr(wabt::CallIndirectExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    EmitCall(IndirectCallee("gw.icall.", e->table, e->decl), e->decl.sig, Pop());
    return kOk;
  }
  R OnReturnCallExpr(wabt::ReturnCallExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    const wabt::Index index = e->var.index();
    const wabt::FuncSignature& sig = module_.ir->funcs[index]->decl.sig;
    if (index < module_.ir->num_func_imports) {
      llvm::Function* opaque = abi_.Opaque("gw.tail_host." + std::to_string(index), abi_.GuestType(sig), true);
      opaque->setCallingConv(llvm::CallingConv::Tail);
      EmitTailCall(opaque, sig, nullptr);
      return kOk;
    }
    EmitTailCall(Callee(index), sig, nullptr);
    return kOk;
  }
  R OnReturnCallIndirectExpr(wabt::ReturnCallIndirectExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    llvm::Function* opaque = IndirectCallee("gw.tail_icall.", e->table, e->decl);
    opaque->setCallingConv(llvm::CallingConv::Tail);
    EmitTailCall(opaque, e->decl.sig, Pop());
    return kOk;
  }

  // --- Exceptions ---
  R BeginTryExpr(wabt::TryExpr* e) override {
    Label& label = BeginLabel(Label::Kind::kTry, e->block);
    label.attempt = e;
    label.in_body = true;
    return kOk;
  }
  R OnCatchExpr(wabt::TryExpr* e, wabt::Catch* c) override {
    Label& label = labels_.back();
    if (label.entered_unreachable) return kOk;
    if (!Dead()) {
      FeedPhis(label.end_phis);
      b_.CreateBr(label.end);
    }
    stack_.resize(label.height);
    if (label.in_body) {
      label.in_body = false;
      if (label.landing) EmitLanding(label);
    }
    if (!label.landing) {  // Nothing in the body throws.
      BecomeDead();
      return kOk;
    }
    b_.SetInsertPoint(label.handlers[static_cast<std::size_t>(c - e->catches.data())]);
    label.caught.clear();
    if (c->IsCatchAll()) {
      for (unsigned i = 0; i < ExceptionCells(); ++i) label.caught.push_back(LoadCell(i, cell_type_));
    } else {
      for (wabt::Type type : TagType(c->var.index()).param_types) {
        label.caught.push_back(LoadCell(static_cast<unsigned>(label.caught.size()), abi_.ValueType(type)));
        Push(label.caught.back());
      }
    }
    return kOk;
  }
  R OnDelegateExpr(wabt::TryExpr*) override {  // Ends the try, in the visitor's eyes too.
    EndLabel();
    return kOk;
  }
  R EndTryExpr(wabt::TryExpr* e) override {
    if (e->kind != wabt::TryKind::Delegate) EndLabel();
    return kOk;
  }
  R OnThrowExpr(wabt::ThrowExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    StoreCells(PopMany(TagType(e->var.index()).param_types.size()));
    EmitThrow(TagNumber(e->var.index()));
    return kOk;
  }
  R OnRethrowExpr(wabt::RethrowExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    const Label& label = Target(e->var.index());
    StoreCells(label.caught);
    EmitThrow(label.caught_tag);
    return kOk;
  }

  // --- Parametric, variables ---
  R OnDropExpr(wabt::DropExpr*) override {
    if (Dead()) return kOk;
    Value* value = Pop();
    // What extends, spreads or inserts a loaded value may stand between the load and the drop.
    while (auto* user = llvm::dyn_cast<llvm::Instruction>(value)) {
      if (llvm::isa<llvm::CastInst>(user) || llvm::isa<llvm::ShuffleVectorInst>(user)) {
        value = user->getOperand(0);
      } else if (llvm::isa<llvm::InsertElementInst>(user)) {
        value = user->getOperand(1);
      } else {
        break;
      }
    }
    if (auto* load = llvm::dyn_cast<llvm::LoadInst>(value); load && load->getPointerAddressSpace() == kMemorySpace) {
      load->setVolatile(true);
    }
    return kOk;
  }
  R OnSelectExpr(wabt::SelectExpr*) override {
    if (Dead()) return kOk;
    Value* condition = IsTrue(Pop());
    Value* second = Pop();
    Value* first = Pop();
    Push(b_.CreateSelect(condition, first, second));
    return kOk;
  }
  R OnLocalGetExpr(wabt::LocalGetExpr* e) override {
    if (Dead()) return kOk;
    llvm::AllocaInst* slot = locals_[e->var.index()];
    Push(b_.CreateLoad(slot->getAllocatedType(), slot));
    return kOk;
  }
  R OnLocalSetExpr(wabt::LocalSetExpr* e) override {
    if (!Dead()) b_.CreateStore(Pop(), locals_[e->var.index()]);
    return kOk;
  }
  R OnLocalTeeExpr(wabt::LocalTeeExpr* e) override {
    if (!Dead()) b_.CreateStore(stack_.back(), locals_[e->var.index()]);
    return kOk;
  }
  R OnGlobalGetExpr(wabt::GlobalGetExpr* e) override {
    if (Dead()) return kOk;
    llvm::Type* type = abi_.ValueType(module_.ir->globals[e->var.index()]->type);
    if (LivesElsewhere(e->var.index())) {
      Push(b_.CreateCall(Global(e->var.index(), "get", llvm::FunctionType::get(type, {abi_.context_ptr}, false)), {f_.context}));
    } else {
      Push(b_.CreateAlignedLoad(type, GlobalAddress(e->var.index()), llvm::Align(8)));
    }
    return kOk;
  }
  R OnGlobalSetExpr(wabt::GlobalSetExpr* e) override {
    if (Dead()) return kOk;
    Value* value = Pop();
    if (LivesElsewhere(e->var.index())) {
      auto* type = llvm::FunctionType::get(abi_.void_, {abi_.context_ptr, value->getType()}, false);
      b_.CreateCall(Global(e->var.index(), "set", type), {f_.context, value});
    } else {
      b_.CreateAlignedStore(value, GlobalAddress(e->var.index()), llvm::Align(8));
    }
    return kOk;
  }

  // --- Memory ---
  R OnLoadExpr(wabt::LoadExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    Value* address = f_.Address(Pop(), e->offset);
    auto load = [&](llvm::Type* type) { return b_.CreateAlignedLoad(type, address, llvm::Align(1)); };
    auto narrow = [&](unsigned bits, llvm::Type* to, bool is_signed) {
      Value* value = load(llvm::IntegerType::get(abi_.llvm, bits));
      return is_signed ? b_.CreateSExt(value, to) : b_.CreateZExt(value, to);
    };
    auto widen = [&](unsigned bits, bool is_signed) {
      Value* value = load(llvm::FixedVectorType::get(llvm::IntegerType::get(abi_.llvm, bits), 64 / bits));
      llvm::Type* to = value->getType()->getWithNewBitWidth(bits * 2);
      return b_.CreateBitCast(is_signed ? b_.CreateSExt(value, to) : b_.CreateZExt(value, to), abi_.v128);
    };
    switch (e->opcode) {
      case Opcode::I32Load: Push(load(abi_.i32)); break;
      case Opcode::I64Load: Push(load(abi_.i64)); break;
      case Opcode::F32Load: Push(load(abi_.f32)); break;
      case Opcode::F64Load: Push(load(abi_.f64)); break;
      case Opcode::I32Load8S: Push(narrow(8, abi_.i32, true)); break;
      case Opcode::I32Load8U: Push(narrow(8, abi_.i32, false)); break;
      case Opcode::I32Load16S: Push(narrow(16, abi_.i32, true)); break;
      case Opcode::I32Load16U: Push(narrow(16, abi_.i32, false)); break;
      case Opcode::I64Load8S: Push(narrow(8, abi_.i64, true)); break;
      case Opcode::I64Load8U: Push(narrow(8, abi_.i64, false)); break;
      case Opcode::I64Load16S: Push(narrow(16, abi_.i64, true)); break;
      case Opcode::I64Load16U: Push(narrow(16, abi_.i64, false)); break;
      case Opcode::I64Load32S: Push(narrow(32, abi_.i64, true)); break;
      case Opcode::I64Load32U: Push(narrow(32, abi_.i64, false)); break;
      case Opcode::V128Load: Push(load(abi_.v128)); break;
      case Opcode::V128Load8X8S: Push(widen(8, true)); break;
      case Opcode::V128Load8X8U: Push(widen(8, false)); break;
      case Opcode::V128Load16X4S: Push(widen(16, true)); break;
      case Opcode::V128Load16X4U: Push(widen(16, false)); break;
      case Opcode::V128Load32X2S: Push(widen(32, true)); break;
      case Opcode::V128Load32X2U: Push(widen(32, false)); break;
      default: return NotSupported(e->opcode.GetName());
    }
    return kOk;
  }
  R OnStoreExpr(wabt::StoreExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    Value* value = Pop();
    Value* address = f_.Address(Pop(), e->offset);
    unsigned bits = 0;
    switch (e->opcode) {
      case Opcode::I32Store: case Opcode::I64Store: case Opcode::F32Store: case Opcode::F64Store: case Opcode::V128Store: break;
      case Opcode::I32Store8: case Opcode::I64Store8: bits = 8; break;
      case Opcode::I32Store16: case Opcode::I64Store16: bits = 16; break;
      case Opcode::I64Store32: bits = 32; break;
      default: return NotSupported(e->opcode.GetName());
    }
    if (bits) value = b_.CreateTrunc(value, llvm::IntegerType::get(abi_.llvm, bits));
    b_.CreateAlignedStore(value, address, llvm::Align(1));
    return kOk;
  }
  R OnMemorySizeExpr(wabt::MemorySizeExpr*) override {
    if (Dead()) return kOk;
    Value* bytes = abi_.LoadField(b_, f_.context, abi_.i64, offsetof(abi::Context, memory_bytes));
    Push(b_.CreateTrunc(b_.CreateLShr(bytes, 16), abi_.i32));
    return kOk;
  }
  R OnMemoryGrowExpr(wabt::MemoryGrowExpr* e) override {
    return EmitBuiltin(Builtin::kMemoryGrow, {e->memidx.index()}, 1, true);
  }
  R OnMemoryFillExpr(wabt::MemoryFillExpr* e) override {
    Locate(*e);
    return EmitSynthetic(Synthetic::kMemoryFill);
  }
  R OnMemoryCopyExpr(wabt::MemoryCopyExpr* e) override {
    Locate(*e);
    return EmitSynthetic(Synthetic::kMemoryCopy);
  }
  R OnMemoryInitExpr(wabt::MemoryInitExpr* e) override {
    Locate(*e);
    if (!Dead()) Push(f_.I32(e->var.index()));
    return EmitSynthetic(Synthetic::kMemoryInit);
  }
  R OnDataDropExpr(wabt::DataDropExpr* e) override {
    return EmitBuiltin(Builtin::kDataDrop, {e->var.index()}, 0, false);
  }

  // --- Tables and references ---
  R OnTableGetExpr(wabt::TableGetExpr* e) override {
    Locate(*e);
    return EmitBuiltin(Builtin::kTableGet, {e->var.index()}, 1, true);
  }
  R OnTableSetExpr(wabt::TableSetExpr* e) override {
    Locate(*e);
    return EmitBuiltin(Builtin::kTableSet, {e->var.index()}, 2, false);
  }
  R OnTableSizeExpr(wabt::TableSizeExpr* e) override {
    if (Dead()) return kOk;
    // Opaque: a table's address must not stay in a register, where the code may stop.
    llvm::Function* size = abi_.Opaque("gw.table_size." + std::to_string(e->var.index()), llvm::FunctionType::get(abi_.i32, {abi_.context_ptr}, false));
    size->setOnlyReadsMemory();
    size->setWillReturn();
    Push(b_.CreateCall(size, {f_.context}));
    return kOk;
  }
  R OnTableGrowExpr(wabt::TableGrowExpr* e) override {
    return EmitBuiltin(Builtin::kTableGrow, {e->var.index()}, 2, true);
  }
  R OnTableFillExpr(wabt::TableFillExpr* e) override {
    Locate(*e);
    return EmitBuiltin(Builtin::kTableFill, {e->var.index()}, 3, false);
  }
  R OnTableCopyExpr(wabt::TableCopyExpr* e) override {
    Locate(*e);
    return EmitBuiltin(Builtin::kTableCopy, {e->dst_table.index(), e->src_table.index()}, 3, false);
  }
  R OnTableInitExpr(wabt::TableInitExpr* e) override {
    Locate(*e);
    return EmitBuiltin(Builtin::kTableInit, {e->segment_index.index(), e->table_index.index()}, 3, false);
  }
  R OnElemDropExpr(wabt::ElemDropExpr* e) override {
    return EmitBuiltin(Builtin::kElemDrop, {e->var.index()}, 0, false);
  }
  R OnRefNullExpr(wabt::RefNullExpr*) override {
    if (!Dead()) Push(f_.I32(0));
    return kOk;
  }
  R OnRefIsNullExpr(wabt::RefIsNullExpr*) override {
    if (!Dead()) Push(b_.CreateZExt(b_.CreateICmpEQ(Pop(), f_.I32(0)), abi_.i32));
    return kOk;
  }
  R OnRefFuncExpr(wabt::RefFuncExpr* e) override {
    if (Dead()) return kOk;
    Value* base = abi_.LoadField(b_, f_.context, abi_.i32, offsetof(abi::Context, function_base));
    Push(b_.CreateAdd(base, f_.I32(e->var.index())));
    return kOk;
  }

  // --- Numeric ---
  R OnConstExpr(wabt::ConstExpr* e) override {
    if (Dead()) return kOk;
    const wabt::Const& c = e->const_;
    switch (c.type()) {
      case wabt::Type::I32: Push(f_.I32(c.u32())); break;
      case wabt::Type::I64: Push(f_.I64(c.u64())); break;
      case wabt::Type::F32:
        Push(llvm::ConstantFP::get(abi_.llvm, llvm::APFloat(llvm::APFloat::IEEEsingle(), llvm::APInt(32, c.f32_bits()))));
        break;
      case wabt::Type::F64:
        Push(llvm::ConstantFP::get(abi_.llvm, llvm::APFloat(llvm::APFloat::IEEEdouble(), llvm::APInt(64, c.f64_bits()))));
        break;
      case wabt::Type::V128:
        Push(llvm::ConstantDataVector::get(abi_.llvm, llvm::ArrayRef<std::uint64_t>{c.vec128().u64(0), c.vec128().u64(1)}));
        break;
      default: return NotSupported("a constant of an unknown type");
    }
    return kOk;
  }

  // --- Vectors ---
  R OnTernaryExpr(wabt::TernaryExpr* e) override { return Simd(e->opcode, 3); }
  R OnSimdLaneOpExpr(wabt::SimdLaneOpExpr* e) override {
    return Simd(e->opcode, e->opcode.GetParamType2() == wabt::Type::Void ? 1 : 2, e->val);
  }
  R OnSimdShuffleOpExpr(wabt::SimdShuffleOpExpr* e) override {
    if (Dead()) return kOk;
    auto* bytes = llvm::FixedVectorType::get(abi_.i8, 16);
    Value* second = b_.CreateBitCast(Pop(), bytes);
    Value* first = b_.CreateBitCast(Pop(), bytes);
    int lanes[16];
    for (int i = 0; i < 16; ++i) lanes[i] = e->val.u8(i);
    Push(b_.CreateBitCast(b_.CreateShuffleVector(first, second, lanes), abi_.v128));
    return kOk;
  }
  R OnLoadSplatExpr(wabt::LoadSplatExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    auto* type = LaneVector(e->opcode.GetMemorySize());
    Value* lane = b_.CreateAlignedLoad(type->getElementType(), f_.Address(Pop(), e->offset), llvm::Align(1));
    Push(b_.CreateBitCast(b_.CreateVectorSplat(type->getNumElements(), lane), abi_.v128));
    return kOk;
  }
  R OnLoadZeroExpr(wabt::LoadZeroExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    auto* type = LaneVector(e->opcode.GetMemorySize());
    Value* lane = b_.CreateAlignedLoad(type->getElementType(), f_.Address(Pop(), e->offset), llvm::Align(1));
    Push(b_.CreateBitCast(b_.CreateInsertElement(llvm::Constant::getNullValue(type), lane, std::uint64_t(0)), abi_.v128));
    return kOk;
  }
  R OnSimdLoadLaneExpr(wabt::SimdLoadLaneExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    auto* type = LaneVector(e->opcode.GetMemorySize());
    Value* vector = b_.CreateBitCast(Pop(), type);
    Value* lane = b_.CreateAlignedLoad(type->getElementType(), f_.Address(Pop(), e->offset), llvm::Align(1));
    Push(b_.CreateBitCast(b_.CreateInsertElement(vector, lane, e->val), abi_.v128));
    return kOk;
  }
  R OnSimdStoreLaneExpr(wabt::SimdStoreLaneExpr* e) override {
    Locate(*e);
    if (Dead()) return kOk;
    Value* vector = b_.CreateBitCast(Pop(), LaneVector(e->opcode.GetMemorySize()));
    Value* address = f_.Address(Pop(), e->offset);
    b_.CreateAlignedStore(b_.CreateExtractElement(vector, e->val), address, llvm::Align(1));
    return kOk;
  }
  R OnUnaryExpr(wabt::UnaryExpr* e) override { return Unary(e->opcode); }
  R OnConvertExpr(wabt::ConvertExpr* e) override {
    Locate(*e);
    return Unary(e->opcode);
  }
  R OnBinaryExpr(wabt::BinaryExpr* e) override {
    Locate(*e);
    return Binary(e->opcode);
  }
  R OnCompareExpr(wabt::CompareExpr* e) override { return Binary(e->opcode); }

  // --- What the engine does not have ---
  R OnCallRefExpr(wabt::CallRefExpr*) override { return NotSupported("call_ref"); }
  R OnAtomicWaitExpr(wabt::AtomicWaitExpr* e) override { return NotSupported(e->opcode.GetName()); }
  R OnAtomicFenceExpr(wabt::AtomicFenceExpr*) override { return NotSupported("atomic.fence"); }
  R OnAtomicNotifyExpr(wabt::AtomicNotifyExpr* e) override { return NotSupported(e->opcode.GetName()); }
  R OnAtomicLoadExpr(wabt::AtomicLoadExpr* e) override { return NotSupported(e->opcode.GetName()); }
  R OnAtomicStoreExpr(wabt::AtomicStoreExpr* e) override { return NotSupported(e->opcode.GetName()); }
  R OnAtomicRmwExpr(wabt::AtomicRmwExpr* e) override { return NotSupported(e->opcode.GetName()); }
  R OnAtomicRmwCmpxchgExpr(wabt::AtomicRmwCmpxchgExpr* e) override { return NotSupported(e->opcode.GetName()); }

 private:
  Value* IsTrue(Value* value) { return b_.CreateICmpNE(value, f_.I32(0)); }

  // A mutable global of another instance: reached through an address that generated code must not keep.
  bool LivesElsewhere(wabt::Index index) const {
    return index < module_.ir->num_global_imports && module_.ir->globals[index]->mutable_;
  }
  llvm::Function* Global(wabt::Index index, const char* access, llvm::FunctionType* type) {
    return abi_.Opaque("gw.global." + std::to_string(index) + "." + access, type);
  }
  // Calls a builtin with immediates first, then `operands` values from the stack.
  R EmitBuiltin(Builtin builtin, std::vector<std::uint32_t> immediates, std::size_t operands, bool result) {
    if (Dead()) return kOk;
    std::vector<Value*> arguments{f_.context};
    for (std::uint32_t immediate : immediates) arguments.push_back(f_.I32(immediate));
    for (Value* value : PopMany(operands)) arguments.push_back(value);
    Value* value = b_.CreateCall(abi_.OpaqueBuiltin(builtin), arguments);
    if (result) Push(value);
    return kOk;
  }

  R EmitSynthetic(Synthetic which) {
    if (Dead()) return kOk;
    const wabt::FuncSignature sig = SyntheticSignature(which);
    llvm::Function* function = abi_.GuestFunction(SyntheticIndex(module_, which), abi_.GuestType(sig));
    function->setDoesNotThrow();
    EmitCall(function, sig, nullptr);
    return kOk;
  }

  // The vector of lanes of so many bytes.
  llvm::FixedVectorType* LaneVector(unsigned bytes) {
    return llvm::FixedVectorType::get(llvm::IntegerType::get(abi_.llvm, bytes * 8), 16 / bytes);
  }
  R Simd(Opcode opcode, std::size_t operands, std::uint64_t lane = 0) {
    if (Dead()) return kOk;
    Value* value = EmitSimd(f_, opcode, PopMany(operands), lane);
    if (!value) return NotSupported(opcode.GetName());
    Push(value);
    return kOk;
  }
  R Unary(Opcode opcode) {
    if (opcode.HasPrefix() && opcode.GetPrefix() == kSimdPrefix) return Simd(opcode, 1);
    if (Dead()) return kOk;
    Value* value = EmitUnary(f_, opcode, Pop());
    if (!value) return NotSupported(opcode.GetName());
    Push(value);
    return kOk;
  }
  R Binary(Opcode opcode) {
    if (opcode.HasPrefix() && opcode.GetPrefix() == kSimdPrefix) return Simd(opcode, 2);
    if (Dead()) return kOk;
    Value* y = Pop();
    Value* x = Pop();
    Value* value = EmitBinary(f_, opcode, x, y);
    if (!value) return NotSupported(opcode.GetName());
    Push(value);
    return kOk;
  }

  std::vector<llvm::AllocaInst*> locals_;
  std::optional<Error> error_;
};

// What every ISA's tail calls can return in registers.
Status CheckTailResults(const wabt::FuncSignature& sig) {
  unsigned integers = 0, floats = 0, vectors = 0;
  for (wabt::Type type : sig.result_types) {
    ++(type == wabt::Type::F32 || type == wabt::Type::F64 ? floats : type == wabt::Type::V128 ? vectors : integers);
  }
  if (integers <= 3 && floats <= 2 && floats + vectors <= 4) return {};
  return Unsupported("tail calls in a function with more than 3 integer, 2 floating-point or 4 floating-point and vector results");
}

}  // namespace

Status TranslateFunction(const wasm::Module& module, std::uint32_t index, AbiIr& abi, SourceScope* scope) {
  const wabt::Func& func = *module.ir->funcs[index];
  auto where = [&] {
    const std::string name = module.FunctionName(index);
    return "func[" + std::to_string(index) + "]" + (name.empty() ? "" : " (" + name + ")");
  };
  llvm::FunctionType* type = abi.GuestType(func.decl.sig);
  llvm::Function* function = nullptr;
  if (module.uses.tail_calls[index]) {
    if (Status fits = CheckTailResults(func.decl.sig); !fits.ok()) return fits.error().Within(where());
    function = abi.TailFunction(index, type);
  } else {
    function = abi.GuestFunction(index, type);
  }
  FunctionBuilder builder(abi, function, scope);
  Translator translator(module, func, builder);
  if (Status status = translator.Run(); !status.ok()) return status.error().Within(where());
  return {};
}

}  // namespace godwit::compiler
