#include "compiler/count_from_zero.h"

#include <gtest/gtest.h>
#include <llvm/AsmParser/Parser.h>
#include <llvm/IR/Constants.h>
#include <llvm/IR/InstIterator.h>
#include <llvm/IR/Instructions.h>
#include <llvm/IR/LLVMContext.h>
#include <llvm/IR/Module.h>
#include <llvm/IR/Verifier.h>
#include <llvm/Support/SourceMgr.h>

#include <optional>
#include <string>

namespace godwit::compiler {
namespace {

// A loop whose counter begins at `start` (of the parameter %n) and takes steps of `step` until it is 0.
std::unique_ptr<llvm::Module> Loop(llvm::LLVMContext& context, const std::string& begin, const std::string& start, const std::string& step) {
  const std::string text = "define void @f(ptr %p, i32 %n) {\nentry:\n" + begin + "  br label %loop\nloop:\n  %i = phi i32 [ " + start +
                           ", %entry ], [ %next, %loop ]\n  %at = getelementptr i8, ptr %p, i32 %i\n  store i32 %i, ptr %at\n  %next = add i32 %i, " +
                           step + "\n  %on = icmp ne i32 %next, 0\n  br i1 %on, label %loop, label %end\nend:\n  ret void\n}\n";
  llvm::SMDiagnostic error;
  auto module = llvm::parseAssemblyString(text, error, context);
  EXPECT_TRUE(module) << error.getMessage().str();
  llvm::FunctionAnalysisManager analyses;
  CountFromZeroPass().run(*module->getFunction("f"), analyses);
  EXPECT_FALSE(llvm::verifyModule(*module));
  return module;
}

// The value that the loop's counter begins with, if it is a constant.
std::optional<std::int64_t> Start(const llvm::Module& module) {
  for (const llvm::Instruction& instruction : llvm::instructions(*module.getFunction("f"))) {
    auto* phi = llvm::dyn_cast<llvm::PHINode>(&instruction);
    if (!phi) continue;
    auto* constant = llvm::dyn_cast<llvm::ConstantInt>(phi->getIncomingValue(0));
    return constant ? std::optional(constant->getSExtValue()) : std::nullopt;
  }
  return {};
}

// What the counter is compared with.
const llvm::Value* Bound(const llvm::Module& module) {
  for (const llvm::Instruction& instruction : llvm::instructions(*module.getFunction("f"))) {
    if (auto* compare = llvm::dyn_cast<llvm::ICmpInst>(&instruction)) return compare->getOperand(1);
  }
  return nullptr;
}

TEST(CountFromZeroTest, ALoopFromMinusNToZeroBecomesOneFromZeroToN) {
  llvm::LLVMContext context;
  const auto module = Loop(context, "", "-80", "8");
  EXPECT_EQ(Start(*module), 0);
  ASSERT_TRUE(llvm::isa<llvm::ConstantInt>(Bound(*module)));
  EXPECT_EQ(llvm::cast<llvm::ConstantInt>(Bound(*module))->getSExtValue(), 80);
}

TEST(CountFromZeroTest, TheStartMayBeTheNegativeOfAValue) {
  llvm::LLVMContext context;
  const auto module = Loop(context, "  %begin = sub i32 0, %n\n", "%begin", "1");
  EXPECT_EQ(Start(*module), 0);
}

TEST(CountFromZeroTest, OtherLoopsStayAsTheyAre) {
  llvm::LLVMContext context;
  EXPECT_EQ(Start(*Loop(context, "", "80", "-8")), 80) << "counts down";
  EXPECT_EQ(Start(*Loop(context, "", "-81", "8")), -81) << "misses zero and goes round";
  EXPECT_EQ(Start(*Loop(context, "", "%n", "8")), std::nullopt) << "nothing known of its start";
}

}  // namespace
}  // namespace godwit::compiler
