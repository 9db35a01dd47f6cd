#include "compiler/image_tables.h"

#include "compiler/line_table.h"
#include "compiler/translate.h"

namespace godwit::compiler {

using llvm::Constant;
using llvm::ConstantExpr;
using llvm::ConstantInt;

void DefineImageTables(const wasm::Module& module, const TypeTable& types, const std::set<std::uint32_t>& with_resume,
                       ByteView ir_hash, bool has_lines, AbiIr& abi) {
  const auto functions = static_cast<std::uint32_t>(module.ir->funcs.size()) + kSyntheticFunctions;
  const auto type_count = static_cast<std::uint32_t>(types.signatures.size());
  for (std::uint32_t i = 0; i < type_count; ++i) DefineEntryThunks(types.signatures[i], i, abi);

  // One flat array of int32, so that every difference to its own address is a link-time constant.
  const std::uint32_t header_words = sizeof(abi::ImageHeader) / 4;
  const std::uint32_t words = header_words + 3 * functions + 2 * type_count;
  auto* array_type = llvm::ArrayType::get(abi.i32, words);
  auto* image = new llvm::GlobalVariable(abi.module, array_type, true, llvm::GlobalValue::ExternalLinkage, nullptr, kImageSymbol);
  image->setVisibility(llvm::GlobalValue::ProtectedVisibility);
  image->setDSOLocal(true);
  image->setAlignment(llvm::Align(16));
  std::vector<Constant*> values;
  auto word = [&](std::uint32_t value) { values.push_back(ConstantInt::get(abi.i32, value)); };
  auto distance_to = [&](llvm::GlobalValue* symbol) {
    Constant* distance = ConstantExpr::getSub(ConstantExpr::getPtrToInt(symbol, abi.i64), ConstantExpr::getPtrToInt(image, abi.i64));
    values.push_back(ConstantExpr::getTrunc(distance, abi.i32));
  };
  auto code = [&](const std::string& name) {
    llvm::Function* function = abi.module.getFunction(name);
    if (!function) {
      function = llvm::Function::Create(llvm::FunctionType::get(abi.void_, false), llvm::GlobalValue::ExternalLinkage, name, abi.module);
      function->setVisibility(llvm::GlobalValue::HiddenVisibility);
      function->setDSOLocal(true);
    }
    distance_to(function);
  };
  std::uint32_t at = sizeof(abi::ImageHeader);
  auto array = [&](std::uint32_t count) {
    word(at);
    at += 4 * count;
  };
  word(abi::kImageMagic);
  word(abi::kAbiVersion);
  for (std::size_t i = 0; i < 32; i += 4) {
    word(std::uint32_t(ir_hash[i]) | std::uint32_t(ir_hash[i + 1]) << 8 | std::uint32_t(ir_hash[i + 2]) << 16 |
         std::uint32_t(ir_hash[i + 3]) << 24);
  }
  word(functions);
  word(type_count);
  array(functions);
  array(functions);
  array(type_count);
  array(type_count);
  if (has_lines) {
    auto* lines = new llvm::GlobalVariable(abi.module, abi.i32, true, llvm::GlobalValue::ExternalLinkage, nullptr, kLinesSymbol);
    lines->setVisibility(llvm::GlobalValue::HiddenVisibility);
    lines->setDSOLocal(true);
    distance_to(lines);
  } else {
    word(0);
  }
  array(functions);
  for (std::uint32_t i = 0; i < functions; ++i) code(GuestName(i));
  for (std::uint32_t i = 0; i < functions; ++i) {
    if (with_resume.contains(i)) {
      code(ResumeName(i));
    } else {
      word(0);
    }
  }
  for (std::uint32_t i = 0; i < type_count; ++i) code("entry." + std::to_string(i));
  for (std::uint32_t i = 0; i < type_count; ++i) code("reentry." + std::to_string(i));
  for (std::uint32_t i = 0; i < functions; ++i) {
    if (i < module.uses.tail_calls.size() && module.uses.tail_calls[i]) {
      code(TailName(i));
    } else {
      word(0);
    }
  }
  GODWIT_CHECK(values.size() == words, "image table layout");
  image->setInitializer(llvm::ConstantArray::get(array_type, values));
}

}  // namespace godwit::compiler
