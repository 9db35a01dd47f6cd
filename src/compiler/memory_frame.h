// Memory frames: for functions with so many safepoints and live values that spilling them inline at each would
// make the code many times larger (interpreters, printf).
//
// Every value that a frame must hold gets a fixed place in one stack slot, in its frame form, where it is written
// when it is defined and read where it is used in another block. Then nothing but context and memory is live in a
// register across a safepoint: a stop copies the live places out by a table, and the resume clone needs no SSA repair.
#pragma once

#include <map>

#include "compiler/frame_layout.h"

namespace godwit::compiler {

// The frame of one function.
class MemoryFrame {
 public:
  // `roots` are the values that some safepoint stores; `derived` those that are always recomputed, in order of
  // dependence. Rewrites the function: afterwards no use of either is outside its block, except through the
  // frame. `anchors` are the safepoints: instructions at the beginning of their blocks, before which nothing is put.
  MemoryFrame(AbiIr& abi, llvm::Function& function, const std::vector<llvm::Value*>& roots,
              const std::vector<llvm::Instruction*>& derived, const std::vector<llvm::Instruction*>& anchors);

  llvm::AllocaInst* slot() const { return slot_; }
  // Writes `value` to the place of `root` in `slot` (the function's, or its clone's).
  void Write(llvm::IRBuilderBase& b, llvm::Value* slot, llvm::Value* root, llvm::Value* value, llvm::Value* context,
             llvm::Value* memory) const;
  bool Holds(llvm::Value* root) const { return offsets_.contains(root); }
  // Copies the places of `roots`, packed, to or from `frame`. The payload equals what FrameLayout makes of them.
  void CopyOut(llvm::IRBuilderBase& b, llvm::Value* slot, const std::vector<llvm::Value*>& roots, llvm::Value* frame) const;
  void CopyIn(llvm::IRBuilderBase& b, llvm::Value* slot, const std::vector<llvm::Value*>& roots, llvm::Value* frame) const;
  // Where `roots` have their places, as the functions that copy them read it.
  std::vector<std::uint32_t> Places(const std::vector<llvm::Value*>& roots) const;

 private:
  void Copy(bool out, llvm::IRBuilderBase& b, llvm::Value* slot, const std::vector<llvm::Value*>& roots,
            llvm::Value* frame) const;
  AbiIr& abi_;
  llvm::AllocaInst* slot_;
  std::map<llvm::Value*, std::uint32_t> offsets_;
};

// void frame.out|in(packed, slot, places): copies what is in these places (MemoryFrame::Places) to or from packed bytes.
// Internal to the module; made at first use.
llvm::Function* FrameCopy(AbiIr& abi, bool out);

}  // namespace godwit::compiler
