#include "compiler/partition.h"

#include "package/package.h"

namespace godwit::compiler {
namespace {

// FNV-1a with a last mixing step: where to cut is no secret, it must only be spread well.
std::uint64_t Spread(ByteView bytes) {
  std::uint64_t hash = 0xcbf29ce484222325;
  for (const std::uint8_t byte : bytes) hash = (hash ^ byte) * 0x100000001b3;
  hash ^= hash >> 32;
  return hash * 0x9e3779b97f4a7c15;
}

bool EndsBehind(ByteView body, std::uint64_t partition_bytes) {
  if (partition_bytes < kPartitionBytesMin) return false;
  if (partition_bytes >= kPartitionBytesMax || body.size() >= kPartitionBytesMin) return true;
  return Spread(body) >> 32 < (std::uint64_t{body.size()} << 32) / kPartitionBytesMin;
}

// Whether code depends on the section beyond the functions themselves.
bool Declares(std::uint8_t section) {
  switch (section) {
    case 0:   // Custom.
    case 7:   // Exports: all code is hidden.
    case 8:   // Start.
    case 9:   // Elements.
    case 10:  // Code.
    case 11:  // Data.
      return false;
    default: return true;
  }
}

}  // namespace

std::vector<Partition> Divide(const wasm::Module& module, const std::string& settings) {
  const ByteView binary = module.binary;
  std::string declarations = settings + "\n";
  for (const wasm::Module::Section& section : module.sections) {
    if (!Declares(section.id)) continue;
    declarations += std::to_string(section.id) + " " + package::Sha256Digest(binary.subspan(section.offset, section.bytes)) + "\n";
  }
  const std::uint32_t imports = module.ir->num_func_imports;
  const auto count = static_cast<std::uint32_t>(module.ir->funcs.size());
  std::vector<Partition> partitions{{imports, imports, 0, {}}};
  std::size_t at = module.first_body, begin = at;
  bool ended = false;
  auto finish = [&] {
    Partition& partition = partitions.back();
    partition.key = package::Sha256Digest(AsBytes(declarations + std::to_string(partition.first) + " " +
                                                  package::Sha256Digest(binary.subspan(begin, at - begin))));
  };
  for (std::uint32_t i = imports; i < count; ++i) {
    if (ended) {
      finish();
      partitions.push_back({i, i, 0, {}});
      begin = at;
    }
    const std::uint32_t bytes = wasm::ReadLeb(binary, at);
    const ByteView body = binary.subspan(at, bytes);
    at += bytes;
    Partition& partition = partitions.back();
    partition.end = i + 1;
    partition.bytes += bytes;
    ended = EndsBehind(body, partition.bytes);
  }
  finish();
  return partitions;
}

}  // namespace godwit::compiler
