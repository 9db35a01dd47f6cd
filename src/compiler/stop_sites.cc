#include "compiler/stop_sites.h"

#include <llvm/ADT/SCCIterator.h>
#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/Analysis/AssumptionCache.h>
#include <llvm/Analysis/CFG.h>
#include <llvm/Analysis/CallGraph.h>
#include <llvm/Analysis/LoopInfo.h>
#include <llvm/Analysis/OptimizationRemarkEmitter.h>
#include <llvm/Analysis/ScalarEvolution.h>
#include <llvm/Analysis/ScalarEvolutionExpressions.h>
#include <llvm/Analysis/TargetLibraryInfo.h>
#include <llvm/Analysis/TargetTransformInfo.h>
#include <llvm/IR/Dominators.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>
#include <llvm/Transforms/Utils/Local.h>
#include <llvm/Transforms/Utils/LoopSimplify.h>
#include <llvm/Transforms/Utils/LoopUtils.h>
#include <llvm/Transforms/Utils/UnrollLoop.h>

#include <optional>
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
// A poll costs a three-instruction loop half its speed, so one poll serves several iterations of an innermost loop
// with a small body. One that goes up or down to a bound does so in strips: of about kShortLoopInstructions, but of
// few memory accesses where these may be far apart, since each may have to wait for its page. Another one is unrolled
// to about kUnrolledInstructions.
constexpr std::uint64_t kStripBodyMax = 128;
constexpr std::uint64_t kStripScatteredAccesses = 64;
constexpr std::uint64_t kNearBytes = 64;
constexpr std::uint64_t kUnrolledInstructions = 24;
constexpr unsigned kUnrollMax = 4;

bool IsGuest(const Function& function) { return IsGuestName(function.getName()); }

