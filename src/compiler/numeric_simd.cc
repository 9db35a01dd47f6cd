#include <llvm/IR/Intrinsics.h>

#include <functional>
#include <string_view>
#include <unordered_map>

#include "compiler/function_builder.h"

namespace godwit::compiler {
namespace {

using llvm::FixedVectorType;
using llvm::Intrinsic::ID;
using llvm::Value;
using Predicate = llvm::CmpInst::Predicate;

// One vector instruction, "SHAPE.OPERATION" by the specification's names.
class Simd {
 public:
  Simd(FunctionBuilder& f, std::string_view name, llvm::ArrayRef<Value*> operands, std::uint64_t lane)
      : f_(f), b_(f.b), operation_(name.substr(name.find('.') + 1)), lane_number_(lane), operands_(operands) {
    const std::string_view shape = name.substr(0, name.find('.'));
    if (shape == "i8x16") SetShape(f.abi.i8, 16);
    if (shape == "i16x8") SetShape(llvm::Type::getInt16Ty(f.abi.llvm), 8);
    if (shape == "i32x4") SetShape(f.abi.i32, 4);
    if (shape == "i64x2" || shape == "v128") SetShape(f.abi.i64, 2);
    if (shape == "f32x4") SetShape(f.abi.f32, 4);
    if (shape == "f64x2") SetShape(f.abi.f64, 2);
  }

  // The result, a v128 or a scalar; null for an operation that is not known.
  Value* Emit() {
    if (!type_) return nullptr;
    Value* result = nullptr;
    if (auto found = Operations().find(operation_); found != Operations().end()) {
      result = found->second(*this);
    } else if (operation_.starts_with("narrow_")) {
      result = Narrow();
    } else if (operation_.starts_with("extend_")) {
      result = Extend(operands_[0], Is("high"));
    } else if (operation_.starts_with("extmul_")) {
      result = b_.CreateMul(Extend(operands_[0], Is("high")), Extend(operands_[1], Is("high")));
    } else if (operation_.starts_with("extadd_pairwise_")) {
      result = b_.CreateAdd(WidenEach(View(operands_[0], Narrower()), 0), WidenEach(View(operands_[0], Narrower()), 1));
    }
    if (!result || !result->getType()->isVectorTy()) return result;
    return b_.CreateBitCast(result, f_.abi.v128);
  }

 private:
  using Operation = std::function<Value*(Simd&)>;

  void SetShape(llvm::Type* lane, unsigned lanes) {
    lane_ = lane;
    lanes_ = lanes;
    type_ = FixedVectorType::get(lane, lanes);
  }
  bool Is(std::string_view part) const { return operation_.find(part) != std::string_view::npos; }
  bool Signed() const { return operation_.ends_with("_s") || Is("_s_"); }

  Value* View(Value* value, llvm::Type* type) { return b_.CreateBitCast(value, type); }
  Value* X() { return View(operands_[0], type_); }
  Value* Y() { return View(operands_[1], type_); }
  Value* Splat(Value* scalar, unsigned lanes = 0) { return b_.CreateVectorSplat(lanes ? lanes : lanes_, scalar); }
  // A lane's value from an i32 where lanes are narrower.
  Value* ToLane(Value* scalar) { return scalar->getType() == lane_ ? scalar : b_.CreateTrunc(scalar, lane_); }

  // Vector types with twice the lanes of half the width, and back.
  FixedVectorType* Narrower() {
    return FixedVectorType::get(llvm::IntegerType::get(f_.abi.llvm, lane_->getIntegerBitWidth() / 2), lanes_ * 2);
  }
  FixedVectorType* Wider(unsigned lanes) {
    return FixedVectorType::get(llvm::IntegerType::get(f_.abi.llvm, lane_->getIntegerBitWidth() * 2), lanes);
  }

  static llvm::SmallVector<int, 16> Lanes(unsigned count, unsigned first, unsigned step) {
    llvm::SmallVector<int, 16> lanes;
    for (unsigned i = 0; i < count; ++i) lanes.push_back(static_cast<int>(first + i * step));
    return lanes;
  }
  Value* Widen(Value* narrow, llvm::Type* to) { return Signed() ? b_.CreateSExt(narrow, to) : b_.CreateZExt(narrow, to); }
  // The low or high half of a v128's lanes, each made twice as wide.
  Value* Extend(Value* value, bool high) {
    return Widen(b_.CreateShuffleVector(View(value, Narrower()), Lanes(lanes_, high ? lanes_ : 0, 1)), type_);
  }
  // Every second lane from `first`, made twice as wide.
  Value* WidenEach(Value* value, unsigned first) {
    return Widen(b_.CreateShuffleVector(value, Lanes(lanes_, first, 2)), type_);
  }
  Value* Narrow() {
    auto* from = Wider(lanes_ / 2);
    Value* both = b_.CreateShuffleVector(View(operands_[0], from), View(operands_[1], from), Lanes(lanes_, 0, 1));
    const unsigned bits = lane_->getIntegerBitWidth();
    const llvm::APInt low = Signed() ? llvm::APInt::getSignedMinValue(bits).sext(bits * 2) : llvm::APInt(bits * 2, 0);
    const llvm::APInt high = Signed() ? llvm::APInt::getSignedMaxValue(bits).sext(bits * 2) : llvm::APInt::getMaxValue(bits).zext(bits * 2);
    both = b_.CreateBinaryIntrinsic(llvm::Intrinsic::smax, both, llvm::ConstantInt::get(both->getType(), low));
    both = b_.CreateBinaryIntrinsic(llvm::Intrinsic::smin, both, llvm::ConstantInt::get(both->getType(), high));
    return b_.CreateTrunc(both, type_);
  }

