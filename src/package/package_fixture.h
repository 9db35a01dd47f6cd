// A package for tests.
#pragma once

#include "package/native_abi.h"
#include "package/package.h"

namespace godwit::package {

// A small valid description whose parts tests can spoil one at a time.
struct Description {
  std::uint32_t abi_version = abi::kAbiVersion;
  std::size_t hash_bytes = 32;
  Bytes wasm{0, 'a', 's', 'm', 1, 0, 0, 0};
  std::uint32_t imported_functions = 1;
  std::uint32_t import_type = 0, function_type = 1;
  std::vector<std::uint8_t> params{0, 1};
  std::vector<std::uint32_t> safepoint_begins{0, 0, 2};
  std::vector<std::string> names{"", "main"};
  std::uint32_t payload = 16, pointers_end = 1, pointer = 8;
  std::uint64_t memory_minimum = 1, memory_maximum = 2;
  std::uint32_t memories = 1;
  std::uint32_t export_index = 1, start = 1;
  std::uint32_t data_memory = 0, element_table = 0, element_function = 1, global_init = 0, tag_type = 1;
  // 1 + 2, the global's initialiser if `expression_steps` is not 0.
  std::vector<fbs::Init> expressions{{fbs::InitKind::constant, 0, 1, 0}, {fbs::InitKind::constant, 0, 2, 0}, {fbs::InitKind::i32_add, 0, 0, 0}};
  std::uint64_t expression_steps = 0;
  bool with_elements = true;

  Bytes Build() const {
    flatbuffers::FlatBufferBuilder b;
    std::vector<flatbuffers::Offset<fbs::FunctionType>> types;
    for (const auto& list : {std::vector<std::uint8_t>{}, params}) {
      auto value_types = [&](const std::vector<std::uint8_t>& values) {  // Also values that are no ValueType.
        return flatbuffers::Offset<flatbuffers::Vector<fbs::ValueType>>(b.CreateVector(values).o);
      };
      const auto parameters = value_types(list), results = value_types({});
      types.push_back(fbs::CreateFunctionType(b, parameters, results));
    }
    std::vector<flatbuffers::Offset<fbs::Import>> imports{
        fbs::CreateImportDirect(b, "env", "f", fbs::ExternKind::function, import_type)};
    std::vector<fbs::Function> functions;
    for (std::size_t i = 0; i < safepoint_begins.size(); ++i) {
      functions.emplace_back(i == 1 ? function_type : 0, safepoint_begins[i]);
    }
    const std::vector<fbs::Safepoint> safepoints{{payload, 0, 0, pointers_end}, {0, 0, pointers_end, pointers_end}};
    const std::vector<std::uint32_t> pointers{pointer};
    const std::vector<flatbuffers::Offset<fbs::TableType>> tables{
        fbs::CreateTableType(b, fbs::ValueType::funcref, 1, 1, true)};
    std::vector<flatbuffers::Offset<fbs::Memory>> memory_list;
    for (std::uint32_t i = 0; i < memories; ++i) {
      memory_list.push_back(fbs::CreateMemory(b, memory_minimum, memory_maximum, true));
    }
    const fbs::Init zero(fbs::InitKind::constant, 0, 0, 0);
    fbs::Init init(global_init ? fbs::InitKind::global_get : fbs::InitKind::constant, global_init, 0, 0);
    if (expression_steps != 0) init = fbs::Init(fbs::InitKind::expression, 0, expression_steps, 0);
    const std::vector<flatbuffers::Offset<fbs::Global>> globals{
        fbs::CreateGlobal(b, fbs::ValueType::i32, true, &init)};
    const std::vector<flatbuffers::Offset<fbs::Export>> exports{
        fbs::CreateExportDirect(b, "_start", fbs::ExternKind::function, export_index)};
    const Bytes data{1, 2, 3};
    const std::vector<flatbuffers::Offset<fbs::DataSegment>> segments{
        fbs::CreateDataSegmentDirect(b, fbs::SegmentMode::active, data_memory, &zero, &data)};
    const std::vector<fbs::Init> items{{fbs::InitKind::ref_func, element_function, 0, 0}};
    const std::vector<flatbuffers::Offset<fbs::ElementSegment>> elements{
        fbs::CreateElementSegmentDirect(b, fbs::SegmentMode::active, element_table, &zero, &items)};
    const auto hash = b.CreateVector(Bytes(hash_bytes, 7));
    const auto digest = b.CreateString(Sha256Digest(wasm));
    const auto name = b.CreateString("sample");
    const auto types_at = b.CreateVector(types);
    const auto imports_at = b.CreateVector(imports);
    const auto functions_at = b.CreateVectorOfStructs(functions);
    const auto names_at = b.CreateVectorOfStrings(names);
    const auto safepoints_at = b.CreateVectorOfStructs(safepoints);
    const auto pointers_at = b.CreateVector(pointers);
    const auto tables_at = b.CreateVector(tables);
    const auto memories_at = b.CreateVector(memory_list);
    const auto globals_at = b.CreateVector(globals);
    const auto exports_at = b.CreateVector(exports);
    const auto data_at = b.CreateVector(segments);
    flatbuffers::Offset<flatbuffers::Vector<flatbuffers::Offset<fbs::ElementSegment>>> elements_at;
    if (with_elements) elements_at = b.CreateVector(elements);
    const auto expressions_at = b.CreateVectorOfStructs(expressions);
    const auto tags_at = b.CreateVector(std::vector{fbs::CreateTag(b, tag_type)});
    fbs::FinishModuleBuffer(
        b, fbs::CreateModule(b, abi_version, hash, digest, name, true, types_at, imports_at, imported_functions,
                             functions_at, names_at, safepoints_at, pointers_at, tables_at, memories_at, globals_at,
                             exports_at, true, start, data_at, elements_at, expressions_at, tags_at));
    return Bytes(b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize());
  }
};

inline Contents SampleContents() {
  const Description description;
  Contents contents;
  contents.name = "sample";
  contents.wasm = description.wasm;
  contents.module = description.Build();
  contents.images[Isa::kX86_64] = Bytes(5000, 0x86);
  contents.images[Isa::kAarch64] = Bytes(6000, 0xa6);
  return contents;
}

}  // namespace godwit::package
