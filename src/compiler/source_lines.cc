#include "compiler/source_lines.h"

#include <llvm/DebugInfo/DWARF/DWARFContext.h>
#include <llvm/Object/Wasm.h>

#include <algorithm>
#include <optional>

namespace godwit::compiler {

SourceLines::SourceLines(const wasm::Module& module) {
  const llvm::StringRef bytes(reinterpret_cast<const char*>(module.binary.data()), module.binary.size());
  if (!bytes.contains(".debug_line")) return;
  auto object = llvm::object::ObjectFile::createWasmObjectFile(llvm::MemoryBufferRef(bytes, "module"));
  if (!object) {
    llvm::consumeError(object.takeError());
    return;
  }
  std::uint64_t code_bytes = 0;
  for (const llvm::object::SectionRef& section : (*object)->sections()) {
    const llvm::object::WasmSection& wasm = (*object)->getWasmSection(section);
    if (wasm.Type != llvm::wasm::WASM_SEC_CODE) continue;
    code_begin_ = wasm.Offset;
    code_bytes = wasm.Content.size();
  }
  auto ignore = [](llvm::Error error) { llvm::consumeError(std::move(error)); };
  const auto dwarf = llvm::DWARFContext::create(**object, llvm::DWARFContext::ProcessDebugRelocations::Ignore, nullptr, "",
                                                ignore, ignore);
  std::map<std::string, std::uint32_t> numbers;
  for (const auto& unit : dwarf->compile_units()) {
    const auto* table = dwarf->getLineTableForUnit(unit.get());
    if (!table) continue;
    std::map<std::uint64_t, std::optional<std::uint32_t>> named;  // Files of this unit.
    auto file = [&](std::uint64_t index) -> std::optional<std::uint32_t> {
      auto [known, fresh] = named.try_emplace(index);
      if (!fresh) return known->second;
      std::string name;
      if (!table->getFileNameByIndex(index, "", llvm::DILineInfoSpecifier::FileLineInfoKind::RelativeFilePath, name)) return {};
      const auto [number, is_new] = numbers.try_emplace(name, static_cast<std::uint32_t>(files_.size()));
      if (is_new) files_.push_back(name);
      return known->second = number->second;
    };
    for (const auto& row : table->Rows) {
      if (row.Address.Address >= code_bytes) continue;  // Of a function that the linker dropped.
      const auto number = row.EndSequence ? std::nullopt : file(row.File);
      rows_.push_back({row.Address.Address, {number.value_or(0), number ? row.Line : 0}});
    }
    if (rows_.size() > kSourceRowsMax || files_.size() > kSourceFilesMax) {
      rows_.clear();
      return;
    }
  }
  // Where one sequence ends another may begin: what begins counts.
  std::stable_sort(rows_.begin(), rows_.end(), [](const Row& a, const Row& b) {
    return a.address != b.address ? a.address < b.address : (a.place.line == 0) > (b.place.line == 0);
  });
}

const SourceLines::Place* SourceLines::At(std::size_t offset) const {
  if (offset < code_begin_) return nullptr;
  auto after = std::upper_bound(rows_.begin(), rows_.end(), offset - code_begin_,
                                [](std::uint64_t at, const Row& row) { return at < row.address; });
  if (after == rows_.begin() || (--after)->place.line == 0) return nullptr;
  return &after->place;
}

SourceScope::SourceScope(llvm::Module& module, const SourceLines& lines)
    : llvm_(module.getContext()), lines_(lines), builder_(module), unknown_(builder_.createFile("unknown", "")) {
  builder_.createCompileUnit(llvm::dwarf::DW_LANG_C, unknown_, "godwit", true, "", 0, "",
                             llvm::DICompileUnit::DebugEmissionKind::LineTablesOnly);
  module.addModuleFlag(llvm::Module::Warning, "Debug Info Version", llvm::DEBUG_METADATA_VERSION);
  module.addModuleFlag(llvm::Module::Warning, "Dwarf Version", 4);
}

void SourceScope::Begin(llvm::Function& function) {
  auto* type = builder_.createSubroutineType(builder_.getOrCreateTypeArray({}));
  function_ = builder_.createFunction(unknown_, function.getName(), function.getName(), unknown_, 0, type, 0,
                                      llvm::DINode::FlagZero, llvm::DISubprogram::SPFlagDefinition | llvm::DISubprogram::SPFlagOptimized);
  function.setSubprogram(function_);
  scopes_.clear();
}

llvm::DIFile* SourceScope::File(std::uint32_t index) {
  llvm::DIFile*& file = files_[index];
  if (!file) file = builder_.createFile(lines_.files()[index], "");
  return file;
}

llvm::DebugLoc SourceScope::At(std::size_t end) {
  const SourceLines::Place* place = end == 0 ? nullptr : lines_.At(end - 1);
  if (!place) return llvm::DILocation::get(llvm_, 0, 0, function_);
  llvm::DIScope*& scope = scopes_[place->file];
  if (!scope) scope = builder_.createLexicalBlockFile(function_, File(place->file));
  return llvm::DILocation::get(llvm_, place->line, 0, scope);
}

}  // namespace godwit::compiler
