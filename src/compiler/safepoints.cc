#include "compiler/safepoints.h"

#include <llvm/ADT/DenseSet.h>
#include <llvm/ADT/MapVector.h>
#include <llvm/ADT/SetVector.h>
#include <llvm/IR/CFG.h>
#include <llvm/IR/Dominators.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>
#include <llvm/Transforms/Utils/Cloning.h>
#include <llvm/Transforms/Utils/PromoteMemToReg.h>

#include <optional>

#include "compiler/early_returns.h"
#include "compiler/frame_layout.h"
#include "compiler/liveness.h"
#include "compiler/memory_frame.h"
#include "compiler/stop_sites.h"

namespace godwit::compiler {
namespace {

using llvm::AllocaInst;
using llvm::BasicBlock;
using llvm::CallInst;
using llvm::Function;
using llvm::Instruction;
using llvm::IRBuilder;
using llvm::Value;

// A live value is recomputed on resume rather than stored if it is at most this many steps from stored ones.
constexpr int kRecomputeSteps = 4;

// A function whose safepoints store more values than this in all keeps them in a memory frame.
constexpr std::size_t kInlineRootsMax = 1024;

struct Site {
  SafepointKind kind;
  Instruction* at;                    // The safepoint is just before it.
  CallInst* call = nullptr;           // kCall: the call just before `at`.
  std::vector<Value*> roots;          // Live values that the frame holds, in order.
  std::vector<Instruction*> derived;  // Live values recomputed from them, in order of dependence.
};

std::uint32_t PaddedPayload(const Site& site) {
  FrameLayout layout;
  for (Value* root : site.roots) layout.Skip(root->getType());
  return (layout.bytes() + 7) / 8 * 8;
}

SafepointRecord RecordOf(const Site& site) {
  FrameLayout layout;
  for (Value* root : site.roots) layout.Skip(root->getType());
  return {site.kind, layout.bytes(), layout.memory_pointers()};
}

bool IsRecomputable(const Instruction& instruction) {
  if (auto* binary = llvm::dyn_cast<llvm::BinaryOperator>(&instruction)) {
    switch (binary->getOpcode()) {
      case Instruction::UDiv: case Instruction::SDiv: case Instruction::URem: case Instruction::SRem:
      case Instruction::FDiv: case Instruction::FRem: return false;
      default: return true;
    }
  }
  return llvm::isa<llvm::CastInst, llvm::GetElementPtrInst, llvm::CmpInst, llvm::SelectInst, llvm::ExtractValueInst>(
      instruction);
}

// Divides the live values into roots and what follows from them.
void ChooseRoots(const std::vector<Value*>& live, Value* context, Value* memory, Site& site) {
  llvm::DenseMap<Value*, int> steps;  // From stored values; present: available on resume.
  llvm::SmallPtrSet<Value*, 32> all(live.begin(), live.end());
  // In order of definition operands come first, but around a loop: those only phis refer to.
  for (Value* value : live) {
    if (value == context || value == memory) continue;
    auto* instruction = llvm::dyn_cast<Instruction>(value);
    int distance = 0;
    bool derivable = instruction && IsRecomputable(*instruction);
    for (unsigned i = 0; derivable && i < instruction->getNumOperands(); ++i) {
      Value* operand = instruction->getOperand(i);
      if (llvm::isa<llvm::Constant>(operand) || operand == context || operand == memory) continue;
      auto found = steps.find(operand);
      derivable = found != steps.end();
      if (derivable) distance = std::max(distance, found->second);
    }
    if (derivable && distance < kRecomputeSteps) {
      steps[value] = distance + 1;
      site.derived.push_back(instruction);
    } else {
      steps[value] = 0;
      site.roots.push_back(value);
    }
  }
}

// Puts the checks of one function (normal or resume clone) into its code.
class Instrumenter {
 public:
  Instrumenter(AbiIr& abi, Function& function, std::uint32_t index)
      : abi_(abi), function_(function), index_(index), context_(function.getArg(0)), memory_(function.getArg(1)) {}

