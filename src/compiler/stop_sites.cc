#include "compiler/stop_sites.h"

#include <llvm/ADT/SCCIterator.h>
#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/Analysis/AssumptionCache.h>
#include <llvm/Analysis/CFG.h>
#include <llvm/Analysis/CallGraph.h>
#include <llvm/Analysis/LoopInfo.h>
#include <llvm/Analysis/OptimizationRemarkEmitter.h>
#include <llvm/Analysis/ScalarEvolution.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/IR/Dominators.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/LoopSimplify.h>
#include <llvm/Transforms/Utils/LoopUtils.h>
#include <llvm/Transforms/Utils/UnrollLoop.h>

#include <set>

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::CallInst;
using llvm::Function;

// A loop whose whole run is known to take at most this many instructions is not polled (about a microsecond).
constexpr std::uint64_t kShortLoopInstructions = 4096;
// What a call inside a loop counts as.
constexpr std::uint64_t kCallInstructions = 256;
// A polled innermost loop with a smaller body is unrolled to about this size, so that one poll serves several
// iterations (a poll costs a three-instruction loop half its speed).
constexpr std::uint64_t kUnrolledInstructions = 64;
constexpr unsigned kUnrollMax = 8;

bool IsGuest(const Function& function) { return function.getName().starts_with("wasm."); }

class Finder {
 public:
  explicit Finder(AbiIr& abi) : abi_(abi), tlii_(llvm::Triple(abi.module.getTargetTriple())), tli_(tlii_) {}

  std::vector<StopSites> Run() {
    std::map<Function*, StopSites> found;
    llvm::CallGraph graph(abi_.module);
    for (auto scc = llvm::scc_begin(&graph); !scc.isAtEnd(); ++scc) {
      const bool cycle = scc.hasCycle();
      for (llvm::CallGraphNode* node : *scc) {
        Function* function = node->getFunction();
        if (function && cycle) may_stop_.insert(function);
      }
      for (llvm::CallGraphNode* node : *scc) {
        Function* function = node->getFunction();
        if (!function || function->isDeclaration() || !IsGuest(*function)) continue;
        StopSites sites = FindIn(*function);
        if (has_stopping_call_ || !sites.polls.empty()) may_stop_.insert(function);
        if (!sites.polls.empty() || !sites.calls.empty()) found.emplace(function, std::move(sites));
      }
    }
    std::vector<StopSites> result;
    for (Function& function : abi_.module) {
      if (auto it = found.find(&function); it != found.end()) result.push_back(std::move(it->second));
    }
    return result;
  }

 private:
  bool MayStop(const CallInst& call) const {
    const Function* callee = call.getCalledFunction();
    if (!callee) return true;
    if (callee->isIntrinsic()) return false;
    if (IsGuest(*callee)) return callee->isDeclaration() || may_stop_.contains(callee);
    return callee->getName().starts_with("gw.icall.");
  }

  // `call; ret` needs no check: whatever the callee left behind is the caller's result too.
  static bool IsFollowedByReturn(const CallInst& call) {
    auto* ret = llvm::dyn_cast<llvm::ReturnInst>(call.getNextNode());
    return ret && (!ret->getReturnValue() || ret->getReturnValue() == &call);
  }

  StopSites FindIn(Function& function) {
    UnrollTightLoops(function);
    StopSites sites{&function, {}, {}};
    has_stopping_call_ = false;
    for (llvm::Instruction& instruction : llvm::instructions(function)) {
      auto* call = llvm::dyn_cast<CallInst>(&instruction);
      if (!call || !MayStop(*call)) continue;
      has_stopping_call_ = true;
      if (!IsFollowedByReturn(*call)) sites.calls.push_back(call);
    }
    for (auto [from, to] : EdgesToPoll(function, sites.calls)) sites.polls.push_back(GiveOwnBlock(from, to));
    return sites;
  }

  // The analyses of one function, valid while it changes only through them.
  struct Analyses {
    Analyses(Function& function, const llvm::TargetLibraryInfo& library)
        : dominators(function), loops(dominators), assumptions(function),
          evolution(function, const_cast<llvm::TargetLibraryInfo&>(library), assumptions, dominators, loops) {}
    llvm::DominatorTree dominators;
    llvm::LoopInfo loops;
    llvm::AssumptionCache assumptions;
    llvm::ScalarEvolution evolution;
  };