  Value* Compare(Predicate predicate) {
    auto* mask = FixedVectorType::get(llvm::IntegerType::get(f_.abi.llvm, lane_->getScalarSizeInBits()), lanes_);
    return b_.CreateSExt(b_.CreateCmp(predicate, X(), Y()), mask);
  }
  Value* ShiftCount() {
    Value* count = b_.CreateAnd(operands_[1], f_.I32(lane_->getIntegerBitWidth() - 1));
    return Splat(b_.CreateZExtOrTrunc(count, lane_));
  }
  Value* Average() {
    auto* wide = Wider(lanes_);
    Value* sum = b_.CreateAdd(b_.CreateZExt(X(), wide), b_.CreateZExt(Y(), wide));
    return b_.CreateTrunc(b_.CreateLShr(b_.CreateAdd(sum, llvm::ConstantInt::get(wide, 1)), 1), type_);
  }
  // Q15 multiplication: (x * y + 2^14) >> 15, saturated; only -1 * -1 does not fit.
  Value* MultiplyQ15() {
    auto* wide = Wider(lanes_);
    Value* product = b_.CreateMul(b_.CreateSExt(X(), wide), b_.CreateSExt(Y(), wide));
    Value* rounded = b_.CreateAShr(b_.CreateAdd(product, llvm::ConstantInt::get(wide, 1 << 14)), 15);
    return b_.CreateTrunc(b_.CreateBinaryIntrinsic(llvm::Intrinsic::smin, rounded, llvm::ConstantInt::get(wide, 32767)), type_);
  }
  Value* Dot() {
    Value *x = View(operands_[0], Narrower()), *y = View(operands_[1], Narrower());
    return b_.CreateAdd(b_.CreateMul(WidenEach(x, 0), WidenEach(y, 0)), b_.CreateMul(WidenEach(x, 1), WidenEach(y, 1)));
  }
  Value* Bitmask() {
    Value* negative = b_.CreateICmpSLT(X(), llvm::Constant::getNullValue(type_));
    return b_.CreateZExt(b_.CreateBitCast(negative, llvm::IntegerType::get(f_.abi.llvm, lanes_)), f_.abi.i32);
  }
  Value* AllTrue() {
    return b_.CreateZExt(b_.CreateAndReduce(b_.CreateICmpNE(X(), llvm::Constant::getNullValue(type_))), f_.abi.i32);
  }
  // Lanes of x chosen by y's lanes; 0 for a number past the end. Lowered per ISA (codegen).
  Value* Swizzle() {
    auto* helper_type = llvm::FunctionType::get(type_, {type_, type_}, false);
    llvm::Function* helper = f_.abi.Opaque("isa.swizzle", helper_type);
    helper->setDoesNotAccessMemory();
    helper->setWillReturn();
    return b_.CreateCall(helper, {X(), Y()});
  }
  Value* TruncateSaturating() {
    auto* from = FixedVectorType::get(Is("f64") ? f_.abi.f64 : f_.abi.f32, Is("f64") ? 2 : 4);
    auto* to = FixedVectorType::get(f_.abi.i32, from->getNumElements());
    return LowWithZeros(b_.CreateIntrinsic(Signed() ? llvm::Intrinsic::fptosi_sat : llvm::Intrinsic::fptoui_sat, {to, from},
                                           {View(operands_[0], from)}));
  }
  // A vector of two lanes becomes one of four whose other lanes are 0.
  Value* LowWithZeros(Value* value) {
    auto* type = llvm::cast<FixedVectorType>(value->getType());
    if (type->getNumElements() != 2) return value;
    return b_.CreateShuffleVector(value, llvm::Constant::getNullValue(type), {0, 1, 2, 3});
  }
  Value* LowHalf(Value* value, llvm::Type* lane) {
    return b_.CreateShuffleVector(View(value, FixedVectorType::get(lane, 4)), {0, 1});
  }
  Value* Convert() {
    Value* from = Is("low") ? LowHalf(operands_[0], f_.abi.i32) : View(operands_[0], FixedVectorType::get(f_.abi.i32, 4));
    return Signed() ? b_.CreateSIToFP(from, type_) : b_.CreateUIToFP(from, type_);
  }
  Value* Bitselect() {
    Value* mask = View(operands_[2], type_);
    return b_.CreateOr(b_.CreateAnd(X(), mask), b_.CreateAnd(Y(), b_.CreateNot(mask)));
  }
  // x < y ? ... of the operand order that makes NaN and zero come out as specified for pmin and pmax.
  Value* PseudoMinimum() { return b_.CreateSelect(b_.CreateFCmpOLT(Y(), X()), Y(), X()); }
  Value* PseudoMaximum() { return b_.CreateSelect(b_.CreateFCmpOLT(X(), Y()), Y(), X()); }