class Finder {
 public:
  Finder(AbiIr& abi, LoopCare care) : abi_(abi), care_(care), tlii_(llvm::Triple(abi.module.getTargetTriple())), tli_(tlii_) {}

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
    return callee->getName().starts_with("gw.icall.") || callee->getName().starts_with("gw.tail_");
  }

  StopSites FindIn(Function& function) {
    strips_.clear();
    if (care_ == LoopCare::kFull) LoosenTightLoops(function);
    StopSites sites{&function, {}, {}};
    has_stopping_call_ = false;
    for (llvm::Instruction& instruction : llvm::instructions(function)) {
      auto* call = llvm::dyn_cast<CallInst>(&instruction);
      if (!call || !MayStop(*call)) continue;
      has_stopping_call_ = true;
      // A loop may be made of tail calls.
      if (call->isMustTailCall()) sites.polls.push_back(call);
      // `call; ret` needs no check: whatever the callee left behind is the caller's result too.
      if (!IsFollowedByReturn(*call)) sites.calls.push_back(call);
    }
    for (auto [from, to] : EdgesToPoll(function, sites.calls)) sites.polls.push_back(GiveOwnBlock(from, to));
    if (care_ == LoopCare::kFull) CloseLoops(function);
    return sites;
  }

  // Gives what is used behind a loop a name there: a memory frame, which writes a value where it is defined, shall not do so
  // in each iteration for safepoints behind the loop.
  static void CloseLoops(Function& function) {
    const llvm::DominatorTree dominators(function);
    const llvm::LoopInfo loops(dominators);
    for (llvm::Loop* loop : loops) llvm::formLCSSARecursively(*loop, dominators, &loops, nullptr);
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

  // Lets one poll serve several iterations of the tight loops that will be polled. Exit tests stay in unrolled
  // copies of a body.
  void LoosenTightLoops(Function& function) {
    Analyses analyses(function, tli_);
    auto& [dominators, loops, assumptions, evolution] = analyses;
    llvm::TargetTransformInfo costs(abi_.module.getDataLayout());
    llvm::OptimizationRemarkEmitter remarks(&function);
    std::vector<Strip> strips;  // Cut last: the analyses do not follow.
    for (llvm::Loop* loop : loops.getLoopsInPreorder()) {
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
      if (!plain || body > kStripBodyMax || Instructions(*loop, evolution) <= kShortLoopInstructions) continue;
      llvm::simplifyLoop(loop, &dominators, &loops, &evolution, &assumptions, nullptr, false);
      if (Approach::Find(*loop)) {
        strips.push_back({loop, StripIterations(*loop, body, evolution)});
        continue;
      }
      const unsigned count = static_cast<unsigned>(std::min<std::uint64_t>(kUnrollMax, kUnrolledInstructions / body));
      if (count < 2) continue;
      llvm::formLCSSARecursively(*loop, dominators, &loops, &evolution);
      llvm::UnrollLoopOptions options{};
      options.Count = count;
      options.Force = true;
      llvm::UnrollLoop(loop, options, &loops, &evolution, &dominators, &assumptions, &costs, &remarks,
                       /*PreserveLCSSA=*/false);
    }
    for (const Strip& strip : strips) Cut(strip);
  }

  // A latch that goes on while a value, which the same step changes each time, has not reached a bound.
  struct Approach {
    llvm::PHINode* phi;
    llvm::Value* value;  // The phi, or the phi plus the step.
    llvm::Value *step, *bound;
    llvm::CmpInst::Predicate goes_on;  // value GOES_ON bound.

    static std::optional<Approach> Find(const llvm::Loop& loop) {
      auto* branch = llvm::dyn_cast<llvm::BranchInst>(loop.getLoopLatch()->getTerminator());
      if (!branch || !branch->isConditional()) return {};
      auto* compare = llvm::dyn_cast<llvm::ICmpInst>(branch->getCondition());
      if (!compare || !compare->getOperand(0)->getType()->isIntegerTy()) return {};
      Approach found{};
      found.goes_on = branch->getSuccessor(0) == loop.getHeader() ? compare->getPredicate() : compare->getInversePredicate();
      found.value = compare->getOperand(0);
      found.bound = compare->getOperand(1);
      if (loop.isLoopInvariant(found.value)) {
        std::swap(found.value, found.bound);
        found.goes_on = llvm::CmpInst::getSwappedPredicate(found.goes_on);
      }
      if (found.goes_on == llvm::CmpInst::ICMP_EQ || !loop.isLoopInvariant(found.bound)) return {};
      for (llvm::PHINode& phi : loop.getHeader()->phis()) {
        auto* next = llvm::dyn_cast<llvm::BinaryOperator>(phi.getIncomingValueForBlock(loop.getLoopLatch()));
        if (!next || next->getOpcode() != llvm::Instruction::Add || (found.value != &phi && found.value != next)) continue;
        if (next->getOperand(0) != &phi && next->getOperand(1) != &phi) continue;
        found.phi = &phi;
        found.step = next->getOperand(next->getOperand(0) == &phi ? 1 : 0);
        auto* constant = llvm::dyn_cast<llvm::ConstantInt>(found.step);
        const bool fits = found.goes_on == llvm::CmpInst::ICMP_NE ? constant && !constant->isZero() : loop.isLoopInvariant(found.step);
        if (fits) return found;
      }
      return {};
    }

    // Whether a strip goes on that begins with `value` being `from`. It does so only where the loop does, and at most
    // for `steps` steps: after these `value` is `far`, however it wrapped around on the way.
    llvm::Value* StripGoesOn(llvm::IRBuilder<>& at_begin, llvm::IRBuilder<>& at_latch, llvm::Value* from, std::uint64_t steps) const {
      namespace I = llvm::Intrinsic;
      using llvm::CmpInst;
      llvm::Value* most = llvm::ConstantInt::get(from->getType(), steps);
      if (goes_on == CmpInst::ICMP_NE) {
        const llvm::APInt& by = llvm::cast<llvm::ConstantInt>(step)->getValue();
        llvm::Value* distance = by.isNegative() ? at_begin.CreateSub(from, bound) : at_begin.CreateSub(bound, from);
        distance = at_begin.CreateUDiv(distance, llvm::ConstantInt::get(from->getType(), by.abs()));
        llvm::Value* taken = at_begin.CreateBinaryIntrinsic(I::umin, distance, most);
        return at_latch.CreateICmpNE(value, at_begin.CreateAdd(from, at_begin.CreateMul(taken, step)));
      }
      const CmpInst::Predicate strict = CmpInst::getStrictPredicate(goes_on);
      const bool is_signed = CmpInst::isSigned(strict);
      const bool up = strict == CmpInst::ICMP_ULT || strict == CmpInst::ICMP_SLT;
      llvm::Value* far = at_begin.CreateAdd(from, at_begin.CreateMul(step, most));
      llvm::Value* nearer = at_begin.CreateBinaryIntrinsic(is_signed ? (up ? I::smin : I::smax) : (up ? I::umin : I::umax), far, bound);
      return at_latch.CreateICmp(strict, value, nearer);
    }
  };

  struct Strip {
    llvm::Loop* loop;
    std::uint64_t iterations;  // Of one strip at most.
  };

  // Whether the value moves by at most kNearBytes in an iteration, but where a part of it of 32 bits wraps around.
  static bool MovesLittle(const llvm::SCEV* value, const llvm::Loop& loop, llvm::ScalarEvolution& evolution) {
    if (evolution.isLoopInvariant(value, &loop)) return true;
    if (auto* walk = llvm::dyn_cast<llvm::SCEVAddRecExpr>(value)) {
      auto* step = llvm::dyn_cast<llvm::SCEVConstant>(walk->getStepRecurrence(evolution));
      return step && walk->getLoop() == &loop && step->getAPInt().abs().ule(kNearBytes);
    }
    auto little = [&](const llvm::SCEV* part) { return MovesLittle(part, loop, evolution); };
    if (auto* cast = llvm::dyn_cast<llvm::SCEVCastExpr>(value)) return little(cast->getOperand());
    auto* sum = llvm::dyn_cast<llvm::SCEVAddExpr>(value);
    return sum && llvm::all_of(sum->operands(), little);
  }

  std::uint64_t StripIterations(const llvm::Loop& loop, std::uint64_t body, llvm::ScalarEvolution& evolution) {
    std::uint64_t scattered = 0;
    for (BasicBlock* block : loop.blocks()) {
      for (llvm::Instruction& instruction : *block) {
        llvm::Value* address = llvm::getPointerOperand(&instruction);
        if (!address || llvm::isa<llvm::GetElementPtrInst>(instruction) || loop.isLoopInvariant(address)) continue;
        if (!MovesLittle(evolution.getSCEV(address), loop, evolution)) ++scattered;
      }
    }
    const std::uint64_t iterations = kShortLoopInstructions / body;
    return scattered ? std::min(iterations, std::max<std::uint64_t>(1, kStripScatteredAccesses / scattered)) : iterations;
  }

  // Puts a loop around the loop, whose body runs a strip of it; its back edge is the one to poll.
  void Cut(const Strip& strip) {
    llvm::Loop& loop = *strip.loop;
    const Approach approach = *Approach::Find(loop);
    BasicBlock *before = loop.getLoopPreheader(), *header = loop.getHeader(), *latch = loop.getLoopLatch();
    auto* branch = llvm::cast<llvm::BranchInst>(latch->getTerminator());
    BasicBlock* exit = branch->getSuccessor(branch->getSuccessor(0) == header ? 1 : 0);
    Function* function = header->getParent();
    BasicBlock* begin = BasicBlock::Create(abi_.llvm, "strip", function, header);
    BasicBlock* end = BasicBlock::Create(abi_.llvm, "strip.end", function, latch->getNextNode());
    before->getTerminator()->replaceSuccessorWith(header, begin);

    llvm::IRBuilder<> b(begin);
    for (llvm::PHINode& phi : header->phis()) {
      llvm::PHINode* outer = b.CreatePHI(phi.getType(), 2, phi.getName());
      outer->addIncoming(phi.getIncomingValueForBlock(before), before);
      outer->addIncoming(phi.getIncomingValueForBlock(latch), end);
      phi.replaceIncomingBlockWith(before, begin);
      phi.setIncomingValueForBlock(begin, outer);
    }
    llvm::Value* was = branch->getCondition();
    llvm::IRBuilder<> at_latch(branch), at_end(end);
    llvm::Value* from = approach.phi->getIncomingValueForBlock(begin);
    if (approach.value != approach.phi) from = b.CreateAdd(from, approach.step);
    at_latch.CreateCondBr(approach.StripGoesOn(b, at_latch, from, strip.iterations - 1), header, end);
    at_end.CreateCondBr(at_end.CreateICmp(approach.goes_on, approach.value, approach.bound), begin, exit);
    b.CreateBr(header);
    branch->eraseFromParent();
    llvm::RecursivelyDeleteTriviallyDeadInstructions(was);
    exit->replacePhiUsesWith(latch, end);
    llvm::DeleteDeadPHIs(header);
    llvm::DeleteDeadPHIs(begin);
    strips_.insert(header);
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
        if (checked || strips_.contains(to)) continue;
        if (care_ == LoopCare::kFull && Instructions(*loop, evolution) <= kShortLoopInstructions) continue;
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
  const LoopCare care_;
  llvm::TargetLibraryInfoImpl tlii_;
  llvm::TargetLibraryInfo tli_;
  llvm::SmallPtrSet<const Function*, 32> may_stop_;
  llvm::SmallPtrSet<const BasicBlock*, 32> strips_;  // Headers of loops that run for one strip; of one function.
  bool has_stopping_call_ = false;
};

}  // namespace

std::vector<StopSites> FindStopSites(AbiIr& abi, LoopCare care) { return Finder(abi, care).Run(); }

}  // namespace godwit::compiler