  // Unrolls the tight loops that will be polled; exit tests stay with every copy of the body.
  void UnrollTightLoops(Function& function) {
    Analyses analyses(function, tli_);
    llvm::TargetTransformInfo costs(abi_.module.getDataLayout());
    llvm::OptimizationRemarkEmitter remarks(&function);
    for (llvm::Loop* loop : analyses.loops.getLoopsInPreorder()) {
      if (!loop->isInnermost() || !loop->getLoopLatch()) continue;
      std::uint64_t body = 0;
      bool plain = true;
      for (const BasicBlock* block : loop->blocks()) {
        body += block->size();
        for (const llvm::Instruction& instruction : *block) {
          auto* call = llvm::dyn_cast<CallInst>(&instruction);
          plain = plain && (!call || (call->getCalledFunction() && call->getCalledFunction()->isIntrinsic()));
        }
      }
      const unsigned count = static_cast<unsigned>(std::min<std::uint64_t>(kUnrollMax, kUnrolledInstructions / body));
      if (!plain || count < 2 || Instructions(*loop, analyses.evolution) <= kShortLoopInstructions) continue;
      llvm::simplifyLoop(loop, &analyses.dominators, &analyses.loops, &analyses.evolution, &analyses.assumptions, nullptr, false);
      llvm::formLCSSARecursively(*loop, analyses.dominators, &analyses.loops, &analyses.evolution);
      llvm::UnrollLoopOptions options{};
      options.Count = count;
      options.Force = true;
      llvm::UnrollLoop(loop, options, &analyses.loops, &analyses.evolution, &analyses.dominators,
                       &analyses.assumptions, &costs, &remarks, /*PreserveLCSSA=*/false);
    }
  }

  // The edges whose polls cut every cycle that is not known to be short.
  std::vector<std::pair<BasicBlock*, BasicBlock*>> EdgesToPoll(Function& function, const std::vector<CallInst*>& calls) {
    llvm::SmallVector<std::pair<const BasicBlock*, const BasicBlock*>, 16> back_edges;
    llvm::FindFunctionBackedges(function, back_edges);
    if (back_edges.empty()) return {};
    Analyses analyses(function, tli_);
    auto& [dominators, loops, assumptions, evolution] = analyses;
    std::set<std::pair<const BasicBlock*, const BasicBlock*>> wanted;
    for (auto [from, to] : back_edges) {
      if (dominators.dominates(to, from)) {
        const llvm::Loop* loop = loops.getLoopFor(to);
        GODWIT_CHECK(loop && loop->getHeader() == to, "a natural back edge without its loop");
        const bool checked = llvm::any_of(calls, [&](CallInst* call) {
          return loop->contains(call) && dominators.dominates(call->getParent(), from);
        });
        if (checked || Instructions(*loop, evolution) <= kShortLoopInstructions) continue;
      }
      wanted.emplace(from, to);
    }
    std::vector<std::pair<BasicBlock*, BasicBlock*>> edges;
    for (BasicBlock& from : function) {
      llvm::SmallPtrSet<BasicBlock*, 4> seen;
      for (BasicBlock* to : llvm::successors(&from)) {
        if (wanted.contains({&from, to}) && seen.insert(to).second) edges.emplace_back(&from, to);
      }
    }
    return edges;
  }

  // An upper bound on what the loop executes, saturating; "unknown" is the largest number.
  std::uint64_t Instructions(const llvm::Loop& loop, llvm::ScalarEvolution& evolution) {
    constexpr std::uint64_t kUnknown = ~0ull;
    const std::uint64_t trips = evolution.getSmallConstantMaxTripCount(&loop);
    if (trips == 0 || trips > kShortLoopInstructions) return kUnknown;
    std::uint64_t body = 0;
    for (const BasicBlock* block : loop.blocks()) {
      body += block->size();
      for (const llvm::Instruction& instruction : *block) {
        auto* call = llvm::dyn_cast<CallInst>(&instruction);
        if (!call || (call->getCalledFunction() && call->getCalledFunction()->isIntrinsic())) continue;
        body += kCallInstructions;
      }
    }
    for (const llvm::Loop* inner : loop.getSubLoops()) {
      const std::uint64_t cost = Instructions(*inner, evolution);
      if (cost > kShortLoopInstructions) return kUnknown;
      body += cost;
    }
    return trips * body;
  }

  llvm::Instruction* GiveOwnBlock(BasicBlock* from, BasicBlock* to) {
    BasicBlock* own = BasicBlock::Create(abi_.llvm, "latch", from->getParent(), from->getNextNode());
    llvm::BranchInst* branch = llvm::BranchInst::Create(to, own);
    from->getTerminator()->replaceSuccessorWith(to, own);
    for (llvm::PHINode& phi : to->phis()) {
      llvm::Value* value = phi.getIncomingValueForBlock(from);
      phi.removeIncomingValueIf([&](unsigned i) { return phi.getIncomingBlock(i) == from; }, false);
      phi.addIncoming(value, own);
    }
    return branch;
  }

  AbiIr& abi_;
  llvm::TargetLibraryInfoImpl tlii_;
  llvm::TargetLibraryInfo tli_;
  llvm::SmallPtrSet<const Function*, 32> may_stop_;
  bool has_stopping_call_ = false;
};

}  // namespace

std::vector<StopSites> FindStopSites(AbiIr& abi) { return Finder(abi).Run(); }

}  // namespace godwit::compiler
