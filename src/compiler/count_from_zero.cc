#include "compiler/count_from_zero.h"

#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/IRBuilder.h>
#include <llvm/IR/Instructions.h>

#include <optional>

namespace godwit::compiler {
namespace {

using llvm::BinaryOperator;
using llvm::ConstantInt;
using llvm::PHINode;
using llvm::Value;

// A counter: `phi` is `start` on the way in, and `next`, which is `phi` plus a positive constant, on each way back.
struct Counter {
  PHINode* phi;
  Value* start;
  llvm::SmallVector<BinaryOperator*, 2> nexts;
  const ConstantInt* step;
};

// `value` as phi + constant.
const ConstantInt* StepFrom(const PHINode& phi, Value* value) {
  auto* add = llvm::dyn_cast<BinaryOperator>(value);
  if (!add || add->getOpcode() != llvm::Instruction::Add || add->getOperand(0) != &phi) return nullptr;
  return llvm::dyn_cast<ConstantInt>(add->getOperand(1));
}

std::optional<Counter> AsCounter(PHINode& phi) {
  if (!phi.getType()->isIntegerTy(32)) return {};
  Counter counter{&phi, nullptr, {}, nullptr};
  for (Value* value : phi.incoming_values()) {
    if (const ConstantInt* step = StepFrom(phi, value)) {
      if (counter.step && counter.step != step) return {};
      counter.step = step;
      counter.nexts.push_back(llvm::cast<BinaryOperator>(value));
    } else if (!counter.start || counter.start == value) {
      counter.start = value;
    } else {
      return {};
    }
  }
  if (!counter.step || !counter.start || counter.start == &phi || !counter.step->getValue().isStrictlyPositive()) return {};
  return counter;
}

// Whether the counter is compared with zero after its step, and begins below zero as far as one can tell.
bool CountsToZero(const Counter& counter) {
  if (auto* start = llvm::dyn_cast<ConstantInt>(counter.start)) {
    if (!start->isNegative() || (-start->getValue()).urem(counter.step->getValue()) != 0) return false;
  } else if (auto* negated = llvm::dyn_cast<BinaryOperator>(counter.start)) {
    auto* zero = llvm::dyn_cast<ConstantInt>(negated->getOperand(0));
    auto* factor = llvm::dyn_cast<ConstantInt>(negated->getOperand(1));
    const bool is_negated = negated->getOpcode() == llvm::Instruction::Sub && zero && zero->isZero();
    const bool is_multiple = negated->getOpcode() == llvm::Instruction::Mul && factor && factor->isNegative();
    if (!is_negated && !is_multiple) return false;
  } else {
    return false;
  }
  for (const BinaryOperator* next : counter.nexts) {
    for (const llvm::User* user : next->users()) {
      auto* compare = llvm::dyn_cast<llvm::ICmpInst>(user);
      if (!compare || !compare->isEquality()) continue;
      auto* bound = llvm::dyn_cast<ConstantInt>(compare->getOperand(1));
      if (bound && bound->isZero()) return true;
    }
  }
  return false;
}

// Everything that used the counter or its successor uses a sum with the old start, and what compared the successor
// with zero compares the new one with the distance: all modulo 2^32, so nothing is computed differently.
void Rebase(const Counter& counter) {
  PHINode& phi = *counter.phi;
  llvm::IRBuilder<> at_phi(&phi);
  PHINode* from_zero = at_phi.CreatePHI(phi.getType(), phi.getNumIncomingValues(), "count");
  llvm::IRBuilder<> b(phi.getParent(), phi.getParent()->getFirstInsertionPt());
  Value* old = b.CreateAdd(from_zero, counter.start);
  llvm::SmallDenseMap<Value*, Value*, 2> new_next;
  for (BinaryOperator* next : counter.nexts) {
    llvm::IRBuilder<> at(next);
    Value* stepped = at.CreateAdd(from_zero, const_cast<ConstantInt*>(counter.step));
    new_next[next] = stepped;
  }
  for (unsigned i = 0; i < phi.getNumIncomingValues(); ++i) {
    auto found = new_next.find(phi.getIncomingValue(i));
    from_zero->addIncoming(found != new_next.end() ? found->second : ConstantInt::get(phi.getType(), 0), phi.getIncomingBlock(i));
  }
  for (BinaryOperator* next : counter.nexts) {
    Value* stepped = new_next[next];
    llvm::SmallVector<llvm::ICmpInst*, 2> compares;
    for (llvm::User* user : next->users()) {
      auto* compare = llvm::dyn_cast<llvm::ICmpInst>(user);
      auto* bound = compare && compare->isEquality() ? llvm::dyn_cast<ConstantInt>(compare->getOperand(1)) : nullptr;
      if (bound && bound->isZero()) compares.push_back(compare);
    }
    for (llvm::ICmpInst* compare : compares) {
      compare->setOperand(0, stepped);
      compare->setOperand(1, llvm::IRBuilder<>(compare).CreateNeg(counter.start));
    }
    next->replaceAllUsesWith(llvm::IRBuilder<>(next).CreateAdd(stepped, counter.start));
    next->eraseFromParent();
  }
  phi.replaceAllUsesWith(old);
  phi.eraseFromParent();
}

}  // namespace

llvm::PreservedAnalyses CountFromZeroPass::run(llvm::Function& function, llvm::FunctionAnalysisManager&) {
  llvm::SmallVector<Counter, 8> counters;
  for (llvm::BasicBlock& block : function) {
    for (PHINode& phi : block.phis()) {
      auto counter = AsCounter(phi);
      if (counter && CountsToZero(*counter)) counters.push_back(*counter);
    }
  }
  for (const Counter& counter : counters) Rebase(counter);
  if (counters.empty()) return llvm::PreservedAnalyses::all();
  llvm::PreservedAnalyses kept;
  kept.preserveSet<llvm::CFGAnalyses>();
  return kept;
}

}  // namespace godwit::compiler
