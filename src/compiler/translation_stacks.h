// The operand stack and the control stack of the specification's validation algorithm while a function is translated: each
// operand is an LLVM value, each label LLVM blocks. With them what needs both: branches, calls, exceptions.
#pragma once

#include <wabt/expr-visitor.h>

#include <string>
#include <vector>

#include "compiler/function_builder.h"

namespace godwit::compiler {

// Everything is emitted at the insertion point of the function's builder. After an unconditional transfer there is none, until
// the construct ends: what follows is dead code and must not be emitted.
class TranslationStacks {
 protected:
  using BasicBlock = llvm::BasicBlock;
  using PHINode = llvm::PHINode;
  using Value = llvm::Value;

  // A construct of structured control flow that a branch can name.
  struct Label {
    enum class Kind { kFunction, kBlock, kLoop, kIf, kTry } kind;
    BasicBlock* target = nullptr;     // Where a branch to it goes: the loop's header, else the end.
    BasicBlock* end = nullptr;        // Where falling out of it goes.
    BasicBlock* otherwise = nullptr;  // kIf: the else branch, until it is begun.
    std::vector<PHINode*> target_phis;
    std::vector<PHINode*> end_phis;   // The construct's results.
    std::vector<Value*> parameters;   // kIf: needed again by the else branch.
    std::size_t height = 0;           // Of the value stack below the construct's parameters.
    bool entered_unreachable = false; // The whole construct is dead code: it is skipped.
    const wabt::TryExpr* attempt = nullptr;  // kTry.
    bool in_body = false;                    // kTry: before its first catch.
    BasicBlock* landing = nullptr;           // kTry: where exceptions of its body arrive, once something may throw one.
    std::vector<BasicBlock*> handlers;       // kTry: of its catches, if there is a landing.
    Value* caught_tag = nullptr;             // kTry: of the exception that is being handled,
    std::vector<Value*> caught;              // and its values: the tag's, or all cells in a catch_all.
  };

  // `f` must outlive this.
  TranslationStacks(const wasm::Module& module, const wabt::Func& func, FunctionBuilder& f)
      : module_(module), func_(func), f_(f), b_(f.b), abi_(f.abi) {}

  void Push(Value* value) { stack_.push_back(value); }
  Value* Pop();
  std::vector<Value*> PopMany(std::size_t n);

  // --- Reachability: after an unconditional transfer there is no insertion block until the construct ends ---
  bool Dead() const { return b_.GetInsertBlock() == nullptr; }
  void BecomeDead() { b_.ClearInsertionPoint(); }

  std::vector<PHINode*> MakePhis(BasicBlock* block, const wabt::TypeVector& types);
  // Adds the top of the stack as what `phis` get from the present block; does not pop.
  void FeedPhis(const std::vector<PHINode*>& phis);

  // Opens a construct, whose parameters are on the operand stack, and closes the innermost one: its results are on the stack
  // after it, if its end can be reached.
  Label& BeginLabel(Label::Kind kind, const wabt::Block& block);
  void EndLabel();
  // Returns the function's results, which are on the stack.
  void EmitReturn();
  Label& Target(wabt::Index depth) { return labels_[labels_.size() - 1 - depth]; }
  void Branch(wabt::Index depth);

  // Of a global of this instance.
  Value* GlobalAddress(wabt::Index index);

  // A defined function that makes tail calls is called where its body is.
  llvm::Function* Callee(wabt::Index index);
  // PREFIX.TABLE.TYPE(context, memory, parameters..., element index)
  llvm::Function* IndirectCallee(const std::string& prefix, const wabt::Var& table, const wabt::FuncDeclaration& declaration);
  // Context, memory, the signature's parameters from the stack, and `last`, if any.
  std::vector<Value*> CallArguments(const wabt::FuncSignature& sig, Value* last);
  // A call whose exceptions arrive at the handler here.
  llvm::CallBase* CreateCall(llvm::Function* callee, llvm::ArrayRef<Value*> arguments);
  // Calls with the signature's parameters from the stack (then `last`, if any) and pushes the results.
  void EmitCall(llvm::Function* callee, const wabt::FuncSignature& sig, Value* last);
  // A callee of another convention makes no tail calls itself: it is called like any other, and what stays of this
  // function stays only meanwhile.
  void EmitTailCall(llvm::Function* callee, const wabt::FuncSignature& sig, Value* last);

  const wabt::FuncSignature& TagType(wabt::Index tag) const { return module_.ir->tags[tag]->decl.sig; }
  Value* TagNumber(wabt::Index tag);
  // How many cells the module's exceptions take; sets their type, which holds any value of them.
  unsigned ExceptionCells();
  Value* CellAddress(unsigned cell);
  // Volatile: cells do not outlive a stop, so that no call may come between them and the catch or throw, whatever the
  // optimiser knows of it.
  Value* LoadCell(unsigned cell, llvm::Type* type);
  void StoreCells(const std::vector<Value*>& values);
  // Throws what the cells hold, and ends the block.
  void EmitThrow(Value* tag);
  // Where an exception arrives that is thrown inside the innermost `depth` constructs; null: at the caller.
  BasicBlock* LandingFrom(std::size_t depth);
  // Finds the handler of what arrives at the landing of `label`, which is the innermost one.
  void EmitLanding(Label& label);

  const wasm::Module& module_;
  const wabt::Func& func_;
  FunctionBuilder& f_;
  llvm::IRBuilder<>& b_;
  AbiIr& abi_;
  std::vector<Value*> stack_;
  std::vector<Label> labels_;
  llvm::Type* cell_type_ = nullptr;  // Of a caught exception's values in a catch_all.
  bool lands_ = false;               // Some landing was made.
};

}  // namespace godwit::compiler
