#include "compiler/memory_frame.h"

#include <llvm/ADT/DenseMap.h>
#include <llvm/ADT/SmallPtrSet.h>
#include <llvm/ADT/SmallVector.h>

namespace godwit::compiler {
namespace {

using llvm::BasicBlock;
using llvm::Instruction;
using llvm::IRBuilder;
using llvm::Value;

std::uint32_t SizeOf(llvm::Type* type) {
  FrameLayout layout;
  layout.Skip(type);
  return layout.bytes();
}

}  // namespace

MemoryFrame::MemoryFrame(AbiIr& abi, llvm::Function& function, const std::vector<Value*>& roots,
                         const std::vector<Instruction*>& derived, const std::vector<Instruction*>& anchors)
    : abi_(abi) {
  Value *context = function.getArg(0), *memory = function.getArg(1);
  std::uint32_t bytes = 0;
  for (Value* root : roots) {
    const std::uint32_t size = SizeOf(root->getType());
    const std::uint32_t alignment = size >= 16 ? 16 : size >= 8 ? 8 : size >= 4 ? 4 : size;
    bytes = (bytes + alignment - 1) / alignment * alignment;
    offsets_[root] = bytes;
    bytes += size;
  }
  BasicBlock& entry = function.getEntryBlock();
  slot_ = IRBuilder<>(&entry, entry.begin()).CreateAlloca(llvm::ArrayType::get(abi.i8, bytes));
  slot_->setAlignment(llvm::Align(16));

  llvm::SmallPtrSet<Instruction*, 32> anchored(anchors.begin(), anchors.end());
  auto block_start = [&](BasicBlock* block) {
    auto at = block->getFirstInsertionPt();
    while (llvm::isa<llvm::AllocaInst>(*at) || anchored.contains(&*at)) ++at;
    return at;
  };
  // Replaces the uses of `value` in other blocks by what `make` emits once at each such block's beginning.
  auto rewrite = [&](Value* value, auto make) {
    auto* definition = llvm::dyn_cast<Instruction>(value);
    BasicBlock* home = definition ? definition->getParent() : &entry;
    llvm::SmallVector<llvm::Use*, 16> uses;
    for (llvm::Use& use : value->uses()) uses.push_back(&use);
    llvm::DenseMap<BasicBlock*, Value*> made;
    for (llvm::Use* use : uses) {
      auto* user = llvm::cast<Instruction>(use->getUser());
      auto* phi = llvm::dyn_cast<llvm::PHINode>(user);
      BasicBlock* block = phi ? phi->getIncomingBlock(*use) : user->getParent();
      if (block == home) continue;
      Value*& replacement = made[block];
      if (!replacement) {
        IRBuilder<> b(block, block_start(block));
        replacement = make(b);
      }
      use->set(replacement);
    }
  };
  // Users before what they use: recomputing one makes uses of its operands.
  for (auto it = derived.rbegin(); it != derived.rend(); ++it) {
    rewrite(*it, [&](IRBuilder<>& b) -> Value* { return b.Insert((*it)->clone()); });
  }
  for (Value* root : roots) {
    rewrite(root, [&](IRBuilder<>& b) -> Value* {
      FrameLayout layout;
      Value* place = b.CreateConstGEP1_64(abi.i8, slot_, offsets_[root]);
      return layout.Restore(abi, b, place, root->getType(), context, memory);
    });
    auto* definition = llvm::dyn_cast<Instruction>(root);
    BasicBlock::iterator at = !definition                            ? block_start(&entry)
                              : llvm::isa<llvm::PHINode>(definition) ? block_start(definition->getParent())
                                                                     : std::next(definition->getIterator());
    IRBuilder<> b(definition ? definition->getParent() : &entry, at);
    Write(b, slot_, root, root, context, memory);
  }
}

void MemoryFrame::Write(llvm::IRBuilderBase& b, Value* slot, Value* root, Value* value, Value* context,
                        Value* memory) const {
  FrameLayout layout;
  layout.Spill(abi_, b, b.CreateConstGEP1_64(abi_.i8, slot, offsets_.at(root)), value, context, memory);
}

void MemoryFrame::CopyOut(llvm::IRBuilderBase& b, Value* slot, const std::vector<Value*>& roots, Value* frame) const {
  Copy(true, b, slot, roots, frame);
}

void MemoryFrame::CopyIn(llvm::IRBuilderBase& b, Value* slot, const std::vector<Value*>& roots, Value* frame) const {
  Copy(false, b, slot, roots, frame);
}

std::vector<std::uint32_t> MemoryFrame::Places(const std::vector<Value*>& roots) const {
  std::vector<std::uint32_t> places;  // offset << 8 | bytes, ended by 0.
  for (Value* root : roots) {
    std::uint32_t offset = offsets_.at(root), left = SizeOf(root->getType());
    for (; left > 255; left -= 128, offset += 128) places.push_back(offset << 8 | 128);
    places.push_back(offset << 8 | left);
  }
  places.push_back(0);
  return places;
}

void MemoryFrame::Copy(bool out, llvm::IRBuilderBase& b, Value* slot, const std::vector<Value*>& roots, Value* frame) const {
  if (roots.empty()) return;
  const std::vector<std::uint32_t> places = Places(roots);
  llvm::Constant* data = llvm::ConstantDataArray::get(abi_.llvm, places);
  auto* global = new llvm::GlobalVariable(abi_.module, data->getType(), true, llvm::GlobalValue::PrivateLinkage, data, "frame.table");
  global->setUnnamedAddr(llvm::GlobalValue::UnnamedAddr::Global);
  b.CreateCall(FrameCopy(abi_, out), {frame, slot, global});
}

llvm::Function* FrameCopy(AbiIr& abi, bool out) {
  const char* name = out ? "frame.out" : "frame.in";
  if (llvm::Function* found = abi.module.getFunction(name)) return found;
  auto* type = llvm::FunctionType::get(abi.void_, {abi.ptr, abi.ptr, abi.ptr}, false);
  auto* function = llvm::Function::Create(type, llvm::GlobalValue::InternalLinkage, name, abi.module);
  auto block = [&](const char* block_name) { return BasicBlock::Create(abi.llvm, block_name, function); };
  BasicBlock *entry = block("entry"), *next = block("next"), *bytes = block("bytes"), *done = block("done");
  Value *packed0 = function->getArg(0), *slot = function->getArg(1), *table = function->getArg(2);
  IRBuilder<> b(entry);
  b.CreateBr(next);
  b.SetInsertPoint(next);
  llvm::PHINode* packed = b.CreatePHI(abi.ptr, 2);
  llvm::PHINode* item = b.CreatePHI(abi.ptr, 2);
  packed->addIncoming(packed0, entry);
  item->addIncoming(table, entry);
  Value* word = b.CreateAlignedLoad(abi.i32, item, llvm::Align(4));
  Value* size = b.CreateZExt(b.CreateAnd(word, 255), abi.i64);
  Value* place = b.CreateGEP(abi.i8, slot, b.CreateZExt(b.CreateLShr(word, 8), abi.i64));
  b.CreateCondBr(b.CreateICmpEQ(word, b.getInt32(0)), done, bytes);
  b.SetInsertPoint(bytes);
  llvm::PHINode* i = b.CreatePHI(abi.i64, 2);
  i->addIncoming(b.getInt64(0), next);
  Value *in_packed = b.CreateGEP(abi.i8, packed, i), *in_place = b.CreateGEP(abi.i8, place, i);
  b.CreateStore(b.CreateLoad(abi.i8, out ? in_place : in_packed), out ? in_packed : in_place);
  Value* i_next = b.CreateAdd(i, b.getInt64(1));
  i->addIncoming(i_next, bytes);
  packed->addIncoming(b.CreateGEP(abi.i8, packed, size), bytes);
  item->addIncoming(b.CreateConstGEP1_64(abi.i8, item, 4), bytes);
  b.CreateCondBr(b.CreateICmpEQ(i_next, size), next, bytes);
  b.SetInsertPoint(done);
  b.CreateRetVoid();
  return function;
}

}  // namespace godwit::compiler
