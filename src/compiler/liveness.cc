#include "compiler/liveness.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/IR/CFG.h>
#include <llvm/IR/InstIterator.h>

namespace godwit::compiler {
namespace {

bool IsTracked(const llvm::Value* value) {
  return (llvm::isa<llvm::Instruction>(value) || llvm::isa<llvm::Argument>(value)) && !value->getType()->isVoidTy();
}

}  // namespace

Liveness::Liveness(llvm::Function& function) {
  auto add = [&](llvm::Value* value) {
    if (!IsTracked(value)) return;
    number_[value] = static_cast<unsigned>(values_.size());
    values_.push_back(value);
  };
  for (llvm::Argument& argument : function.args()) add(&argument);
  for (llvm::Instruction& instruction : llvm::instructions(function)) add(&instruction);

  // From each use, walk up to the definition and mark the blocks passed. The sets stay duplicate-free because
  // one value is done at a time: if it is the last one added, it is there.
  for (unsigned n = 0; n < values_.size(); ++n) {
    llvm::Value* value = values_[n];
    auto* instruction = llvm::dyn_cast<llvm::Instruction>(value);
    llvm::BasicBlock* home = instruction ? instruction->getParent() : &function.getEntryBlock();
    llvm::SmallVector<llvm::BasicBlock*, 16> work;  // Blocks where the value is live at the beginning.
    auto live_at_end = [&](llvm::BasicBlock* block) {
      auto& out = live_out_[block];
      if (!out.empty() && out.back() == n) return;
      out.push_back(n);
      if (block != home) work.push_back(block);
    };
    for (llvm::Use& use : value->uses()) {
      auto* user = llvm::cast<llvm::Instruction>(use.getUser());
      if (auto* phi = llvm::dyn_cast<llvm::PHINode>(user)) {
        live_at_end(phi->getIncomingBlock(use));
      } else if (user->getParent() != home) {
        work.push_back(user->getParent());
      }
    }
    while (!work.empty()) {
      llvm::BasicBlock* block = work.pop_back_val();
      auto& in = live_in_[block];
      if (!in.empty() && in.back() == n) continue;
      in.push_back(n);
      for (llvm::BasicBlock* before : llvm::predecessors(block)) live_at_end(before);
    }
  }
}

std::vector<llvm::Value*> Liveness::Sorted(llvm::SmallVectorImpl<unsigned>& numbers) const {
  llvm::sort(numbers);
  numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
  std::vector<llvm::Value*> result;
  result.reserve(numbers.size());
  for (unsigned n : numbers) result.push_back(values_[n]);
  return result;
}

std::vector<llvm::Value*> Liveness::LiveBefore(llvm::Instruction* at) const {
  llvm::BasicBlock* block = at->getParent();
  llvm::SmallVector<unsigned, 32> numbers;
  if (auto out = live_out_.find(block); out != live_out_.end()) numbers.append(out->second.begin(), out->second.end());
  for (llvm::Instruction& user : llvm::make_range(at->getIterator(), block->end())) {
    if (llvm::isa<llvm::PHINode>(user)) continue;
    for (llvm::Value* operand : user.operands()) {
      if (auto found = number_.find(operand); found != number_.end()) numbers.push_back(found->second);
    }
  }
  // What this block defines at or after `at` is not live before it.
  llvm::erase_if(numbers, [&](unsigned n) {
    auto* instruction = llvm::dyn_cast<llvm::Instruction>(values_[n]);
    return instruction && instruction->getParent() == block && !instruction->comesBefore(at);
  });
  return Sorted(numbers);
}

std::vector<llvm::Value*> Liveness::LiveOnEdge(llvm::BasicBlock* from, llvm::BasicBlock* to) const {
  llvm::SmallVector<unsigned, 32> numbers;
  if (auto in = live_in_.find(to); in != live_in_.end()) numbers.append(in->second.begin(), in->second.end());
  for (llvm::PHINode& phi : to->phis()) {
    auto found = number_.find(phi.getIncomingValueForBlock(from));
    if (found != number_.end()) numbers.push_back(found->second);
  }
  return Sorted(numbers);
}

}  // namespace godwit::compiler
