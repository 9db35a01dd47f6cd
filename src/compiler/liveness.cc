#include "compiler/liveness.h"

#include <llvm/ADT/STLExtras.h>
#include <llvm/IR/CFG.h>
#include <llvm/IR/InstIterator.h>

#include <optional>

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

  std::vector<llvm::BasicBlock*> blocks;
  for (llvm::BasicBlock& block : function) {
    block_[&block] = static_cast<unsigned>(blocks.size());
    blocks.push_back(&block);
  }
  live_in_.resize(blocks.size());
  live_out_.resize(blocks.size());
  // Predecessors of block b: before[first[b]] to before[first[b + 1]].
  std::vector<unsigned> before, first{0};
  for (llvm::BasicBlock* block : blocks) {
    for (llvm::BasicBlock* predecessor : llvm::predecessors(block)) before.push_back(block_[predecessor]);
    first.push_back(static_cast<unsigned>(before.size()));
  }

  // From each use, walk up to the definition and mark the blocks passed. The sets stay duplicate-free because
  // one value is done at a time: if it is the last one added, it is there.
  std::vector<unsigned> work;  // Blocks where the value is live at the beginning.
  for (unsigned n = 0; n < values_.size(); ++n) {
    llvm::Value* value = values_[n];
    auto* instruction = llvm::dyn_cast<llvm::Instruction>(value);
    llvm::BasicBlock* home_block = instruction ? instruction->getParent() : &function.getEntryBlock();
    std::optional<unsigned> home;  // Looked up where a use elsewhere asks for it.
    auto live_at_end = [&](unsigned block) {
      auto& out = live_out_[block];
      if (!out.empty() && out.back() == n) return;
      out.push_back(n);
      if (block != *home) work.push_back(block);
    };
    for (llvm::Use& use : value->uses()) {
      auto* user = llvm::cast<llvm::Instruction>(use.getUser());
      auto* phi = llvm::dyn_cast<llvm::PHINode>(user);
      if (!phi && user->getParent() == home_block) continue;
      if (!home) home = block_[home_block];
      if (phi) {
        live_at_end(block_[phi->getIncomingBlock(use)]);
      } else {
        work.push_back(block_[user->getParent()]);
      }
    }
    while (!work.empty()) {
      const unsigned block = work.back();
      work.pop_back();
      auto& in = live_in_[block];
      if (!in.empty() && in.back() == n) continue;
      in.push_back(n);
      for (unsigned i = first[block]; i < first[block + 1]; ++i) live_at_end(before[i]);
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

const std::vector<Liveness::LastUse>& Liveness::LastUses(llvm::BasicBlock* block) const {
  auto [entry, made] = last_uses_.try_emplace(block);
  std::vector<LastUse>& uses = entry->second;
  if (!made) return uses;
  llvm::DenseMap<unsigned, const llvm::Instruction*> last;
  for (const llvm::Instruction& user : *block) {
    if (llvm::isa<llvm::PHINode>(user)) continue;
    for (llvm::Value* operand : user.operands()) {
      if (auto found = number_.find(operand); found != number_.end()) last[found->second] = &user;
    }
  }
  for (unsigned n : live_out_[block_.lookup(block)]) last[n] = nullptr;
  for (const auto& [number, user] : last) uses.push_back({number, user});
  llvm::sort(uses, [](const LastUse& a, const LastUse& b) { return a.number < b.number; });
  return uses;
}

std::vector<llvm::Value*> Liveness::LiveBefore(llvm::Instruction* at) const {
  std::vector<llvm::Value*> live;
  for (const LastUse& use : LastUses(at->getParent())) {
    if (use.user && use.user->comesBefore(at)) continue;
    // What this block defines at or after `at` is not live before it.
    auto* definition = llvm::dyn_cast<llvm::Instruction>(values_[use.number]);
    if (definition && definition->getParent() == at->getParent() && !definition->comesBefore(at)) continue;
    live.push_back(values_[use.number]);
  }
  return live;
}

std::vector<llvm::Value*> Liveness::LiveOnEdge(llvm::BasicBlock* from, llvm::BasicBlock* to) const {
  llvm::SmallVector<unsigned, 32> numbers;
  const auto& in = live_in_[block_.lookup(to)];
  numbers.append(in.begin(), in.end());
  for (llvm::PHINode& phi : to->phis()) {
    auto found = number_.find(phi.getIncomingValueForBlock(from));
    if (found != number_.end()) numbers.push_back(found->second);
  }
  return Sorted(numbers);
}

}  // namespace godwit::compiler
