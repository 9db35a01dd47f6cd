#include "compiler/line_table.h"

#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/Object/ELFObjectFile.h>

#include <algorithm>
#include <map>

namespace godwit::compiler {

using llvm::Constant;
using llvm::ConstantExpr;
using llvm::ConstantInt;

Status NativeLines::Add(ByteView object) {
  const llvm::StringRef bytes(reinterpret_cast<const char*>(object.data()), object.size());
  auto file = llvm::object::ObjectFile::createELFObjectFile(llvm::MemoryBufferRef(bytes, "object"));
  if (!file) return Internal("reading back an object: " + llvm::toString(file.takeError()));

  using Place = std::pair<std::uint64_t, std::uint64_t>;  // Section, offset in it.
  std::map<Place, PartLines> found;
  for (const llvm::object::SymbolRef& symbol : (*file)->symbols()) {
    auto name = symbol.getName();
    auto section = symbol.getSection();
    auto address = symbol.getAddress();
    if (!name || !section || !address) {
      llvm::consumeError(name.takeError());
      llvm::consumeError(section.takeError());
      llvm::consumeError(address.takeError());
      continue;
    }
    if (*section == (*file)->section_end() || !(IsGuestName(*name) || name->starts_with("resume."))) continue;
    PartLines& part = found[{(*section)->getIndex(), *address}];
    part.symbol = name->str();
    part.function = static_cast<std::uint32_t>(std::stoul(part.symbol.substr(part.symbol.find('.') + 1)));
  }

  std::map<std::string, std::uint32_t> numbers;
  for (std::uint32_t i = 0; i < files.size(); ++i) numbers[files[i]] = i;
  const auto dwarf = llvm::DWARFContext::create(**file);
  for (const auto& unit : dwarf->compile_units()) {
    const auto* table = dwarf->getLineTableForUnit(unit.get());
    if (!table) continue;
    for (const auto& row : table->Rows) {
      const Place at{row.Address.SectionIndex, row.Address.Address};
      auto part = found.upper_bound(at);
      if (row.EndSequence || part == found.begin() || (--part)->first.first != at.first) continue;
      std::uint32_t number = 0;
      std::string name;
      if (row.Line != 0 && table->getFileNameByIndex(row.File, "", llvm::DILineInfoSpecifier::FileLineInfoKind::RelativeFilePath, name)) {
        const auto [known, fresh] = numbers.try_emplace(name, static_cast<std::uint32_t>(files.size()));
        if (fresh) files.push_back(name);
        number = known->second;
      }
      const auto offset = static_cast<std::uint32_t>(at.second - part->first.second);
      std::vector<PartLines::Row>& rows = part->second.rows;
      if (!rows.empty() && rows.back().offset == offset) rows.pop_back();
      if (rows.empty() || rows.back().file != number || rows.back().line != row.Line) rows.push_back({offset, number, row.Line});
    }
  }
  for (auto& [place, part] : found) {
    if (!part.rows.empty() || IsColdPart(part.symbol)) parts.push_back(std::move(part));
  }
  return {};
}

void DefineLineTable(const NativeLines& lines, AbiIr& abi) {
  std::string strings;
  std::vector<std::uint32_t> starts;
  for (const std::string& file : lines.files) {
    starts.push_back(static_cast<std::uint32_t>(strings.size()));
    strings += file;
    strings += '\0';
  }
  auto number = [&](std::size_t value) { return ConstantInt::get(abi.i32, value); };
  // The variable's type has to be known before its initialiser, which refers to it.
  std::vector<llvm::Type*> types{abi.i32, abi.i32, abi.i32};
  for (const PartLines& part : lines.parts) {
    types.insert(types.end(), {abi.i32, abi.i32, abi.i32, llvm::ArrayType::get(abi.i32, 3 * part.rows.size())});
  }
  types.push_back(llvm::ArrayType::get(abi.i8, strings.size()));
  auto* type = llvm::StructType::get(abi.llvm, types, true);
  auto* table = new llvm::GlobalVariable(abi.module, type, true, llvm::GlobalValue::ExternalLinkage, nullptr, kLinesSymbol);
  table->setVisibility(llvm::GlobalValue::HiddenVisibility);
  table->setDSOLocal(true);
  table->setAlignment(llvm::Align(4));
  std::size_t words = 3;
  for (const PartLines& part : lines.parts) words += 3 + 3 * part.rows.size();
  std::vector<Constant*> values{number(lines.parts.size()), number(4 * words), number(strings.size())};
  for (const PartLines& part : lines.parts) {
    auto* code = llvm::Function::Create(llvm::FunctionType::get(abi.void_, false), llvm::GlobalValue::ExternalLinkage, part.symbol, abi.module);
    code->setVisibility(llvm::GlobalValue::HiddenVisibility);
    code->setDSOLocal(true);
    Constant* distance = ConstantExpr::getSub(ConstantExpr::getPtrToInt(code, abi.i64), ConstantExpr::getPtrToInt(table, abi.i64));
    values.push_back(ConstantExpr::getTrunc(distance, abi.i32));
    values.push_back(number(part.function));
    values.push_back(number(part.rows.size()));
    std::vector<std::uint32_t> rows;
    for (const PartLines::Row& row : part.rows) rows.insert(rows.end(), {row.offset, row.line != 0 ? starts[row.file] : 0, row.line});
    values.push_back(llvm::ConstantDataArray::get(abi.llvm, rows));
  }
  values.push_back(llvm::ConstantDataArray::getString(abi.llvm, strings, false));
  table->setInitializer(llvm::ConstantStruct::get(type, values));
}

}  // namespace godwit::compiler
