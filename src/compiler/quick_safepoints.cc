#include "compiler/quick_safepoints.h"

#include <llvm/ADT/SetVector.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>

#include "compiler/frame_layout.h"
#include "compiler/liveness.h"
#include "compiler/memory_frame.h"
#include "compiler/stop_sites.h"

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::CallInst;
using llvm::Function;
using llvm::Instruction;
using llvm::IRBuilder;
using llvm::Value;

constexpr const char* kStop = "quick.stop";
constexpr const char* kEnter = "quick.enter";
// In what quick.enter returns beside the safepoint's number: frames of callees are left.
constexpr std::uint32_t kInner = 1u << 31;

struct Site {
  SafepointKind kind;
  Instruction* at;           // The safepoint is just before it.
  CallInst* call = nullptr;  // kCall: the call just before `at`.
  std::vector<Value*> values;  // What the frame holds, in order.
};

Function* Shared(AbiIr& abi, const char* name, llvm::FunctionType* type) {
  if (Function* found = abi.module.getFunction(name)) return found;
  auto* function = Function::Create(type, llvm::GlobalValue::ExternalLinkage, name, abi.module);
  function->setVisibility(llvm::GlobalValue::HiddenVisibility);
  function->setDSOLocal(true);
  function->setDoesNotThrow();
  return function;
}

// i1 quick.stop(context, slot, table, number): whether the caller was captured and must return.
Function* StopHelper(AbiIr& abi) {
  auto* type = llvm::FunctionType::get(abi.i1, {abi.context_ptr, abi.ptr, abi.ptr, abi.i32}, false);
  return Shared(abi, kStop, type);
}

// i32 quick.enter(context, slot, table): takes the topmost frame; its safepoint's number and kInner.
Function* EnterHelper(AbiIr& abi) {
  return Shared(abi, kEnter, llvm::FunctionType::get(abi.i32, {abi.context_ptr, abi.ptr, abi.ptr}, false));
}

class QuickFunction {
 public:
  QuickFunction(AbiIr& abi, Function& function, std::uint32_t index, std::vector<Site> sites)
      : abi_(abi), function_(function), index_(index), sites_(std::move(sites)),
        context_(function.getArg(0)), memory_(function.getArg(1)) {}

  FunctionSafepoints Build() {
    BasicBlock* start = function_.getEntryBlock().splitBasicBlock(function_.getEntryBlock().begin(), "start");
    const MemoryFrame frame = MoveToMemory();
    FunctionSafepoints records{index_, {}};
    for (Site& site : sites_) {
      FrameLayout layout;
      for (Value* value : site.values) layout.Skip(value->getType());
      records.safepoints.push_back({site.kind, layout.bytes(), layout.memory_pointers()});
    }
    table_ = MakeTable(frame, records);
    std::vector<Blocks> blocks(sites_.size());
    // The last first: each splits its block, and what comes behind it is moved.
    for (auto i = static_cast<std::uint32_t>(sites_.size()); i-- > 0;) blocks[i] = InsertCheck(frame, i);
    MakeEntry(frame, start, blocks);
    MakeResume();
    return records;
  }

 private:
  struct Blocks {
    BasicBlock* check;
    BasicBlock* proceed;  // After the safepoint.
  };

  MemoryFrame MoveToMemory() {
    std::vector<Instruction*> anchors;
    llvm::SetVector<Value*> values;
    for (Site& site : sites_) {
      BasicBlock* block = site.at->getParent();
      if (&block->front() != site.at) block = block->splitBasicBlock(site.at->getIterator(), "site");
      site.at = IRBuilder<>(block, block->begin()).CreateIntrinsic(llvm::Intrinsic::donothing, {}, {});
      anchors.push_back(site.at);
      values.insert(site.values.begin(), site.values.end());
    }
    return MemoryFrame(abi_, function_, values.getArrayRef().vec(), {}, anchors);
  }