  struct Blocks {
    BasicBlock* check;     // Begins with the test of the state word.
    BasicBlock* proceed;   // After the safepoint.
  };

  // Splits before `at`; `spill(b, frame)` emits the stores of the frame's values.
  template <typename Spill>
  Blocks Insert(Instruction* at, std::uint32_t number, const Site& site, Spill spill_values) {
    BasicBlock* check = at->getParent()->splitBasicBlock(at->getIterator(), "check");
    BasicBlock* proceed = check->splitBasicBlock(at->getIterator(), "proceed");
    check->getTerminator()->eraseFromParent();
    BasicBlock* cold = BasicBlock::Create(abi_.llvm, "cold", &function_);
    BasicBlock* spill = BasicBlock::Create(abi_.llvm, "spill", &function_);

    IRBuilder<> b(check);
    BasicBlock* usual = UsualAfter(proceed);
    if (llvm::isa<llvm::UnreachableInst>(usual->front())) {
      b.CreateBr(cold);  // The callee never returns but to be captured, or with an exception.
    } else {
      b.CreateCondBr(b.CreateICmpNE(LoadState(b), b.getInt32(0)), cold, usual,
                     HardlyEver(abi_.llvm));
      if (usual != proceed) {
        for (llvm::PHINode& phi : usual->phis()) phi.addIncoming(phi.getIncomingValueForBlock(proceed), check);
      }
    }
    b.SetInsertPoint(cold);
    CallInst* poll = b.CreateCall(abi_.OpaqueBuiltin(Builtin::kPoll), {context_});
    poll->setCallingConv(llvm::CallingConv::PreserveAll);
    Value* unwinding = b.CreateAnd(LoadState(b), b.getInt32(abi::kUnwinding));
    b.CreateCondBr(b.CreateICmpNE(unwinding, b.getInt32(0)), spill, proceed);

    b.SetInsertPoint(spill);
    Value* frame = abi_.LoadField(b, context_, abi_.ptr, offsetof(abi::Context, capture_top));
    spill_values(b, frame);
    const std::uint64_t padded = PaddedPayload(site);
    b.CreateAlignedStore(b.getInt64(std::uint64_t(number) << 32 | index_), b.CreateConstGEP1_64(abi_.i8, frame, padded),
                         llvm::Align(8));
    b.CreateAlignedStore(b.CreateConstGEP1_64(abi_.i8, frame, padded + 8),
                         abi_.FieldAddress(b, context_, offsetof(abi::Context, capture_top)), llvm::Align(8));
    b.CreateBr(ReturnBlock());
    return {check, proceed};
  }

 private:
  // Where code goes on from `proceed` if there is no exception: one test answers that too.
  static BasicBlock* UsualAfter(BasicBlock* proceed) {
    auto* asks = llvm::dyn_cast<CallInst>(&proceed->front());
    if (!asks || !asks->getCalledFunction() || asks->getCalledFunction()->getName() != "gw.threw") return proceed;
    auto* branch = llvm::dyn_cast<llvm::BranchInst>(asks->getNextNode());
    return branch && branch->isConditional() && branch->getCondition() == asks ? branch->getSuccessor(1) : proceed;
  }
  Value* LoadState(IRBuilder<>& b) {
    llvm::LoadInst* state = b.CreateAlignedLoad(abi_.i32, context_, llvm::Align(8));
    state->setVolatile(true);
    return state;
  }
  // All captured frames of a function leave by one block; the value they return is never used.
  BasicBlock* ReturnBlock() {
    if (!return_) return_ = MakeLeavingBlock(abi_, function_, "captured");
    return return_;
  }