  Value* Unary(ID id) { return b_.CreateUnaryIntrinsic(id, X()); }
  Value* Float(llvm::Instruction::BinaryOps operation) { return FloatArithmetic(f_, operation, X(), Y()); }
  Value* Binary(ID id) { return b_.CreateBinaryIntrinsic(id, X(), Y()); }
  Value* Extracted() { return b_.CreateExtractElement(X(), lane_number_); }

  static const std::unordered_map<std::string_view, Operation>& Operations() {
    namespace I = llvm::Intrinsic;
    using O = llvm::Instruction;
    using P = Predicate;
    static const std::unordered_map<std::string_view, Operation> operations{
        {"not", [](Simd& s) { return s.b_.CreateNot(s.X()); }},
        {"and", [](Simd& s) { return s.b_.CreateAnd(s.X(), s.Y()); }},
        {"andnot", [](Simd& s) { return s.b_.CreateAnd(s.X(), s.b_.CreateNot(s.Y())); }},
        {"or", [](Simd& s) { return s.b_.CreateOr(s.X(), s.Y()); }},
        {"xor", [](Simd& s) { return s.b_.CreateXor(s.X(), s.Y()); }},
        {"bitselect", &Simd::Bitselect},
        {"any_true", [](Simd& s) {
           Value* all = s.b_.CreateBitCast(s.operands_[0], llvm::IntegerType::get(s.f_.abi.llvm, 128));
           return s.b_.CreateZExt(s.b_.CreateICmpNE(all, llvm::ConstantInt::get(all->getType(), 0)), s.f_.abi.i32);
         }},
        {"all_true", &Simd::AllTrue},
        {"bitmask", &Simd::Bitmask},
        {"splat", [](Simd& s) { return s.Splat(s.ToLane(s.operands_[0])); }},
        {"extract_lane", &Simd::Extracted},
        {"extract_lane_s", [](Simd& s) { return s.b_.CreateSExt(s.Extracted(), s.f_.abi.i32); }},
        {"extract_lane_u", [](Simd& s) { return s.b_.CreateZExt(s.Extracted(), s.f_.abi.i32); }},
        {"replace_lane", [](Simd& s) { return s.b_.CreateInsertElement(s.X(), s.ToLane(s.operands_[1]), s.lane_number_); }},
        {"swizzle", &Simd::Swizzle},
        {"add", [](Simd& s) { return s.lane_->isIntegerTy() ? s.b_.CreateAdd(s.X(), s.Y()) : s.Float(O::FAdd); }},
        {"sub", [](Simd& s) { return s.lane_->isIntegerTy() ? s.b_.CreateSub(s.X(), s.Y()) : s.Float(O::FSub); }},
        {"mul", [](Simd& s) { return s.lane_->isIntegerTy() ? s.b_.CreateMul(s.X(), s.Y()) : s.Float(O::FMul); }},
        {"div", [](Simd& s) { return s.Float(O::FDiv); }},
        {"neg", [](Simd& s) { return s.lane_->isIntegerTy() ? s.b_.CreateNeg(s.X()) : s.b_.CreateFNeg(s.X()); }},
        {"abs", [](Simd& s) {
           return s.lane_->isIntegerTy() ? s.b_.CreateBinaryIntrinsic(I::abs, s.X(), s.b_.getFalse()) : s.Unary(I::fabs);
         }},
        {"popcnt", [](Simd& s) { return s.Unary(I::ctpop); }},
        {"sqrt", [](Simd& s) { return s.Unary(I::sqrt); }},
        {"ceil", [](Simd& s) { return s.Unary(I::ceil); }},
        {"floor", [](Simd& s) { return s.Unary(I::floor); }},
        {"trunc", [](Simd& s) { return s.Unary(I::trunc); }},
        {"nearest", [](Simd& s) { return s.Unary(I::roundeven); }},
        {"add_sat_s", [](Simd& s) { return s.Binary(I::sadd_sat); }},
        {"add_sat_u", [](Simd& s) { return s.Binary(I::uadd_sat); }},
        {"sub_sat_s", [](Simd& s) { return s.Binary(I::ssub_sat); }},
        {"sub_sat_u", [](Simd& s) { return s.Binary(I::usub_sat); }},
        {"min_s", [](Simd& s) { return s.Binary(I::smin); }},
        {"min_u", [](Simd& s) { return s.Binary(I::umin); }},
        {"max_s", [](Simd& s) { return s.Binary(I::smax); }},
        {"max_u", [](Simd& s) { return s.Binary(I::umax); }},
        {"min", [](Simd& s) { return FloatMinMax(s.f_, I::minimum, s.X(), s.Y()); }},
        {"max", [](Simd& s) { return FloatMinMax(s.f_, I::maximum, s.X(), s.Y()); }},
        {"pmin", &Simd::PseudoMinimum},
        {"pmax", &Simd::PseudoMaximum},
        {"avgr_u", &Simd::Average},
        {"q15mulr_sat_s", &Simd::MultiplyQ15},
        {"dot_i16x8_s", &Simd::Dot},
        {"shl", [](Simd& s) { return s.b_.CreateShl(s.X(), s.ShiftCount()); }},
        {"shr_s", [](Simd& s) { return s.b_.CreateAShr(s.X(), s.ShiftCount()); }},
        {"shr_u", [](Simd& s) { return s.b_.CreateLShr(s.X(), s.ShiftCount()); }},
        {"eq", [](Simd& s) { return s.Compare(s.lane_->isIntegerTy() ? P::ICMP_EQ : P::FCMP_OEQ); }},
        {"ne", [](Simd& s) { return s.Compare(s.lane_->isIntegerTy() ? P::ICMP_NE : P::FCMP_UNE); }},
        {"lt_s", [](Simd& s) { return s.Compare(P::ICMP_SLT); }},
        {"lt_u", [](Simd& s) { return s.Compare(P::ICMP_ULT); }},
        {"gt_s", [](Simd& s) { return s.Compare(P::ICMP_SGT); }},
        {"gt_u", [](Simd& s) { return s.Compare(P::ICMP_UGT); }},
        {"le_s", [](Simd& s) { return s.Compare(P::ICMP_SLE); }},
        {"le_u", [](Simd& s) { return s.Compare(P::ICMP_ULE); }},
        {"ge_s", [](Simd& s) { return s.Compare(P::ICMP_SGE); }},
        {"ge_u", [](Simd& s) { return s.Compare(P::ICMP_UGE); }},
        {"lt", [](Simd& s) { return s.Compare(P::FCMP_OLT); }},
        {"gt", [](Simd& s) { return s.Compare(P::FCMP_OGT); }},
        {"le", [](Simd& s) { return s.Compare(P::FCMP_OLE); }},
        {"ge", [](Simd& s) { return s.Compare(P::FCMP_OGE); }},
        {"trunc_sat_f32x4_s", &Simd::TruncateSaturating},
        {"trunc_sat_f32x4_u", &Simd::TruncateSaturating},
        {"trunc_sat_f64x2_s_zero", &Simd::TruncateSaturating},
        {"trunc_sat_f64x2_u_zero", &Simd::TruncateSaturating},
        {"convert_i32x4_s", &Simd::Convert},
        {"convert_i32x4_u", &Simd::Convert},
        {"convert_low_i32x4_s", &Simd::Convert},
        {"convert_low_i32x4_u", &Simd::Convert},
        {"demote_f64x2_zero", [](Simd& s) {
           Value* from = s.View(s.operands_[0], FixedVectorType::get(s.f_.abi.f64, 2));
           return s.LowWithZeros(s.b_.CreateFPTrunc(from, FixedVectorType::get(s.f_.abi.f32, 2)));
         }},
        {"promote_low_f32x4", [](Simd& s) { return s.b_.CreateFPExt(s.LowHalf(s.operands_[0], s.f_.abi.f32), s.type_); }},
    };
    return operations;
  }

  FunctionBuilder& f_;
  llvm::IRBuilder<>& b_;
  std::string_view operation_;
  std::uint64_t lane_number_;
  llvm::ArrayRef<Value*> operands_;
  llvm::Type* lane_ = nullptr;
  unsigned lanes_ = 0;
  FixedVectorType* type_ = nullptr;
};

}  // namespace

Value* EmitSimd(FunctionBuilder& f, wabt::Opcode opcode, llvm::ArrayRef<Value*> operands, std::uint64_t lane) {
  return Simd(f, opcode.GetName(), operands, lane).Emit();
}

}  // namespace godwit::compiler
