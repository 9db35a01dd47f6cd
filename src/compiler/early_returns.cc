#include "compiler/early_returns.h"

#include <llvm/Analysis/LoopInfo.h>
#include <llvm/IR/CFG.h>
#include <llvm/IR/Dominators.h>
#include <llvm/Transforms/Utils/Cloning.h>

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::Instruction;

// A block of more than this, or with a call, is not made twice.
constexpr std::size_t kInstructionsMax = 10;

// The block that all ways to the calls lead through, outside all loops; or null.
BasicBlock* WayToAll(llvm::ArrayRef<llvm::CallInst*> calls, const llvm::DominatorTree& dominators) {
  BasicBlock* way = nullptr;
  for (llvm::CallInst* call : calls) {
    if (!dominators.isReachableFromEntry(call->getParent())) continue;
    way = way ? dominators.findNearestCommonDominator(way, call->getParent()) : call->getParent();
  }
  if (!way) return nullptr;
  const llvm::LoopInfo loops(dominators);
  if (const llvm::Loop* loop = loops.getLoopFor(way)) {
    const auto* header = dominators.getNode(loop->getOutermostLoop()->getHeader());
    way = header->getIDom() ? header->getIDom()->getBlock() : nullptr;
  }
  return way;
}

}  // namespace

void SeparateEarlyReturns(llvm::Function& function, llvm::ArrayRef<llvm::CallInst*> calls) {
  const llvm::DominatorTree dominators(function);
  const BasicBlock* way = WayToAll(calls, dominators);
  if (!way) return;
  const auto late = [&](const BasicBlock* block) { return dominators.dominates(way, block); };
  std::vector<BasicBlock*> shared;
  for (BasicBlock& block : function) {
    const bool plain = llvm::isa<llvm::ReturnInst>(block.getTerminator()) && block.size() <= kInstructionsMax &&
                       llvm::none_of(block, [](const Instruction& instruction) { return llvm::isa<llvm::CallBase>(instruction); });
    if (plain && llvm::any_of(llvm::predecessors(&block), late) && !llvm::all_of(llvm::predecessors(&block), late)) shared.push_back(&block);
  }
  for (BasicBlock* block : shared) {
    llvm::ValueToValueMapTy copies;
    BasicBlock* early = llvm::CloneBasicBlock(block, copies, "", &function);
    llvm::remapInstructionsInBlocks({early}, copies);
    for (llvm::PHINode& phi : early->phis()) phi.removeIncomingValueIf([&](unsigned i) { return late(phi.getIncomingBlock(i)); }, false);
    for (llvm::PHINode& phi : block->phis()) phi.removeIncomingValueIf([&](unsigned i) { return !late(phi.getIncomingBlock(i)); }, false);
    const llvm::SmallVector<BasicBlock*, 8> from(llvm::predecessors(block));
    for (BasicBlock* leaving : from) {
      if (!late(leaving)) leaving->getTerminator()->replaceSuccessorWith(block, early);
    }
  }
}

}  // namespace godwit::compiler