  AbiIr& abi_;
  Function& function_;
  std::uint32_t index_;
  Value *context_, *memory_;
  BasicBlock* return_ = nullptr;
};

// Makes a function's resume clone. Every live value gets a stack slot that all its uses read, the entry switch
// fills the slots and jumps behind the safepoint, and promoting the slots again leaves SSA repair to LLVM.
class CloneBuilder {
 public:
  // `frame`: the original's memory frame, or null.
  CloneBuilder(AbiIr& abi, Function& original, std::uint32_t index, const std::vector<Site>& sites,
               const MemoryFrame* frame)
      : abi_(abi), sites_(sites), index_(index), frame_(frame) {
    clone_ = Function::Create(abi.ResumeType(original.getReturnType()), llvm::GlobalValue::ExternalLinkage,
                              ResumeName(index), abi.module);
    clone_->setVisibility(llvm::GlobalValue::HiddenVisibility);
    clone_->setDSOLocal(true);
    entry_ = BasicBlock::Create(abi.llvm, "resume", clone_);
    IRBuilder<> b(entry_);
    map_[original.getArg(0)] = clone_->getArg(0);
    map_[original.getArg(1)] = clone_->getArg(1);
    for (unsigned i = 2; i < original.arg_size(); ++i) {
      // Stands for the parameter until its slot does.
      Value* none = llvm::PoisonValue::get(original.getArg(i)->getType());
      map_[original.getArg(i)] = b.CreateFreeze(none);
    }
    llvm::SmallVector<llvm::ReturnInst*, 8> returns;
    llvm::CloneFunctionInto(clone_, &original, map_, llvm::CloneFunctionChangeType::LocalChangesOnly, returns);
    clone_->setCallingConv(llvm::CallingConv::C);
    clone_->setAttributes({});
    clone_->setDoesNotThrow();
    for (unsigned i : {0u, 1u}) clone_->addParamAttr(i, llvm::Attribute::NoAlias);
    clone_->setSection(".text.unlikely.");
    for (Instruction& instruction : llvm::instructions(*clone_)) {  // It has another shape than those it would jump to.
      if (auto* call = llvm::dyn_cast<CallInst>(&instruction); call && call->isMustTailCall()) call->setTailCallKind(CallInst::TCK_None);
    }
  }

  void Build() {
    Value *context = clone_->getArg(0), *memory = clone_->getArg(1);
    if (frame_) {
      frame_slot_ = llvm::cast<AllocaInst>(Mapped(frame_->slot()));
      frame_slot_->moveBefore(*entry_, entry_->begin());
    }
    Instrumenter instrumenter(abi_, *clone_, index_);
    std::vector<Instrumenter::Blocks> blocks;
    for (std::uint32_t i = 0; i < sites_.size(); ++i) {
      const Site& site = sites_[i];
      auto spill = [&](IRBuilder<>& b, Value* frame) {
        if (frame_) return frame_->CopyOut(b, frame_slot_, site.roots, frame);
        FrameLayout layout;
        for (Value* root : site.roots) layout.Spill(abi_, b, frame, Mapped(root), context, memory);
      };
      blocks.push_back(instrumenter.Insert(llvm::cast<Instruction>(Mapped(site.at)), i, site, spill));
    }
    if (!frame_) MakeSlots();  // After the checks: what they spill and what follows them must read the slots.
    MakeEntry(blocks);
    llvm::EliminateUnreachableBlocks(*clone_);
    std::vector<AllocaInst*> slots;
    for (auto& [value, slot] : slots_) slots.push_back(slot);
    llvm::DominatorTree dominators(*clone_);
    llvm::PromoteMemToReg(slots, dominators);
  }

 private:
  Value* Mapped(Value* value) const { return map_.lookup(value); }

