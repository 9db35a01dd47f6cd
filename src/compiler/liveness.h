// Which values of a function are live where: the question that safepoints ask.
#pragma once

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/SmallVector.h>
#include <llvm/IR/Function.h>
#include <llvm/IR/Instructions.h>

#include <vector>

namespace godwit::compiler {

// Liveness of arguments and instructions of one function. Valid until the function changes. Values are
// given in the order of their definition, so results do not depend on addresses.
class Liveness {
 public:
  explicit Liveness(llvm::Function& function);

  // Live just before `at` (what `at` itself and what follows may use).
  std::vector<llvm::Value*> LiveBefore(llvm::Instruction* at) const;
  // Live on the edge from -> to: what `to` needs but for its phis, and what its phis take from `from`.
  std::vector<llvm::Value*> LiveOnEdge(llvm::BasicBlock* from, llvm::BasicBlock* to) const;

 private:
  // A value that a block uses or hands on, and its last user there; null: it is live at the block's end.
  struct LastUse {
    unsigned number;
    const llvm::Instruction* user;
  };
  const std::vector<LastUse>& LastUses(llvm::BasicBlock* block) const;
  std::vector<llvm::Value*> Sorted(llvm::SmallVectorImpl<unsigned>& numbers) const;

  std::vector<llvm::Value*> values_;
  llvm::DenseMap<llvm::Value*, unsigned> number_;
  llvm::DenseMap<llvm::BasicBlock*, unsigned> block_;
  // By block number. Live at the block's beginning, phis' own results and operands not counted.
  std::vector<llvm::SmallVector<unsigned, 4>> live_in_;
  // Live at the block's end, including what successors' phis take from it.
  std::vector<llvm::SmallVector<unsigned, 4>> live_out_;
  mutable llvm::DenseMap<llvm::BasicBlock*, std::vector<LastUse>> last_uses_;  // By number; made when first asked for.
};

}  // namespace godwit::compiler