  // The function's index, the place of each safepoint's part in the table, then these parts: the payload's padded
  // size and what MemoryFrame::Places says.
  llvm::GlobalVariable* MakeTable(const MemoryFrame& frame, const FunctionSafepoints& records) {
    std::vector<std::uint32_t> words{index_};
    words.resize(1 + sites_.size());
    for (std::size_t i = 0; i < sites_.size(); ++i) {
      words[1 + i] = static_cast<std::uint32_t>(words.size());
      words.push_back((records.safepoints[i].payload_bytes + 7) / 8 * 8);
      const std::vector<std::uint32_t> places = frame.Places(sites_[i].values);
      words.insert(words.end(), places.begin(), places.end());
    }
    llvm::Constant* data = llvm::ConstantDataArray::get(abi_.llvm, words);
    auto* table = new llvm::GlobalVariable(abi_.module, data->getType(), true, llvm::GlobalValue::PrivateLinkage, data, "frame.table");
    table->setUnnamedAddr(llvm::GlobalValue::UnnamedAddr::Global);
    return table;
  }

  Blocks InsertCheck(const MemoryFrame& frame, std::uint32_t number) {
    Instruction* at = sites_[number].at;
    BasicBlock* check = at->getParent()->splitBasicBlock(at->getIterator(), "check");
    BasicBlock* proceed = check->splitBasicBlock(at->getIterator(), "proceed");
    const bool never_returns = llvm::isa<llvm::UnreachableInst>(at->getNextNode());
    at->eraseFromParent();
    check->getTerminator()->eraseFromParent();
    BasicBlock* cold = BasicBlock::Create(abi_.llvm, "cold", &function_);
    IRBuilder<> b(check);
    if (never_returns) {
      b.CreateBr(cold);
    } else {
      llvm::LoadInst* state = b.CreateAlignedLoad(abi_.i32, context_, llvm::Align(8));
      state->setVolatile(true);
      b.CreateCondBr(b.CreateICmpNE(state, b.getInt32(0)), cold, proceed);
    }
    b.SetInsertPoint(cold);
    Value* captured = b.CreateCall(StopHelper(abi_), {context_, frame.slot(), table_, b.getInt32(number)});
    b.CreateCondBr(captured, ReturnBlock(), proceed);
    return {check, proceed};
  }

  BasicBlock* ReturnBlock() {
    if (!return_) return_ = MakeLeavingBlock(abi_, function_, "captured");
    return return_;
  }

  // Begins with the question whether to begin or to go on.
  void MakeEntry(const MemoryFrame& frame, BasicBlock* start, const std::vector<Blocks>& blocks) {
    BasicBlock* entry = &function_.getEntryBlock();
    BasicBlock* resume = BasicBlock::Create(abi_.llvm, "resume", &function_);
    entry->getTerminator()->eraseFromParent();
    IRBuilder<> b(entry);
    Value* resuming = abi_.LoadField(b, context_, abi_.i32, offsetof(abi::Context, resuming));
    b.CreateCondBr(b.CreateICmpNE(resuming, b.getInt32(0)), resume, start);

    b.SetInsertPoint(resume);
    BasicBlock* impossible = BasicBlock::Create(abi_.llvm, "impossible", &function_);
    IRBuilder<>(impossible).CreateUnreachable();
    Value* word = b.CreateCall(EnterHelper(abi_), {context_, frame.slot(), table_});
    Value* number = b.CreateAnd(word, b.getInt32(kInner - 1));
    BasicBlock* innermost = BasicBlock::Create(abi_.llvm, "innermost", &function_);
    BasicBlock* inner = BasicBlock::Create(abi_.llvm, "inner", &function_);
    b.CreateCondBr(b.CreateICmpSLT(word, b.getInt32(0)), inner, innermost);

    b.SetInsertPoint(innermost);
    llvm::SwitchInst* proceed = b.CreateSwitch(number, impossible, static_cast<unsigned>(sites_.size()));
    for (std::uint32_t i = 0; i < sites_.size(); ++i) proceed->addCase(b.getInt32(i), blocks[i].proceed);
    // The callee was captured too: it goes on in place of the call.
    b.SetInsertPoint(inner);
    Value* code = b.CreateCall(abi_.OpaqueBuiltin(Builtin::kNextResume), {context_});
    llvm::SwitchInst* choose = b.CreateSwitch(number, impossible);
    BasicBlock* without_result = nullptr;
    llvm::SwitchInst* after = nullptr;
    for (std::uint32_t i = 0; i < sites_.size(); ++i) {
      const CallInst* call = sites_[i].call;
      if (!call) continue;
      if (frame.Holds(const_cast<CallInst*>(call))) {
        BasicBlock* block = BasicBlock::Create(abi_.llvm, "callee", &function_);
        IRBuilder<> at(block);
        Value* result = at.CreateCall(abi_.ResumeType(call->getType()), code, {context_, memory_});
        frame.Write(at, frame.slot(), const_cast<CallInst*>(call), result, context_, memory_);
        at.CreateBr(blocks[i].check);
        choose->addCase(b.getInt32(i), block);
        continue;
      }
      // Small results that nobody wants are left in their register.
      const bool in_registers = !call->getType()->isStructTy();
      if (!in_registers) {
        BasicBlock* block = BasicBlock::Create(abi_.llvm, "callee", &function_);
        IRBuilder<> at(block);
        at.CreateCall(abi_.ResumeType(call->getType()), code, {context_, memory_});
        at.CreateBr(blocks[i].check);
        choose->addCase(b.getInt32(i), block);
        continue;
      }
      if (!without_result) {
        without_result = BasicBlock::Create(abi_.llvm, "callee", &function_);
        IRBuilder<> at(without_result);
        at.CreateCall(abi_.ResumeType(abi_.void_), code, {context_, memory_});
        after = at.CreateSwitch(number, impossible);
      }
      choose->addCase(b.getInt32(i), without_result);
      after->addCase(b.getInt32(i), blocks[i].check);
    }
  }

