#include "runtime/guest_fixture.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "package/package.h"

namespace godwit::runtime::test {
namespace {

namespace fs = std::filesystem;

constexpr std::uint8_t kIrHashByte = 0xab;

TestHost& HostOf(abi::Context* context) { return *static_cast<TestHost*>(Instance::Of(context).host("test")); }

std::int32_t Double(abi::Context*, std::uint8_t*, std::int32_t x) { return 2 * x; }

std::int32_t Wait(abi::Context* context, std::uint8_t*, std::int32_t x) {
  TestHost& host = HostOf(context);
  ++host.attempts;
  while (!host.ready) {
    if (Instance::Of(context).Block({}) == Instance::Wait::kInterrupted) {
      Instance::Of(context).Restart();
      return -1;
    }
  }
  ++host.waits;
  return 100 + x;
}

void Fail(abi::Context* context, std::uint8_t*) {
  Instance::Of(context).RaiseTrap(abi::TrapCode::kHostFailure, "the disk is on fire");
}

void Exit(abi::Context* context, std::uint8_t*, std::int32_t code) {
  Instance::Of(context).Exit(static_cast<std::uint32_t>(code));
}

// Uses 16 KiB of stack, as a host function that formats a message may.
void Deep(abi::Context*, std::uint8_t*, std::int32_t x) {
  volatile char buffer[16 * 1024];
  for (std::size_t i = 0; i < sizeof buffer; i += 512) buffer[i] = static_cast<char>(x);
}

template <typename T>
abi::Code AsCode(T* function) { return reinterpret_cast<abi::Code>(function); }

}  // namespace

std::optional<HostFunction> TestHost::Find(std::string_view function) const {
  if (function == "double") return HostFunction{AsCode(&Double), "i:i"};
  if (function == "wait") return HostFunction{AsCode(&Wait), "i:i"};
  if (function == "fail") return HostFunction{AsCode(&Fail), ":"};
  if (function == "exit") return HostFunction{AsCode(&Exit), "i:"};
  if (function == "deep") return HostFunction{AsCode(&Deep), "i:"};
  return std::nullopt;
}

Result<Bytes> TestHost::Save() const {
  if (!can_move) return FailedPrecondition("a handle is pinned here");
  return Bytes{static_cast<std::uint8_t>(waits)};
}

Status TestHost::Load(ByteView state) {
  if (state.size() != 1) return Corrupt("its state has a wrong size");
  waits = state[0];
  return {};
}

Bytes CompileGuest() {
  const char* compiler = std::getenv("CXX_FOR_GUEST");
  const char* source = std::getenv("GODWIT_SOURCE_DIR");
  const fs::path root = source != nullptr ? source : fs::path(__FILE__).parent_path().parent_path().parent_path();
  const fs::path image = fs::temp_directory_path() / ("godwit-guest-" + std::to_string(getpid()) + ".so");
  const std::string command =
      std::string(compiler != nullptr ? compiler : "clang++-19") +
      " -std=c++20 -O1 -fPIC -shared -nostdlib -fno-exceptions -fno-rtti -fno-stack-protector -fvisibility=hidden"
      " -fno-asynchronous-unwind-tables -fno-optimize-sibling-calls -fno-builtin -Wl,-e,godwit_image -Wl,--build-id=none"
      " -I" + (root / "src").string() + " -o " + image.string() + " " +
      (root / "src/runtime/testdata/guest.cc").string();
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  std::ifstream file(image, std::ios::binary);
  Bytes bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  fs::remove(image);
  return bytes;
}

Bytes DescribeGuest() {
  using namespace godwit::fbs;
  flatbuffers::FlatBufferBuilder b;
  using Types = std::vector<ValueType>;
  constexpr ValueType i = ValueType::i32, l = ValueType::i64;
  std::vector<flatbuffers::Offset<FunctionType>> types;
  const auto type = [&](const Types& params, const Types& results) {
    types.push_back(CreateFunctionTypeDirect(b, &params, &results));
  };
  type({i}, {i});
  type({}, {});
  type({i}, {});
  type({l}, {l});
  type({i, i}, {i});
  type({i, i, i}, {});

  std::vector<flatbuffers::Offset<Import>> imports;
  const auto import = [&](const char* name, std::uint32_t type_index) {
    imports.push_back(CreateImportDirect(b, "test", name, ExternKind::function, type_index));
  };
  import("double", 0);
  import("wait", 0);
  import("fail", 1);
  import("exit", 2);
  import("deep", 2);

  struct Described {
    const char* name;
    std::uint32_t type;
    std::vector<std::uint32_t> payloads;
    bool pointer;
  };
  const Described described[kFunctionCount] = {
      {"", 0, {}, false},          {"", 0, {4, 4}, false},      {"", 1, {}, false},           {"", 2, {}, false},
      {"", 2, {}, false},          {"sum", 3, {24}, false},     {"sum_twice", 3, {16, 16}, false}, {"load", 0, {}, false},
      {"recurse", 0, {}, false},   {"divide", 4, {}, false},    {"wait_sum", 0, {16, 16}, false}, {"fill", 4, {16}, true},
      {"unreachable", 1, {}, false}, {"grow", 0, {}, false},    {"fail", 1, {}, false},       {"exit", 2, {}, false},
      {"call_indirect", 4, {}, false}, {"on_stack", 0, {4}, false}, {"recurse_into_host", 1, {}, false}, {"init", 5, {}, false},
      {"table_ops", 4, {}, false}, {"spin", 1, {8}, false},     {"registers", 3, {}, false},  {"depth", 0, {16, 16}, false},
  };
  std::vector<fbs::Function> functions;
  std::vector<fbs::Safepoint> safepoints;
  std::vector<flatbuffers::Offset<flatbuffers::String>> names;
  std::vector<flatbuffers::Offset<Export>> exports;
  for (std::uint32_t index = 0; index < kFunctionCount; ++index) {
    functions.emplace_back(described[index].type, static_cast<std::uint32_t>(safepoints.size()));
    for (std::uint32_t payload : described[index].payloads) {
      safepoints.emplace_back(payload, std::uint8_t{0}, 0u, described[index].pointer ? 1u : 0u);
    }
    names.push_back(b.CreateString(described[index].name));
    if (described[index].name[0] != 0) {
      exports.push_back(CreateExportDirect(b, described[index].name, ExternKind::function, index));
    }
  }
  functions.emplace_back(0u, static_cast<std::uint32_t>(safepoints.size()));

  const Init stack_pointer(InitKind::constant, 0, kStackPointer, 0);
  const Init function_reference(InitKind::ref_func, kDouble, 0, 0);
  std::vector<flatbuffers::Offset<Global>> globals = {
      CreateGlobal(b, ValueType::i32, true, &stack_pointer),
      CreateGlobal(b, ValueType::funcref, false, &function_reference),
  };
  const Init data_offset(InitKind::constant, 0, kDataOffset, 0);
  const auto data_bytes = [&](std::string_view text) {
    return b.CreateVector(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
  };
  const auto active = data_bytes(kActiveData);
  const auto passive = data_bytes(kPassiveData);
  std::vector<flatbuffers::Offset<fbs::DataSegment>> data = {
      CreateDataSegment(b, SegmentMode::active, 0, &data_offset, active),
      CreateDataSegment(b, SegmentMode::passive, 0, nullptr, passive),
  };
  const Init one(InitKind::constant, 0, 1, 0);
  // Table 0: null, double, unreachable (another type), null.
  const std::vector<Init> items = {Init(InitKind::ref_func, kDouble, 0, 0), Init(InitKind::ref_func, kUnreachable, 0, 0)};
  std::vector<flatbuffers::Offset<ElementSegment>> elements = {
      CreateElementSegmentDirect(b, SegmentMode::active, 0, &one, &items)};
  std::vector<flatbuffers::Offset<fbs::TableType>> tables = {CreateTableType(b, ValueType::funcref, 4, 8, true)};
  std::vector<flatbuffers::Offset<fbs::Memory>> memories = {CreateMemory(b, kMemoryPages, kMemoryPagesMax, true)};
  const std::vector<std::uint8_t> ir_hash(32, kIrHashByte);
  const std::vector<std::uint32_t> pointer_offsets = {0};

  const auto ir_hash_bytes = b.CreateVector(ir_hash);
  const auto wasm_digest = b.CreateString(package::Sha256Digest(AsBytes("not wasm")));
  const auto name = b.CreateString("guest");
  const auto types_v = b.CreateVector(types);
  const auto imports_v = b.CreateVector(imports);
  const auto functions_v = b.CreateVectorOfStructs(functions);
  const auto names_v = b.CreateVector(names);
  const auto safepoints_v = b.CreateVectorOfStructs(safepoints);
  const auto pointers_v = b.CreateVector(pointer_offsets);
  const auto tables_v = b.CreateVector(tables);
  const auto memories_v = b.CreateVector(memories);
  const auto globals_v = b.CreateVector(globals);
  const auto exports_v = b.CreateVector(exports);
  const auto data_v = b.CreateVector(data);
  const auto elements_v = b.CreateVector(elements);
  const auto expressions_v = b.CreateVectorOfStructs(std::vector<Init>());
  const auto tags_v = b.CreateVector(std::vector<flatbuffers::Offset<fbs::Tag>>());
  ModuleBuilder module(b);
  module.add_abi_version(abi::kAbiVersion);
  module.add_ir_hash(ir_hash_bytes);
  module.add_wasm_digest(wasm_digest);
  module.add_name(name);
  module.add_safepoints_enabled(true);
  module.add_types(types_v);
  module.add_imports(imports_v);
  module.add_imported_functions(5);
  module.add_functions(functions_v);
  module.add_function_names(names_v);
  module.add_safepoints(safepoints_v);
  module.add_pointer_offsets(pointers_v);
  module.add_tables(tables_v);
  module.add_memories(memories_v);
  module.add_globals(globals_v);
  module.add_exports(exports_v);
  module.add_data(data_v);
  module.add_elements(elements_v);
  module.add_expressions(expressions_v);
  module.add_tags(tags_v);
  b.Finish(module.Finish(), ModuleIdentifier());
  return {b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize()};
}

std::shared_ptr<const LoadedModule> LoadGuest() {
  static const std::shared_ptr<const LoadedModule> loaded = [] {
    const fs::path folder = fs::temp_directory_path() / ("godwit-guest-" + std::to_string(getpid()) + ".gwp");
    package::Contents contents;
    contents.name = "guest";
    const ByteView wasm = AsBytes("not wasm");
    contents.wasm.assign(wasm.begin(), wasm.end());
    contents.module = DescribeGuest();
    contents.images[package::HostIsa()] = CompileGuest();
    const auto written = package::WritePackage(folder, contents);
    EXPECT_TRUE(written.ok()) << written.error().message;
    auto package = package::Package::Open(folder);
    EXPECT_TRUE(package.ok()) << package.error().message;
    auto module = LoadedModule::Load(std::move(package).value());
    EXPECT_TRUE(module.ok()) << module.error().message;
    fs::remove_all(folder);
    return std::move(module).value();
  }();
  return loaded;
}

}  // namespace godwit::runtime::test
