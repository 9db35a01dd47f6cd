#include "compiler/early_returns.h"

#include <gtest/gtest.h>
#include <llvm/AsmParser/Parser.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/SourceMgr.h>

namespace godwit::compiler {
namespace {

// How many returns the function "f" of this text has afterwards.
std::size_t ReturnsAfter(const std::string& text) {
  llvm::LLVMContext context;
  llvm::SMDiagnostic diagnostic;
  const auto module = llvm::parseAssemblyString("declare i32 @stops(i32)\ndeclare i32 @plain(i32)\n" + text, diagnostic, context);
  EXPECT_TRUE(module) << diagnostic.getMessage().str();
  if (!module) return 0;
  llvm::Function& function = *module->getFunction("f");
  std::vector<llvm::CallInst*> calls;
  for (llvm::Instruction& instruction : llvm::instructions(function)) {
    auto* call = llvm::dyn_cast<llvm::CallInst>(&instruction);
    if (call && call->getCalledFunction()->getName() == "stops") calls.push_back(call);
  }
  SeparateEarlyReturns(function, calls);
  EXPECT_FALSE(llvm::verifyFunction(function, &llvm::errs()));
  std::size_t returns = 0;
  for (const llvm::BasicBlock& block : function) returns += llvm::isa<llvm::ReturnInst>(block.getTerminator());
  return returns;
}

TEST(EarlyReturnsTest, AWayPastNoCallGetsAReturnOfItsOwn) {
  EXPECT_EQ(ReturnsAfter(R"(define i32 @f(i32 %n) {
entry:
  %small = icmp ult i32 %n, 2
  br i1 %small, label %end, label %loop
loop:
  %m = phi i32 [ %n, %entry ], [ %less, %loop ]
  %sum = phi i32 [ 0, %entry ], [ %more, %loop ]
  %found = call i32 @stops(i32 %m)
  %more = add i32 %sum, %found
  %less = sub i32 %m, 2
  %go = icmp ugt i32 %less, 1
  br i1 %go, label %loop, label %end
end:
  %a = phi i32 [ 0, %entry ], [ %more, %loop ]
  %b = phi i32 [ %n, %entry ], [ %less, %loop ]
  %all = add i32 %a, %b
  ret i32 %all
})"), 1u) << "the loop begins in the entry, which all ways lead through";
  EXPECT_EQ(ReturnsAfter(R"(define i32 @f(i32 %n) {
entry:
  %small = icmp ult i32 %n, 2
  br i1 %small, label %end, label %begin
begin:
  %odd = icmp eq i32 %n, 77
  br i1 %odd, label %end, label %calls
calls:
  %found = call i32 @stops(i32 %n)
  br label %end
end:
  %a = phi i32 [ 0, %entry ], [ 1, %begin ], [ %found, %calls ]
  ret i32 %a
})"), 2u);
}

TEST(EarlyReturnsTest, ALoopsOwnEndIsNotEarly) {
  EXPECT_EQ(ReturnsAfter(R"(define i32 @f(i32 %n) {
entry:
  br label %head
head:
  %m = phi i32 [ %n, %entry ], [ %less, %body ]
  %done = icmp eq i32 %m, 0
  br i1 %done, label %end, label %body
body:
  %less = call i32 @stops(i32 %m)
  %ends = icmp eq i32 %less, 5
  br i1 %ends, label %end, label %head
end:
  %r = phi i32 [ 0, %head ], [ %less, %body ]
  ret i32 %r
})"), 1u);
}

TEST(EarlyReturnsTest, AReturnWithACallIsNotMadeTwice) {
  EXPECT_EQ(ReturnsAfter(R"(define i32 @f(i32 %n) {
entry:
  %small = icmp ult i32 %n, 2
  br i1 %small, label %end, label %calls
calls:
  %found = call i32 @stops(i32 %n)
  br label %end
end:
  %a = phi i32 [ 0, %entry ], [ %found, %calls ]
  %b = call i32 @plain(i32 %a)
  ret i32 %b
})"), 1u);
}

}  // namespace
}  // namespace godwit::compiler