  void MakeSlots() {
    llvm::SetVector<Value*> values;
    for (const Site& site : sites_) {
      for (Value* root : site.roots) values.insert(Mapped(root));
      for (Instruction* derived : site.derived) values.insert(Mapped(derived));
      if (site.call && !site.call->use_empty()) values.insert(Mapped(site.call));
    }
    IRBuilder<> at_entry(entry_, entry_->begin());
    for (Value* value : values) slots_[value] = at_entry.CreateAlloca(value->getType());
    for (Value* value : values) {
      AllocaInst* slot = slots_[value];
      llvm::SmallVector<llvm::Use*, 16> uses;
      for (llvm::Use& use : value->uses()) uses.push_back(&use);
      llvm::DenseMap<BasicBlock*, Value*> at_block_end;  // Phi operands from one block must be one value.
      for (llvm::Use* use : uses) {
        auto* user = llvm::cast<Instruction>(use->getUser());
        if (auto* phi = llvm::dyn_cast<llvm::PHINode>(user)) {
          BasicBlock* from = phi->getIncomingBlock(*use);
          Value*& loaded = at_block_end[from];
          if (!loaded) loaded = IRBuilder<>(from->getTerminator()).CreateLoad(value->getType(), slot);
          use->set(loaded);
        } else {
          use->set(IRBuilder<>(user).CreateLoad(value->getType(), slot));
        }
      }
      auto* instruction = llvm::cast<Instruction>(value);
      if (instruction->getParent() == entry_) continue;  // A parameter's stand-in: only resuming fills its slot.
      IRBuilder<> after(instruction->getParent(), llvm::isa<llvm::PHINode>(instruction)
                                                      ? instruction->getParent()->getFirstInsertionPt()
                                                      : std::next(instruction->getIterator()));
      after.CreateStore(value, slot);
    }
  }

  void MakeEntry(const std::vector<Instrumenter::Blocks>& blocks) {
    Value *context = clone_->getArg(0), *memory = clone_->getArg(1);
    IRBuilder<> b(entry_);
    Value* top_address = abi_.FieldAddress(b, context, offsetof(abi::Context, resume_top));
    Value* top = b.CreateAlignedLoad(abi_.ptr, top_address, llvm::Align(8));
    Value* number = b.CreateAlignedLoad(abi_.i32, b.CreateConstGEP1_64(abi_.i8, top, -4), llvm::Align(4));
    BasicBlock* impossible = BasicBlock::Create(abi_.llvm, "impossible", clone_);
    IRBuilder<>(impossible).CreateUnreachable();
    llvm::SwitchInst* choose = b.CreateSwitch(number, impossible, static_cast<unsigned>(sites_.size()));
    for (std::uint32_t i = 0; i < sites_.size(); ++i) {
      const Site& site = sites_[i];
      BasicBlock* restore = BasicBlock::Create(abi_.llvm, "restore", clone_);
      choose->addCase(b.getInt32(i), restore);
      IRBuilder<> r(restore);
      Value* frame = r.CreateConstGEP1_64(abi_.i8, top, -static_cast<std::int64_t>(PaddedPayload(site) + 8));
      r.CreateAlignedStore(frame, top_address, llvm::Align(8));
      if (frame_) {
        frame_->CopyIn(r, frame_slot_, site.roots, frame);
      } else {
        RestoreToSlots(r, site, frame);
      }
      if (site.call) {
        // The callee was captured too if frames are left: its clone takes its place.
        Value* base = abi_.LoadField(r, context, abi_.ptr, offsetof(abi::Context, frames_base));
        BasicBlock* inner = BasicBlock::Create(abi_.llvm, "inner", clone_);
        r.CreateCondBr(r.CreateICmpEQ(frame, base), blocks[i].proceed, inner);
        r.SetInsertPoint(inner);
        Value* code = r.CreateCall(abi_.OpaqueBuiltin(Builtin::kNextResume), {context});
        llvm::Type* type = site.call->getType();
        Value* inner_context = abi_.LoadField(r, context, abi_.context_ptr, offsetof(abi::Context, resume_context));
        Value* inner_memory = abi_.LoadField(r, context, abi_.memory_ptr, offsetof(abi::Context, resume_memory));
        Value* result = r.CreateCall(abi_.ResumeType(type), code, {inner_context, inner_memory});
        if (frame_ && frame_->Holds(site.call)) {
          frame_->Write(r, frame_slot_, site.call, result, context, memory);
        } else if (auto slot = slots_.find(Mapped(site.call)); slot != slots_.end()) {
          r.CreateStore(result, slot->second);
        }
        r.CreateBr(blocks[i].check);
      } else {
        r.CreateBr(blocks[i].proceed);
      }
    }
  }

