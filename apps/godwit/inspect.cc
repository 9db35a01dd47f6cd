// godwit inspect: what is in a package or a snapshot.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "package/package.h"
#include "snapshot_file.h"

namespace godwit::cli {
namespace {

using Json = nlohmann::ordered_json;

std::string_view KindName(fbs::ExternKind kind) { return fbs::EnumNameExternKind(kind); }

std::string FunctionName(const fbs::Module* module, std::uint32_t index) {
  if (module && index < module->function_names()->size() && module->function_names()->Get(index)->size() != 0) {
    return module->function_names()->Get(index)->str();
  }
  return "func[" + std::to_string(index) + "]";
}

Json DescribePackage(const package::Package& package) {
  const fbs::Module& module = package.module();
  Json json = {{"kind", "package"},
               {"digest", package.digest()},
               {"name", module.name() ? module.name()->str() : ""},
               {"abi_version", module.abi_version()},
               {"wasm_digest", module.wasm_digest()->str()},
               {"wasm_bytes", package.wasm().size()},
               {"safepoints_enabled", module.safepoints_enabled()},
               {"functions", module.functions()->size() - 1},
               {"safepoints", module.safepoints()->size()}};
  json["images"] = Json::array();
  if (!package.signer().empty()) json["signed_by_key"] = package.signer();
  for (const package::Isa isa : package.isas()) {
    const Result<package::Blob> image = package.image(isa);
    if (!image.ok()) continue;
    json["images"].push_back({{"isa", package::IsaName(isa)}, {"digest", image->digest}, {"bytes", image->bytes.size()}});
  }
  json["memories"] = Json::array();
  for (const fbs::Memory* memory : *module.memories()) {
    Json item = {{"minimum_pages", memory->minimum()}};
    if (memory->has_maximum()) item["maximum_pages"] = memory->maximum();
    json["memories"].push_back(std::move(item));
  }
  json["imports"] = Json::array();
  for (const fbs::Import* import : *module.imports()) {
    json["imports"].push_back({{"module", import->module_()->str()}, {"name", import->name()->str()},
                               {"kind", KindName(import->kind())}});
  }
  json["exports"] = Json::array();
  for (const fbs::Export* item : *module.exports()) {
    json["exports"].push_back({{"name", item->name()->str()}, {"kind", KindName(item->kind())}});
  }
  return json;
}

// The functions of a stack's frames, innermost first. Frames are read from the outermost one's end
// (package/native_abi.h); what does not fit the module's records is left out.
Json DescribeFrames(const Bytes& frames, const fbs::Module* module) {
  Json list = Json::array();
  if (!module) return list;
  std::vector<std::string> names;
  for (std::size_t end = frames.size(); end >= 8;) {
    std::uint32_t words[2];
    std::memcpy(words, frames.data() + end - 8, 8);
    if (words[0] + 1 >= module->functions()->size()) break;
    const std::uint32_t record = module->functions()->Get(words[0])->safepoints_begin() + words[1];
    if (words[1] >= module->safepoints()->size() || record >= module->functions()->Get(words[0] + 1)->safepoints_begin()) break;
    const std::size_t size = (module->safepoints()->Get(record)->payload_bytes() + 7u) / 8 * 8 + 8;
    if (size > end) break;
    names.push_back(FunctionName(module, words[0]));
    end -= size;
  }
  for (auto name = names.rbegin(); name != names.rend(); ++name) list.push_back(*name);
  return list;
}

Json DescribeSnapshot(const SnapshotFile& file, const package::Package* package) {
  const snapshot::Snapshot& s = file.snapshot;
  const fbs::Module* module = package ? &package->module() : nullptr;
  Json json = {{"kind", "snapshot"},
               {"format_version", snapshot::kFormatVersion},
               {"bytes", file.file.bytes.size()},
               {"package", s.package_digest},
               {"carries_package", !s.package.empty()}};
  if (package) {
    json["isas"] = Json::array();
    for (const package::Isa isa : package->isas()) json["isas"].push_back(package::IsaName(isa));
  }
  json["stacks"] = Json::array();
  for (const snapshot::Stack& stack : s.stacks) {
    json["stacks"].push_back({{"id", stack.id}, {"function", FunctionName(module, stack.function)},
                              {"bytes", stack.frames.size()}, {"frames", DescribeFrames(stack.frames, module)}});
  }
  json["memories"] = Json::array();
  for (const snapshot::Memory& memory : s.memories) {
    std::uint64_t pages = 0;
    for (const snapshot::PageRun& run : memory.runs) pages += run.bytes.size() / snapshot::kPageBytes;
    json["memories"].push_back({{"wasm_pages", memory.wasm_pages}, {"changed_pages", pages}});
  }
  json["globals"] = s.globals.size();
  json["tables"] = s.tables.size();
  json["host_states"] = Json::array();
  for (const snapshot::HostState& host : s.host_states) {
    json["host_states"].push_back({{"module", host.module}, {"bytes", host.bytes.size()}});
  }
  return json;
}

bool IsScalar(const Json& value) { return !value.is_object() && !value.is_array(); }
std::string Scalar(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

// One line a property; lists of objects one line an item.
void PrintTable(const Json& json) {
  for (const auto& [key, value] : json.items()) {
    if (IsScalar(value)) {
      std::printf("%-20s %s\n", key.c_str(), Scalar(value).c_str());
      continue;
    }
    if (value.empty()) {
      std::printf("%-20s none\n", key.c_str());
      continue;
    }
    bool first = true;
    for (const Json& item : value) {
      std::string line;
      if (IsScalar(item)) line = Scalar(item);
      else for (const auto& [name, part] : item.items()) {
        if (!IsScalar(part) && part.empty()) continue;
        std::string text = IsScalar(part) ? Scalar(part) : "";
        if (!IsScalar(part)) for (const Json& each : part) text += (text.empty() ? "" : " < ") + Scalar(each);
        line += (line.empty() ? "" : "  ") + name + "=" + text;
      }
      std::printf("%-20s %s\n", first ? key.c_str() : "", line.c_str());
      first = false;
    }
  }
}

Result<int> Inspect(const std::string& path, const Session& session) {
  Json json;
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    GODWIT_ASSIGN(const auto package, package::Package::Open(path));
    if (const Status status = package->CheckBlobs(); !status.ok()) return status.error().Within(path);
    json = DescribePackage(*package);
  } else {
    GODWIT_ASSIGN(const SnapshotFile file, ReadSnapshotFile(path));
    GODWIT_ASSIGN(const auto package, CarriedPackage(file));
    json = DescribeSnapshot(file, package.get());
  }
  if (session.json()) {
    std::printf("%s\n", json.dump(2, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    PrintTable(json);
  }
  return kExitDone;
}

}  // namespace

void AddInspectCommand(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("inspect", "Show what is in a package or a snapshot");
  auto path = std::make_shared<std::string>();
  sub->add_option("path", *path, "Package folder or snapshot file")->required();
  sub->footer("Every digest and hash is checked.\nExamples:\n  godwit inspect hello.gwp\n  godwit inspect s -o json");
  sub->callback([path, &session] { session.action = [path, &session] { return Inspect(*path, session); }; });
}

}  // namespace godwit::cli
