#include "compiler/frame_layout.h"

#include <llvm/IR/DerivedTypes.h>
#include <llvm/Support/MathExtras.h>

namespace godwit::compiler {
namespace {

using llvm::Type;
using llvm::Value;

// Integer width in a frame: the next of 8, 16, 32, 64, 128 bits; 0 if wider.
unsigned RoundedBits(unsigned bits) {
  const unsigned rounded = std::max(8u, static_cast<unsigned>(llvm::PowerOf2Ceil(bits)));
  return rounded <= 128 ? rounded : 0;
}

unsigned AddressSpace(Type* type) { return llvm::cast<llvm::PointerType>(type->getScalarType())->getAddressSpace(); }

bool IsI1Vector(Type* type) { return type->isVectorTy() && type->getScalarType()->isIntegerTy(1); }

// i64 or <N x i64> distances of pointers from their base; the inverse of FromDistance.
Value* ToDistance(llvm::IRBuilderBase& b, Value* pointer, Value* base) {
  Type* integer = pointer->getType()->getWithNewType(b.getInt64Ty());
  Value* origin = b.CreatePtrToInt(base, b.getInt64Ty());
  if (auto* vector = llvm::dyn_cast<llvm::FixedVectorType>(integer)) {
    origin = b.CreateVectorSplat(vector->getNumElements(), origin);
  }
  return b.CreateSub(b.CreatePtrToInt(pointer, integer), origin);
}

}  // namespace

bool FrameLayout::CanHold(Type* type) {
  if (auto* structure = llvm::dyn_cast<llvm::StructType>(type)) {
    return llvm::all_of(structure->elements(), [](Type* element) { return CanHold(element); });
  }
  if (llvm::isa<llvm::ScalableVectorType>(type)) return false;
  Type* scalar = type->getScalarType();
  if (scalar->isPointerTy()) return AddressSpace(type) == kContextSpace || AddressSpace(type) == kMemorySpace;
  if (IsI1Vector(type)) return RoundedBits(llvm::cast<llvm::FixedVectorType>(type)->getNumElements()) != 0;
  if (scalar->isIntegerTy()) return RoundedBits(scalar->getIntegerBitWidth()) != 0;
  return scalar->isFloatTy() || scalar->isDoubleTy();
}

Type* FrameLayout::StoredType(Type* type) {
  llvm::LLVMContext& llvm = type->getContext();
  if (type->getScalarType()->isPointerTy()) return type->getWithNewType(Type::getInt64Ty(llvm));
  if (IsI1Vector(type)) {
    return llvm::IntegerType::get(llvm, RoundedBits(llvm::cast<llvm::FixedVectorType>(type)->getNumElements()));
  }
  if (type->getScalarType()->isIntegerTy()) {
    return type->getWithNewType(llvm::IntegerType::get(llvm, RoundedBits(type->getScalarSizeInBits())));
  }
  return type;
}

std::uint32_t FrameLayout::Take(Type* stored, bool memory_pointer) {
  const std::uint32_t offset = bytes_;
  bytes_ += static_cast<std::uint32_t>(stored->getPrimitiveSizeInBits().getFixedValue() / 8);
  if (memory_pointer) {
    for (std::uint32_t at = offset; at < bytes_; at += 8) memory_pointers_.push_back(at);
  }
  return offset;
}

void FrameLayout::Skip(Type* type) {
  if (auto* structure = llvm::dyn_cast<llvm::StructType>(type)) {
    for (Type* element : structure->elements()) Skip(element);
    return;
  }
  const bool pointer = type->getScalarType()->isPointerTy();
  Take(StoredType(type), pointer && AddressSpace(type) == kMemorySpace);
}

void FrameLayout::Spill(AbiIr& abi, llvm::IRBuilderBase& b, Value* frame, Value* value, Value* context,
                        Value* memory) {
  Type* type = value->getType();
  if (auto* structure = llvm::dyn_cast<llvm::StructType>(type)) {
    for (unsigned i = 0; i < structure->getNumElements(); ++i) {
      Spill(abi, b, frame, b.CreateExtractValue(value, i), context, memory);
    }
    return;
  }
  Type* stored = StoredType(type);
  bool memory_pointer = false;
  if (type->getScalarType()->isPointerTy()) {
    memory_pointer = AddressSpace(type) == kMemorySpace;
    value = ToDistance(b, value, memory_pointer ? memory : context);
  } else if (IsI1Vector(type)) {
    const unsigned n = llvm::cast<llvm::FixedVectorType>(type)->getNumElements();
    value = b.CreateZExt(b.CreateBitCast(value, llvm::IntegerType::get(abi.llvm, n)), stored);
  } else if (type->getScalarType()->isIntegerTy()) {
    value = b.CreateZExt(value, stored);
  }
  const std::uint32_t offset = Take(stored, memory_pointer);
  b.CreateAlignedStore(value, b.CreateConstGEP1_64(abi.i8, frame, offset), llvm::Align(1));
}

Value* FrameLayout::Restore(AbiIr& abi, llvm::IRBuilderBase& b, Value* frame, Type* type, Value* context,
                            Value* memory) {
  if (auto* structure = llvm::dyn_cast<llvm::StructType>(type)) {
    Value* all = llvm::PoisonValue::get(type);
    for (unsigned i = 0; i < structure->getNumElements(); ++i) {
      all = b.CreateInsertValue(all, Restore(abi, b, frame, structure->getElementType(i), context, memory), i);
    }
    return all;
  }
  Type* stored = StoredType(type);
  const bool pointer = type->getScalarType()->isPointerTy();
  const bool memory_pointer = pointer && AddressSpace(type) == kMemorySpace;
  const std::uint32_t offset = Take(stored, memory_pointer);
  Value* value = b.CreateAlignedLoad(stored, b.CreateConstGEP1_64(abi.i8, frame, offset), llvm::Align(1));
  if (pointer) return b.CreateGEP(abi.i8, memory_pointer ? memory : context, value);
  if (IsI1Vector(type)) {
    const unsigned n = llvm::cast<llvm::FixedVectorType>(type)->getNumElements();
    return b.CreateBitCast(b.CreateTrunc(value, llvm::IntegerType::get(abi.llvm, n)), type);
  }
  if (type->getScalarType()->isIntegerTy()) return b.CreateTrunc(value, type);
  return value;
}

}  // namespace godwit::compiler
