// One guest function being translated: its builder, its context and memory parameters, its trap blocks.
#pragma once

#include <map>

#include "compiler/abi_ir.h"
#include "compiler/source_lines.h"

namespace godwit::compiler {

class FunctionBuilder {
 public:
  // `scope`: where instructions come from, if the module says; it must outlive the builder.
  FunctionBuilder(AbiIr& abi, llvm::Function* function, SourceScope* scope = nullptr)
      : abi(abi),
        function(function),
        b(llvm::BasicBlock::Create(abi.llvm, "entry", function)),
        context(function->getArg(0)),
        memory(function->getArg(1)),
        scope_(scope) {
    if (scope_) scope_->Begin(*function);
    LocateAt(0);
  }

  // What is emitted from now on belongs to the instruction that ends at this offset of the module's binary.
  void LocateAt(std::size_t end) {
    if (scope_) b.SetCurrentDebugLocation(scope_->At(end));
  }

  llvm::BasicBlock* NewBlock(const char* name) { return llvm::BasicBlock::Create(abi.llvm, name, function); }
  // Goes on in a new block where `condition` is false; traps where it is true.
  void TrapIf(llvm::Value* condition, abi::TrapCode code);
  // Ends the present block with a trap.
  void Trap(abi::TrapCode code);
  // The linear-memory address of a 32-bit index plus a static offset.
  llvm::Value* Address(llvm::Value* index, std::uint64_t offset);
  llvm::Constant* I32(std::uint32_t value) { return llvm::ConstantInt::get(abi.i32, value); }
  llvm::Constant* I64(std::uint64_t value) { return llvm::ConstantInt::get(abi.i64, value); }

  AbiIr& abi;
  llvm::Function* function;
  llvm::IRBuilder<> b;
  llvm::Value* context;
  llvm::Value* memory;

 private:
  llvm::BasicBlock* TrapBlock(abi::TrapCode code);
  SourceScope* scope_;
  std::map<std::pair<abi::TrapCode, llvm::MDNode*>, llvm::BasicBlock*> traps_;  // By location too, to tell them apart.
};

// Numeric instructions, as the specification's section "Numeric Instructions" defines them. Null for an opcode
// that is not one of the kind.
llvm::Value* EmitUnary(FunctionBuilder& f, wabt::Opcode opcode, llvm::Value* x);  // Also tests and conversions.
llvm::Value* EmitBinary(FunctionBuilder& f, wabt::Opcode opcode, llvm::Value* x, llvm::Value* y);  // Also comparisons.
// Their floating-point parts, for scalars and vectors alike: a NaN that comes out is an arithmetic one.
llvm::Value* FloatArithmetic(FunctionBuilder& f, llvm::Instruction::BinaryOps operation, llvm::Value* x, llvm::Value* y);
llvm::Value* FloatMinMax(FunctionBuilder& f, llvm::Intrinsic::ID minimum_or_maximum, llvm::Value* x, llvm::Value* y);
// Vector instructions, except those that access memory, constants and i8x16.shuffle. `lane` is the immediate of
// extract_lane and replace_lane.
llvm::Value* EmitSimd(FunctionBuilder& f, wabt::Opcode opcode, llvm::ArrayRef<llvm::Value*> operands, std::uint64_t lane = 0);

}  // namespace godwit::compiler
