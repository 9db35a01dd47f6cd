#include <llvm/IR/Intrinsics.h>
#include <llvm/IR/PatternMatch.h>

#include "compiler/function_builder.h"

namespace godwit::compiler {

using llvm::Intrinsic::ID;
using llvm::Value;
using wabt::Opcode;

void FunctionBuilder::TrapIf(Value* condition, abi::TrapCode code) {
  llvm::BasicBlock* next = NewBlock("");
  b.CreateCondBr(condition, TrapBlock(code), next, HardlyEver(abi.llvm));
  b.SetInsertPoint(next);
}

void FunctionBuilder::Trap(abi::TrapCode code) { b.CreateBr(TrapBlock(code)); }

llvm::BasicBlock* FunctionBuilder::TrapBlock(abi::TrapCode code) {
  const llvm::DebugLoc location = b.getCurrentDebugLocation();
  llvm::BasicBlock*& block = traps_[{code, location.getAsMDNode()}];
  if (!block) {
    block = NewBlock("trap");
    llvm::IRBuilder<> at(block);
    at.SetCurrentDebugLocation(location);
    llvm::CallInst* trap = at.CreateCall(abi.OpaqueBuiltin(Builtin::kTrap), {context, I32(static_cast<std::uint32_t>(code))});
    trap->setDoesNotReturn();
    if (location) trap->addFnAttr(llvm::Attribute::NoMerge);
    at.CreateUnreachable();
  }
  return block;
}

Value* FunctionBuilder::Address(Value* index, std::uint64_t offset) {
  Value* at = b.CreateGEP(abi.i8, memory, b.CreateZExt(index, abi.i64));
  return offset == 0 ? at : b.CreateGEP(abi.i8, at, I64(offset));
}

namespace {

// What an operation that leaves its operand as it is makes of a NaN: an arithmetic one. LLVM takes such operations
// away and a signalling NaN would pass through.
Value* Quiet(FunctionBuilder& f, Value* x) {
  const bool narrow = x->getType()->getScalarType()->isFloatTy();
  llvm::Type* lane = narrow ? f.abi.i32 : f.abi.i64;
  auto* vector = llvm::dyn_cast<llvm::VectorType>(x->getType());
  llvm::Type* integer = vector ? llvm::VectorType::get(lane, vector->getElementCount()) : lane;
  llvm::Constant* bit = llvm::ConstantInt::get(integer, narrow ? 1ull << 22 : 1ull << 51);
  Value* quiet = f.b.CreateBitCast(f.b.CreateOr(f.b.CreateBitCast(x, integer), bit), x->getType());
  return f.b.CreateSelect(f.b.CreateFCmpUNO(x, x), quiet, x);
}

bool IsConstant(Value* value, double wanted) {
  return llvm::PatternMatch::match(value, llvm::PatternMatch::m_SpecificFP(wanted));
}

}  // namespace

Value* FloatArithmetic(FunctionBuilder& f, llvm::Instruction::BinaryOps operation, Value* x, Value* y) {
  using llvm::Instruction;
  const bool product = operation == Instruction::FMul || operation == Instruction::FDiv;
  if (operation == Instruction::FMul && llvm::isa<llvm::Constant>(x)) std::swap(x, y);
  if (operation == Instruction::FAdd && llvm::isa<llvm::Constant>(x)) std::swap(x, y);
  if ((product && IsConstant(y, 1)) || (operation == Instruction::FSub && IsConstant(y, 0.0)) ||
      (operation == Instruction::FAdd && IsConstant(y, -0.0))) {
    return Quiet(f, x);
  }
  if (product && IsConstant(y, -1)) return Quiet(f, f.b.CreateFNeg(x));
  if (operation == Instruction::FSub && IsConstant(x, -0.0)) return Quiet(f, f.b.CreateFNeg(y));
  return f.b.CreateBinOp(operation, x, y);
}

// LLVM's intrinsics may hand on a signalling NaN, a sum does not.
Value* FloatMinMax(FunctionBuilder& f, ID id, Value* x, Value* y) {
  llvm::FastMathFlags numbers;
  numbers.setNoNaNs();
  Value* either = f.b.CreateBinaryIntrinsic(id, x, y);
  llvm::cast<llvm::Instruction>(either)->setFastMathFlags(numbers);
  return f.b.CreateSelect(f.b.CreateFCmpUNO(x, y), f.b.CreateFAdd(x, y), either);
}

namespace {

Value* Call1(FunctionBuilder& f, ID id, Value* x) { return f.b.CreateUnaryIntrinsic(id, x); }
Value* Call2(FunctionBuilder& f, ID id, Value* x, Value* y) { return f.b.CreateBinaryIntrinsic(id, x, y); }

// iNN.trunc_fMM: traps unless low < x < high (or low <= x); NaN is a trap of its own.
Value* Truncate(FunctionBuilder& f, Value* x, llvm::Type* to, bool is_signed, double low, bool low_included,
                double high) {
  f.TrapIf(f.b.CreateFCmpUNO(x, x), abi::TrapCode::kInvalidConversionToInteger);
  Value* low_value = llvm::ConstantFP::get(x->getType(), low);
  Value* above = low_included ? f.b.CreateFCmpOGE(x, low_value) : f.b.CreateFCmpOGT(x, low_value);
  Value* below = f.b.CreateFCmpOLT(x, llvm::ConstantFP::get(x->getType(), high));
  f.TrapIf(f.b.CreateNot(f.b.CreateAnd(above, below)), abi::TrapCode::kIntegerOverflow);
  return is_signed ? f.b.CreateFPToSI(x, to) : f.b.CreateFPToUI(x, to);
}

Value* Saturate(FunctionBuilder& f, Value* x, llvm::Type* to, bool is_signed) {
  return f.b.CreateIntrinsic(is_signed ? llvm::Intrinsic::fptosi_sat : llvm::Intrinsic::fptoui_sat,
                             {to, x->getType()}, {x});
}

Value* CountZeros(FunctionBuilder& f, ID id, Value* x) {
  return f.b.CreateBinaryIntrinsic(id, x, llvm::ConstantInt::getFalse(f.abi.llvm));
}

Value* SignExtend(FunctionBuilder& f, Value* x, unsigned bits) {
  return f.b.CreateSExt(f.b.CreateTrunc(x, llvm::IntegerType::get(f.abi.llvm, bits)), x->getType());
}

enum class Division { kQuotient, kRemainder };

Value* Divide(FunctionBuilder& f, Value* x, Value* y, bool is_signed, Division kind) {
  llvm::Type* type = x->getType();
  f.TrapIf(f.b.CreateICmpEQ(y, llvm::ConstantInt::get(type, 0)), abi::TrapCode::kIntegerDivideByZero);
  if (!is_signed) return kind == Division::kQuotient ? f.b.CreateUDiv(x, y) : f.b.CreateURem(x, y);
  Value* minus_one = llvm::Constant::getAllOnesValue(type);
  Value* by_minus_one = f.b.CreateICmpEQ(y, minus_one);
  if (kind == Division::kRemainder) {
    // x rem -1 is 0, also for the smallest x, where the machine's division would overflow.
    return f.b.CreateSRem(x, f.b.CreateSelect(by_minus_one, llvm::ConstantInt::get(type, 1), y));
  }
  Value* smallest = llvm::ConstantInt::get(f.abi.llvm, llvm::APInt::getSignedMinValue(type->getIntegerBitWidth()));
  f.TrapIf(f.b.CreateAnd(by_minus_one, f.b.CreateICmpEQ(x, smallest)), abi::TrapCode::kIntegerOverflow);
  return f.b.CreateSDiv(x, y);
}

Value* ShiftCount(FunctionBuilder& f, Value* y) {
  return f.b.CreateAnd(y, llvm::ConstantInt::get(y->getType(), y->getType()->getIntegerBitWidth() - 1));
}

Value* Rotate(FunctionBuilder& f, ID id, Value* x, Value* y) {
  return f.b.CreateIntrinsic(id, {x->getType()}, {x, x, y});
}

}  // namespace

Value* EmitUnary(FunctionBuilder& f, Opcode opcode, Value* x) {
  auto& b = f.b;
  constexpr double kTwo31 = 2147483648.0, kTwo32 = 4294967296.0, kTwo63 = 9223372036854775808.0,
                   kTwo64 = 18446744073709551616.0;
  switch (opcode) {
    case Opcode::I32Eqz: case Opcode::I64Eqz:
      return b.CreateZExt(b.CreateICmpEQ(x, llvm::ConstantInt::get(x->getType(), 0)), f.abi.i32);
    case Opcode::I32Clz: case Opcode::I64Clz: return CountZeros(f, llvm::Intrinsic::ctlz, x);
    case Opcode::I32Ctz: case Opcode::I64Ctz: return CountZeros(f, llvm::Intrinsic::cttz, x);
    case Opcode::I32Popcnt: case Opcode::I64Popcnt: return Call1(f, llvm::Intrinsic::ctpop, x);
    case Opcode::F32Abs: case Opcode::F64Abs: return Call1(f, llvm::Intrinsic::fabs, x);
    case Opcode::F32Neg: case Opcode::F64Neg: return b.CreateFNeg(x);
    case Opcode::F32Ceil: case Opcode::F64Ceil: return Call1(f, llvm::Intrinsic::ceil, x);
    case Opcode::F32Floor: case Opcode::F64Floor: return Call1(f, llvm::Intrinsic::floor, x);
    case Opcode::F32Trunc: case Opcode::F64Trunc: return Call1(f, llvm::Intrinsic::trunc, x);
    case Opcode::F32Nearest: case Opcode::F64Nearest: return Call1(f, llvm::Intrinsic::roundeven, x);
    case Opcode::F32Sqrt: case Opcode::F64Sqrt: return Call1(f, llvm::Intrinsic::sqrt, x);
    case Opcode::I32WrapI64: return b.CreateTrunc(x, f.abi.i32);
    case Opcode::I64ExtendI32S: return b.CreateSExt(x, f.abi.i64);
    case Opcode::I64ExtendI32U: return b.CreateZExt(x, f.abi.i64);
    case Opcode::I32Extend8S: case Opcode::I64Extend8S: return SignExtend(f, x, 8);
    case Opcode::I32Extend16S: case Opcode::I64Extend16S: return SignExtend(f, x, 16);
    case Opcode::I64Extend32S: return SignExtend(f, x, 32);
    case Opcode::I32TruncF32S: return Truncate(f, x, f.abi.i32, true, -kTwo31, true, kTwo31);
    case Opcode::I32TruncF64S: return Truncate(f, x, f.abi.i32, true, -kTwo31 - 1, false, kTwo31);
    case Opcode::I32TruncF32U: case Opcode::I32TruncF64U: return Truncate(f, x, f.abi.i32, false, -1, false, kTwo32);
    case Opcode::I64TruncF32S: case Opcode::I64TruncF64S: return Truncate(f, x, f.abi.i64, true, -kTwo63, true, kTwo63);
    case Opcode::I64TruncF32U: case Opcode::I64TruncF64U: return Truncate(f, x, f.abi.i64, false, -1, false, kTwo64);
    case Opcode::I32TruncSatF32S: case Opcode::I32TruncSatF64S: return Saturate(f, x, f.abi.i32, true);
    case Opcode::I32TruncSatF32U: case Opcode::I32TruncSatF64U: return Saturate(f, x, f.abi.i32, false);
    case Opcode::I64TruncSatF32S: case Opcode::I64TruncSatF64S: return Saturate(f, x, f.abi.i64, true);
    case Opcode::I64TruncSatF32U: case Opcode::I64TruncSatF64U: return Saturate(f, x, f.abi.i64, false);
    case Opcode::F32ConvertI32S: case Opcode::F32ConvertI64S: return b.CreateSIToFP(x, f.abi.f32);
    case Opcode::F32ConvertI32U: case Opcode::F32ConvertI64U: return b.CreateUIToFP(x, f.abi.f32);
    case Opcode::F64ConvertI32S: case Opcode::F64ConvertI64S: return b.CreateSIToFP(x, f.abi.f64);
    case Opcode::F64ConvertI32U: case Opcode::F64ConvertI64U: return b.CreateUIToFP(x, f.abi.f64);
    case Opcode::F32DemoteF64:
      if (auto* widened = llvm::dyn_cast<llvm::FPExtInst>(x)) return Quiet(f, widened->getOperand(0));
      return b.CreateFPTrunc(x, f.abi.f32);
    case Opcode::F64PromoteF32: return b.CreateFPExt(x, f.abi.f64);
    case Opcode::I32ReinterpretF32: return b.CreateBitCast(x, f.abi.i32);
    case Opcode::I64ReinterpretF64: return b.CreateBitCast(x, f.abi.i64);
    case Opcode::F32ReinterpretI32: return b.CreateBitCast(x, f.abi.f32);
    case Opcode::F64ReinterpretI64: return b.CreateBitCast(x, f.abi.f64);
    default: return nullptr;
  }
}

Value* EmitBinary(FunctionBuilder& f, Opcode opcode, Value* x, Value* y) {
  auto& b = f.b;
  auto compare = [&](llvm::CmpInst::Predicate predicate) { return b.CreateZExt(b.CreateCmp(predicate, x, y), f.abi.i32); };
  using P = llvm::CmpInst::Predicate;
  switch (opcode) {
    case Opcode::I32Add: case Opcode::I64Add: return b.CreateAdd(x, y);
    case Opcode::I32Sub: case Opcode::I64Sub: return b.CreateSub(x, y);
    case Opcode::I32Mul: case Opcode::I64Mul: return b.CreateMul(x, y);
    case Opcode::I32DivS: case Opcode::I64DivS: return Divide(f, x, y, true, Division::kQuotient);
    case Opcode::I32DivU: case Opcode::I64DivU: return Divide(f, x, y, false, Division::kQuotient);
    case Opcode::I32RemS: case Opcode::I64RemS: return Divide(f, x, y, true, Division::kRemainder);
    case Opcode::I32RemU: case Opcode::I64RemU: return Divide(f, x, y, false, Division::kRemainder);
    case Opcode::I32And: case Opcode::I64And: return b.CreateAnd(x, y);
    case Opcode::I32Or: case Opcode::I64Or: return b.CreateOr(x, y);
    case Opcode::I32Xor: case Opcode::I64Xor: return b.CreateXor(x, y);
    case Opcode::I32Shl: case Opcode::I64Shl: return b.CreateShl(x, ShiftCount(f, y));
    case Opcode::I32ShrS: case Opcode::I64ShrS: return b.CreateAShr(x, ShiftCount(f, y));
    case Opcode::I32ShrU: case Opcode::I64ShrU: return b.CreateLShr(x, ShiftCount(f, y));
    case Opcode::I32Rotl: case Opcode::I64Rotl: return Rotate(f, llvm::Intrinsic::fshl, x, y);
    case Opcode::I32Rotr: case Opcode::I64Rotr: return Rotate(f, llvm::Intrinsic::fshr, x, y);
    case Opcode::F32Add: case Opcode::F64Add: return FloatArithmetic(f, llvm::Instruction::FAdd, x, y);
    case Opcode::F32Sub: case Opcode::F64Sub: return FloatArithmetic(f, llvm::Instruction::FSub, x, y);
    case Opcode::F32Mul: case Opcode::F64Mul: return FloatArithmetic(f, llvm::Instruction::FMul, x, y);
    case Opcode::F32Div: case Opcode::F64Div: return FloatArithmetic(f, llvm::Instruction::FDiv, x, y);
    case Opcode::F32Min: case Opcode::F64Min: return FloatMinMax(f, llvm::Intrinsic::minimum, x, y);
    case Opcode::F32Max: case Opcode::F64Max: return FloatMinMax(f, llvm::Intrinsic::maximum, x, y);
    case Opcode::F32Copysign: case Opcode::F64Copysign: return Call2(f, llvm::Intrinsic::copysign, x, y);
    case Opcode::I32Eq: case Opcode::I64Eq: return compare(P::ICMP_EQ);
    case Opcode::I32Ne: case Opcode::I64Ne: return compare(P::ICMP_NE);
    case Opcode::I32LtS: case Opcode::I64LtS: return compare(P::ICMP_SLT);
    case Opcode::I32LtU: case Opcode::I64LtU: return compare(P::ICMP_ULT);
    case Opcode::I32GtS: case Opcode::I64GtS: return compare(P::ICMP_SGT);
    case Opcode::I32GtU: case Opcode::I64GtU: return compare(P::ICMP_UGT);
    case Opcode::I32LeS: case Opcode::I64LeS: return compare(P::ICMP_SLE);
    case Opcode::I32LeU: case Opcode::I64LeU: return compare(P::ICMP_ULE);
    case Opcode::I32GeS: case Opcode::I64GeS: return compare(P::ICMP_SGE);
    case Opcode::I32GeU: case Opcode::I64GeU: return compare(P::ICMP_UGE);
    case Opcode::F32Eq: case Opcode::F64Eq: return compare(P::FCMP_OEQ);
    case Opcode::F32Ne: case Opcode::F64Ne: return compare(P::FCMP_UNE);
    case Opcode::F32Lt: case Opcode::F64Lt: return compare(P::FCMP_OLT);
    case Opcode::F32Gt: case Opcode::F64Gt: return compare(P::FCMP_OGT);
    case Opcode::F32Le: case Opcode::F64Le: return compare(P::FCMP_OLE);
    case Opcode::F32Ge: case Opcode::F64Ge: return compare(P::FCMP_OGE);
    default: return nullptr;
  }
}

}  // namespace godwit::compiler