  // What the runtime calls to go on.
  void MakeResume() {
    auto* resume = Function::Create(abi_.ResumeType(function_.getReturnType()), llvm::GlobalValue::ExternalLinkage,
                                    ResumeName(index_), abi_.module);
    resume->setVisibility(llvm::GlobalValue::HiddenVisibility);
    resume->setDSOLocal(true);
    resume->setDoesNotThrow();
    IRBuilder<> b(BasicBlock::Create(abi_.llvm, "entry", resume));
    b.CreateAlignedStore(b.getInt32(1), abi_.FieldAddress(b, resume->getArg(0), offsetof(abi::Context, resuming)), llvm::Align(8));
    std::vector<Value*> arguments{resume->getArg(0), resume->getArg(1)};
    for (unsigned i = 2; i < function_.arg_size(); ++i) {
      arguments.push_back(llvm::Constant::getNullValue(function_.getArg(i)->getType()));
    }
    CallInst* call = b.CreateCall(&function_, arguments);
    call->setCallingConv(function_.getCallingConv());
    if (resume->getReturnType()->isVoidTy()) {
      b.CreateRetVoid();
    } else {
      b.CreateRet(call);
    }
  }

  AbiIr& abi_;
  Function& function_;
  const std::uint32_t index_;
  std::vector<Site> sites_;
  Value *context_, *memory_;
  llvm::GlobalVariable* table_ = nullptr;
  BasicBlock* return_ = nullptr;
};

}  // namespace

Result<std::vector<FunctionSafepoints>> InsertQuickSafepoints(AbiIr& abi) {
  StripInferredFacts(abi);
  std::vector<FunctionSafepoints> result;
  for (StopSites& found : FindStopSites(abi, LoopCare::kQuick)) {
    Function& function = *found.function;
    const Liveness liveness(function);
    std::vector<Site> sites;
    auto add = [&](SafepointKind kind, Instruction* at, CallInst* call) -> Status {
      Site& site = sites.emplace_back(Site{kind, at, call, {}});
      for (Value* value : liveness.LiveBefore(at)) {
        if (value == function.getArg(0) || value == function.getArg(1)) continue;
        if (!FrameLayout::CanHold(value->getType())) {
          std::string text;
          llvm::raw_string_ostream(text) << *value;
          return Internal(function.getName().str() + ": a live value cannot be kept in a frame:" + text);
        }
        site.values.push_back(value);
      }
      return {};
    };
    for (Instruction* poll : found.polls) GODWIT_TRY(add(SafepointKind::kLoop, poll, nullptr));
    for (CallInst* call : found.calls) GODWIT_TRY(add(SafepointKind::kCall, call->getNextNode(), call));
    const auto index = static_cast<std::uint32_t>(std::stoul(function.getName().substr(5).str()));
    result.push_back(QuickFunction(abi, function, index, std::move(sites)).Build());
  }
  return result;
}

