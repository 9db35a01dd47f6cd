#include "compiler/exceptions.h"

#include <llvm/IR/InstIterator.h>
#include <llvm/Transforms/Utils/BasicBlockUtils.h>

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::CallInst;
using llvm::IRBuilder;
using llvm::Value;

class Lowerer {
 public:
  Lowerer(AbiIr& abi, llvm::Function& function) : abi_(abi), function_(function) {}

  void Run() {
    std::vector<llvm::InvokeInst*> invokes;
    std::vector<CallInst*> calls;
    std::vector<llvm::LandingPadInst*> pads;
    for (llvm::Instruction& instruction : llvm::instructions(function_)) {
      if (auto* invoke = llvm::dyn_cast<llvm::InvokeInst>(&instruction)) invokes.push_back(invoke);
      if (auto* pad = llvm::dyn_cast<llvm::LandingPadInst>(&instruction)) pads.push_back(pad);
      auto* call = llvm::dyn_cast<CallInst>(&instruction);
      if (!call || call->doesNotThrow() || call->isMustTailCall()) continue;
      if (call->getCalledFunction() && call->getCalledFunction()->isIntrinsic()) continue;
      if (!IsFollowedByReturn(*call)) calls.push_back(call);
    }
    for (CallInst* call : calls) AskAfter(*call);
    for (llvm::InvokeInst* invoke : invokes) Replace(*invoke);
    for (llvm::LandingPadInst* pad : pads) {
      pad->replaceAllUsesWith(llvm::PoisonValue::get(pad->getType()));
      pad->eraseFromParent();
    }
    function_.setPersonalityFn(nullptr);
    llvm::EliminateUnreachableBlocks(function_);
  }

 private:
  bool Throws(const llvm::CallBase& call) const {
    return call.getCalledFunction() && call.getCalledFunction()->getName() == "gw.throw";
  }
  Value* Threw(IRBuilder<>& b) {
    return b.CreateCall(abi_.Opaque("gw.threw", llvm::FunctionType::get(abi_.i1, {abi_.context_ptr}, false)), {function_.getArg(0)});
  }

  // A call outside every try: an exception leaves the function.
  void AskAfter(CallInst& call) {
    BasicBlock* block = call.getParent();
    BasicBlock* next = block->splitBasicBlock(std::next(call.getIterator()), "");
    block->getTerminator()->eraseFromParent();
    IRBuilder<> b(block);
    if (Throws(call)) {
      b.CreateBr(Leave());  // What follows is unreachable.
    } else {
      b.CreateCondBr(Threw(b), Leave(), next, HardlyEver(abi_.llvm));
    }
  }

  void Replace(llvm::InvokeInst& invoke) {
    BasicBlock *block = invoke.getParent(), *normal = invoke.getNormalDest(), *landing = invoke.getUnwindDest();
    IRBuilder<> b(&invoke);
    std::vector<Value*> arguments(invoke.arg_begin(), invoke.arg_end());
    CallInst* call = b.CreateCall(invoke.getFunctionType(), invoke.getCalledOperand(), arguments);
    call->setCallingConv(invoke.getCallingConv());
    call->setAttributes(invoke.getAttributes());
    call->setDebugLoc(invoke.getDebugLoc());
    invoke.replaceAllUsesWith(call);
    if (invoke.doesNotThrow()) {
      landing->removePredecessor(block);
      b.CreateBr(normal);
    } else if (Throws(invoke)) {
      normal->removePredecessor(block);
      b.CreateBr(landing);
    } else {
      b.CreateCondBr(Threw(b), landing, normal, HardlyEver(abi_.llvm));
    }
    invoke.eraseFromParent();
  }

  // Returns to a caller who will ask too.
  BasicBlock* Leave() {
    if (!leave_) leave_ = MakeLeavingBlock(abi_, function_, "thrown");
    return leave_;
  }

  AbiIr& abi_;
  llvm::Function& function_;
  BasicBlock* leave_ = nullptr;
};

}  // namespace

void LowerExceptions(AbiIr& abi) {
  if (!abi.exceptions) return;
  std::vector<llvm::Function*> functions;
  for (llvm::Function& function : abi.module) {
    if (!function.isDeclaration() && IsGuestName(function.getName())) functions.push_back(&function);
  }
  for (llvm::Function* function : functions) Lowerer(abi, *function).Run();
  if (llvm::Function* thrower = abi.module.getFunction("gw.throw")) {
    thrower->removeFnAttr(llvm::Attribute::NoReturn);
    for (llvm::User* user : thrower->users()) llvm::cast<CallInst>(user)->removeFnAttr(llvm::Attribute::NoReturn);
  }
  if (llvm::Function* personality = abi.module.getFunction("gw.personality")) personality->eraseFromParent();
}

}  // namespace godwit::compiler