  void RestoreToSlots(IRBuilder<>& r, const Site& site, Value* frame) {
    FrameLayout layout;
    llvm::DenseMap<Value*, Value*> restored;
    for (Value* root : site.roots) {
      Value* value = layout.Restore(abi_, r, frame, root->getType(), clone_->getArg(0), clone_->getArg(1));
      restored[root] = value;
      r.CreateStore(value, slots_[Mapped(root)]);
    }
    for (Instruction* derived : site.derived) {
      Instruction* copy = derived->clone();
      copy->dropUnknownNonDebugMetadata();
      copy->setDebugLoc({});  // It names a place in the original.
      for (llvm::Use& operand : copy->operands()) {
        if (auto found = restored.find(operand.get()); found != restored.end()) {
          operand.set(found->second);
        } else if (Value* mapped = map_.lookup(operand.get())) {
          operand.set(mapped);  // Context or memory.
        }
      }
      r.Insert(copy);
      restored[derived] = copy;
      r.CreateStore(copy, slots_[Mapped(derived)]);
    }
  }

  AbiIr& abi_;
  const std::vector<Site>& sites_;
  std::uint32_t index_;
  const MemoryFrame* frame_;
  AllocaInst* frame_slot_ = nullptr;
  Function* clone_;
  BasicBlock* entry_;
  llvm::ValueToValueMapTy map_;
  llvm::MapVector<Value*, AllocaInst*> slots_;
};

}  // namespace

void StripInferredFacts(AbiIr& abi) {
  llvm::LLVMContext& llvm = abi.llvm;
  llvm::AttributeList plain = llvm::AttributeList().addFnAttribute(llvm, llvm::Attribute::NoUnwind);
  llvm::AttributeList guest = plain.addParamAttribute(llvm, 0, llvm::Attribute::NoAlias)
                                  .addParamAttribute(llvm, 1, llvm::Attribute::NoAlias);
  for (Function& function : abi.module) {
    if (function.isIntrinsic()) continue;
    const bool returns = !function.doesNotReturn() || IsGuestName(function.getName());
    const bool is_guest = IsGuestName(function.getName()) || function.getName().starts_with("resume.");
    function.setAttributes(is_guest ? guest : plain);
    if (!returns) function.setDoesNotReturn();
    for (Instruction& instruction : llvm::instructions(function)) {
      auto* call = llvm::dyn_cast<CallInst>(&instruction);
      if (!call || (call->getCalledFunction() && call->getCalledFunction()->isIntrinsic())) continue;
      const bool apart = call->hasFnAttr(llvm::Attribute::NoMerge);  // Its place tells where a trap happened.
      call->setAttributes(plain);
      if (apart) call->addFnAttr(llvm::Attribute::NoMerge);
      call->dropUnknownNonDebugMetadata();
    }
  }
}

namespace {

Status CheckHoldable(const Function& function, const Site& site) {
  for (Value* root : site.roots) {
    if (FrameLayout::CanHold(root->getType())) continue;
    std::string text;
    llvm::raw_string_ostream(text) << *root;
    return Internal(function.getName().str() + ": a live value cannot be kept in a frame:" + text);
  }
  return {};
}

// Moves the sites' values to a memory frame; each site's place becomes an anchor of its own.
MemoryFrame UseMemoryFrame(AbiIr& abi, Function& function, std::vector<Site>& sites) {
  std::vector<Instruction*> anchors;
  llvm::SetVector<Value*> roots;
  llvm::SetVector<Instruction*> derived;
  for (Site& site : sites) {
    BasicBlock* block = site.at->getParent();
    if (&block->front() != site.at) block = block->splitBasicBlock(site.at->getIterator(), "site");
    site.at = IRBuilder<>(block, block->begin()).CreateIntrinsic(llvm::Intrinsic::donothing, {}, {});
    anchors.push_back(site.at);
    roots.insert(site.roots.begin(), site.roots.end());
    derived.insert(site.derived.begin(), site.derived.end());
  }
  // What has a place is read from there, so every safepoint where it is live must restore it.
  for (Site& site : sites) {
    for (Instruction* value : site.derived) {
      if (roots.contains(value)) site.roots.push_back(value);
    }
  }
  // In order of definition, so that operands come before what is recomputed from them.
  std::vector<Instruction*> always_derived;
  for (Instruction& instruction : llvm::instructions(function)) {
    if (derived.contains(&instruction) && !roots.contains(&instruction)) always_derived.push_back(&instruction);
  }
  return MemoryFrame(abi, function, roots.getArrayRef().vec(), always_derived, anchors);
}

}  // namespace

void RestoreContextArguments(AbiIr& abi) {
  for (Function& function : abi.module) {
    if (!IsGuestName(function.getName())) continue;
    for (Instruction& instruction : llvm::instructions(function)) {
      auto* call = llvm::dyn_cast<CallInst>(&instruction);
      if (!call || !call->getCalledFunction() || call->getCalledFunction()->isIntrinsic() || !call->arg_size()) continue;
      if (call->getArgOperand(0)->getType() != abi.context_ptr) continue;
      call->setArgOperand(0, function.getArg(0));
      if (call->arg_size() > 1 && call->getArgOperand(1)->getType() == abi.memory_ptr) {
        call->setArgOperand(1, function.getArg(1));
      }
    }
  }
}

// A way that ends in a call that never returns is hardly ever gone; behind its safepoint, LLVM does not see that it ends.
void WeighEnds(AbiIr& abi, Function& function) {
  for (BasicBlock& block : function) {
    auto* branch = llvm::dyn_cast<llvm::BranchInst>(block.getTerminator());
    if (!branch || !branch->isConditional() || branch->hasMetadata(llvm::LLVMContext::MD_prof)) continue;
    auto ends = [&](unsigned way) { return llvm::isa<llvm::UnreachableInst>(branch->getSuccessor(way)->getTerminator()); };
    if (ends(0) == ends(1)) continue;
    branch->setMetadata(llvm::LLVMContext::MD_prof, HardlyEver(abi.llvm, ends(0) ? 0 : 1));
  }
}

Result<std::vector<FunctionSafepoints>> InsertSafepoints(AbiIr& abi) {
  StripInferredFacts(abi);
  for (Function& function : abi.module) WeighEnds(abi, function);
  std::vector<FunctionSafepoints> result;
  for (StopSites& found : FindStopSites(abi, LoopCare::kFull)) {
    Function& function = *found.function;
    const auto index = static_cast<std::uint32_t>(std::stoul(function.getName().substr(5).str()));
    Liveness liveness(function);
    std::vector<Site> sites;
    auto add = [&](SafepointKind kind, Instruction* at, CallInst* call) {
      Site& site = sites.emplace_back(Site{kind, at, call, {}, {}});
      ChooseRoots(liveness.LiveBefore(at), function.getArg(0), function.getArg(1), site);
    };
    for (Instruction* poll : found.polls) add(SafepointKind::kLoop, poll, nullptr);
    for (CallInst* call : found.calls) add(SafepointKind::kCall, call->getNextNode(), call);
    for (const Site& site : sites) GODWIT_TRY(CheckHoldable(function, site));

    std::size_t roots = 0;
    for (const Site& site : sites) roots += site.roots.size();
    std::optional<MemoryFrame> memory_frame;
    if (roots > kInlineRootsMax) memory_frame.emplace(UseMemoryFrame(abi, function, sites));

    CloneBuilder(abi, function, index, sites, memory_frame ? &*memory_frame : nullptr).Build();
    FunctionSafepoints& records = result.emplace_back(FunctionSafepoints{index, {}});
    Instrumenter instrumenter(abi, function, index);
    for (std::uint32_t i = 0; i < sites.size(); ++i) {
      const Site& site = sites[i];
      auto spill = [&](IRBuilder<>& b, Value* frame) {
        if (memory_frame) return memory_frame->CopyOut(b, memory_frame->slot(), site.roots, frame);
        FrameLayout layout;
        for (Value* root : site.roots) layout.Spill(abi, b, frame, root, function.getArg(0), function.getArg(1));
      };
      instrumenter.Insert(site.at, i, site, spill);
      records.safepoints.push_back(RecordOf(site));
    }
    SeparateEarlyReturns(function, found.calls);
  }
  return result;
}

}  // namespace godwit::compiler