void DefineQuickHelpers(AbiIr& abi) {
  // Of a function's table: the part of a safepoint, and in it the payload's padded size.
  auto part_of = [&](IRBuilder<>& b, Value* table, Value* number) {
    Value* word = b.CreateAlignedLoad(abi.i32, b.CreateGEP(abi.i32, table, b.CreateAdd(b.CreateZExt(number, abi.i64), b.getInt64(1))), llvm::Align(4));
    return b.CreateGEP(abi.i32, table, b.CreateZExt(word, abi.i64));
  };
  auto padded_of = [&](IRBuilder<>& b, Value* part) { return b.CreateZExt(b.CreateAlignedLoad(abi.i32, part, llvm::Align(4)), abi.i64); };
  auto places_of = [&](IRBuilder<>& b, Value* part) { return b.CreateConstGEP1_64(abi.i32, part, 1); };
  auto set_field = [&](IRBuilder<>& b, Value* context, std::size_t offset, Value* value) {
    b.CreateAlignedStore(value, abi.FieldAddress(b, context, offset), llvm::Align(8));
  };
  {
    Function* stop = StopHelper(abi);
    Value *context = stop->getArg(0), *slot = stop->getArg(1), *table = stop->getArg(2), *number = stop->getArg(3);
    BasicBlock* capture = BasicBlock::Create(abi.llvm, "capture", stop);
    BasicBlock* go_on = BasicBlock::Create(abi.llvm, "go.on", stop);
    IRBuilder<> b(BasicBlock::Create(abi.llvm, "entry", stop, capture));
    b.CreateCall(abi.OpaqueBuiltin(Builtin::kPoll), {context})->setCallingConv(llvm::CallingConv::PreserveAll);
    llvm::LoadInst* state = b.CreateAlignedLoad(abi.i32, context, llvm::Align(8));
    state->setVolatile(true);
    b.CreateCondBr(b.CreateICmpNE(b.CreateAnd(state, abi::kUnwinding), b.getInt32(0)), capture, go_on);
    IRBuilder<>(go_on).CreateRet(b.getFalse());
    b.SetInsertPoint(capture);
    Value* part = part_of(b, table, number);
    Value* frame = abi.LoadField(b, context, abi.ptr, offsetof(abi::Context, capture_top));
    b.CreateCall(FrameCopy(abi, true), {frame, slot, places_of(b, part)});
    Value* end = b.CreateGEP(abi.i8, frame, padded_of(b, part));
    b.CreateAlignedStore(b.CreateAlignedLoad(abi.i32, table, llvm::Align(4)), end, llvm::Align(4));
    b.CreateAlignedStore(number, b.CreateConstGEP1_64(abi.i8, end, 4), llvm::Align(4));
    set_field(b, context, offsetof(abi::Context, capture_top), b.CreateConstGEP1_64(abi.i8, end, 8));
    b.CreateRet(b.getTrue());
  }
  {
    Function* enter = EnterHelper(abi);
    Value *context = enter->getArg(0), *slot = enter->getArg(1), *table = enter->getArg(2);
    IRBuilder<> b(BasicBlock::Create(abi.llvm, "entry", enter));
    set_field(b, context, offsetof(abi::Context, resuming), b.getInt64(0));
    Value* top = abi.LoadField(b, context, abi.ptr, offsetof(abi::Context, resume_top));
    Value* number = b.CreateAlignedLoad(abi.i32, b.CreateConstGEP1_64(abi.i8, top, -4), llvm::Align(4));
    Value* part = part_of(b, table, number);
    Value* frame = b.CreateGEP(abi.i8, b.CreateConstGEP1_64(abi.i8, top, -8), b.CreateNeg(padded_of(b, part)));
    set_field(b, context, offsetof(abi::Context, resume_top), frame);
    b.CreateCall(FrameCopy(abi, false), {frame, slot, places_of(b, part)});
    Value* base = abi.LoadField(b, context, abi.ptr, offsetof(abi::Context, frames_base));
    b.CreateRet(b.CreateSelect(b.CreateICmpEQ(frame, base), number, b.CreateOr(number, kInner)));
  }
}

}  // namespace godwit::compiler
