// Encoding: two passes over the parts with one and the same order, so that the description can come first.
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>

#include "snapshot/layout.h"
#include "snapshot/snapshot.h"
#include "snapshot/snapshot_generated.h"

namespace godwit::snapshot {
namespace {

using flatbuffers::FlatBufferBuilder;
using flatbuffers::Offset;

constexpr std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

// One raw part of the file, at `offset` from the begin of the parts.
struct Part {
  ByteView bytes;
  std::uint64_t offset = 0;
};

// Gives parts their places, in order.
class Placer {
 public:
  explicit Placer(std::uint64_t begin) : end_(begin) {}
  std::uint64_t Place(ByteView bytes, std::uint64_t alignment) {
    end_ = AlignUp(end_, alignment);
    const std::uint64_t offset = end_;
    parts_.push_back({bytes, offset});
    end_ += bytes.size();
    return offset;
  }
  std::uint64_t end() const { return end_; }
  const std::vector<Part>& parts() const { return parts_; }

 private:
  std::uint64_t end_;
  std::vector<Part> parts_;
};

// Describes `s` with its parts placed by `placer`. The description's size does not depend on the offsets.
Bytes Describe(const Snapshot& s, Placer& placer) {
  FlatBufferBuilder b(1 << 14);
  b.ForceDefaults(true);  // Offsets that happen to be 0 must not change the size.
  auto range = [&](ByteView bytes, std::uint64_t alignment) {
    const std::uint64_t offset = placer.Place(bytes, alignment);
    return fbs::Range(offset, bytes.size());
  };
  std::vector<Offset<fbs::Stack>> stacks;
  for (const Stack& stack : s.stacks) {
    const fbs::Range frames = range(stack.frames, kPartAlignment);
    const fbs::Range shadow_stack = range(stack.shadow_stack, kPartAlignment);
    stacks.push_back(fbs::CreateStack(b, stack.id, stack.function, stack.shadow_stack_pointer,
                                      b.CreateVector(stack.arguments), &frames, &shadow_stack, stack.preempted));
  }
  std::vector<Offset<fbs::HostState>> hosts;
  for (const HostState& host : s.host_states) {
    const fbs::Range bytes = range(host.bytes, kPartAlignment);
    hosts.push_back(fbs::CreateHostState(b, b.CreateString(host.module), &bytes));
  }
  std::vector<Offset<fbs::Memory>> memories;
  for (const Memory& memory : s.memories) {
    std::vector<fbs::PageRun> runs;
    for (const PageRun& run : memory.runs) {
      runs.emplace_back(run.first_page, run.bytes.size() / kPageBytes, placer.Place(run.bytes, kPageBytes));
    }
    memories.push_back(fbs::CreateMemory(b, memory.wasm_pages, b.CreateVectorOfStructs(runs)));
  }
  std::vector<fbs::Global> globals;
  for (const auto& cell : s.globals) {
    std::uint64_t words[2];
    std::memcpy(words, cell.data(), sizeof words);
    globals.emplace_back(words[0], words[1]);
  }
  std::vector<Offset<fbs::TableState>> tables;
  for (const Table& table : s.tables) tables.push_back(fbs::CreateTableState(b, b.CreateVector(table.elements)));
  std::vector<Offset<fbs::Blob>> blobs;
  for (const CarriedBlob& blob : s.package) {
    const fbs::Range bytes = range(blob.bytes, kBlobAlignment);
    blobs.push_back(fbs::CreateBlob(b, b.CreateString(blob.digest), &bytes));
  }
  auto flags = [&](const std::vector<bool>& values) {
    return b.CreateVector(std::vector<std::uint8_t>(values.begin(), values.end()));
  };
  const auto digest = b.CreateString(s.package_digest);
  const auto ir_hash = b.CreateVector(s.ir_hash);
  const auto stack_list = b.CreateVector(stacks);
  const auto memory_list = b.CreateVector(memories);
  const auto global_list = b.CreateVectorOfStructs(globals);
  const auto table_list = b.CreateVector(tables);
  const auto data = flags(s.dropped_data);
  const auto elements = flags(s.dropped_elements);
  const auto host_list = b.CreateVector(hosts);
  const auto blob_list = b.CreateVector(blobs);
  fbs::FinishDescriptionBuffer(b, fbs::CreateDescription(b, digest, ir_hash, stack_list, memory_list, global_list,
                                                         table_list, data, elements, host_list, blob_list));
  return Bytes(b.GetBufferPointer(), b.GetBufferPointer() + b.GetSize());
}

// Refuses what Decode would refuse, so that a snapshot that was written can be read.
Status CheckLimits(const Snapshot& s) {
  auto over = [](std::string_view what) {
    return ResourceExhausted("the instance cannot be saved: more than a snapshot may hold of " + std::string(what));
  };
  if (s.ir_hash.size() != 32) return InvalidArgument("a snapshot's ir_hash has 32 bytes");
  if (s.package_digest.size() > kNameBytesMax) return InvalidArgument("the package digest is too long");
  if (s.stacks.size() > kStacksMax) return over("stacks");
  for (const Stack& stack : s.stacks) {
    if (stack.frames.size() > kFramesBytesMax || stack.shadow_stack.size() > kFramesBytesMax ||
        stack.arguments.size() > kArgumentsBytesMax) {
      return over("frames");
    }
  }
  if (s.memories.size() > kMemoriesMax) return over("memories");
  for (const Memory& memory : s.memories) {
    std::uint64_t next = 0;
    if (memory.wasm_pages > kWasmPagesMax) return over("memory pages");
    for (const PageRun& run : memory.runs) {
      const std::uint64_t pages = run.bytes.size() / kPageBytes;
      if (run.bytes.empty() || run.bytes.size() % kPageBytes != 0 || run.first_page < next ||
          run.first_page + pages > memory.wasm_pages * 16) {
        return InvalidArgument("page runs are not ascending whole pages inside the memory");
      }
      next = run.first_page + pages;
    }
  }
  if (s.globals.size() > kGlobalsMax) return over("globals");
  if (s.tables.size() > kTablesMax) return over("tables");
  std::uint64_t elements = 0;
  for (const Table& table : s.tables) elements += table.elements.size();
  if (elements > kTableElementsMax) return over("table elements");
  if (s.dropped_data.size() > kSegmentsMax || s.dropped_elements.size() > kSegmentsMax) return over("segments");
  if (s.host_states.size() > kHostStatesMax) return over("host states");
  for (const HostState& host : s.host_states) {
    if (host.module.size() > kNameBytesMax) return over("letters in a host module's name");
  }
  if (s.package.size() > kBlobsMax) return over("package blobs");
  for (const CarriedBlob& blob : s.package) {
    if (blob.digest.size() > kNameBytesMax) return InvalidArgument("a blob's digest is too long");
  }
  return {};
}

// Passes bytes on and hashes them.
class HashingSink {
 public:
  explicit HashingSink(const Sink& sink) : sink_(sink), context_(EVP_MD_CTX_new()) {
    GODWIT_CHECK(context_ && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1, "SHA-256 is not available");
  }
  HashingSink(const HashingSink&) = delete;
  ~HashingSink() { EVP_MD_CTX_free(context_); }

  Status Write(ByteView bytes) {
    if (bytes.empty()) return {};
    GODWIT_CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1, "SHA-256 failed");
    written_ += bytes.size();
    return sink_(bytes);
  }
  Status PadTo(std::uint64_t offset) {
    static constexpr std::uint8_t kZeros[4096] = {};
    while (written_ < offset) {
      GODWIT_TRY(Write({kZeros, static_cast<std::size_t>(std::min<std::uint64_t>(offset - written_, sizeof kZeros))}));
    }
    return {};
  }
  Status Finish() {
    std::uint8_t hash[kHashBytes];
    GODWIT_CHECK(EVP_DigestFinal_ex(context_, hash, nullptr) == 1, "SHA-256 failed");
    return sink_({hash, sizeof hash});
  }

 private:
  const Sink& sink_;
  EVP_MD_CTX* context_;
  std::uint64_t written_ = 0;
};

// The description and the parts at their final places.
struct Plan {
  Bytes description;
  std::vector<Part> parts;
  std::uint64_t file_bytes = 0;
};

Result<Plan> MakePlan(const Snapshot& snapshot) {
  GODWIT_TRY(CheckLimits(snapshot));
  Placer trial(0);
  const std::uint64_t description_bytes = Describe(snapshot, trial).size();
  if (description_bytes > kDescriptionBytesMax) return ResourceExhausted("the snapshot's description is too large");
  Placer placer(sizeof(Header) + description_bytes);
  Plan plan;
  plan.description = Describe(snapshot, placer);
  GODWIT_CHECK(plan.description.size() == description_bytes, "a description's size depends on its offsets");
  plan.parts = placer.parts();
  plan.file_bytes = placer.end() + kHashBytes;
  if (plan.file_bytes > kFileBytesMax) return ResourceExhausted("the snapshot would be larger than 8 GiB");
  return plan;
}

Status WritePlan(const Plan& plan, const Sink& sink) {
  Header header{};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  header.version = kFormatVersion;
  header.file_bytes = plan.file_bytes;
  header.description_bytes = plan.description.size();
  HashingSink out(sink);
  GODWIT_TRY(out.Write({reinterpret_cast<const std::uint8_t*>(&header), sizeof header}));
  GODWIT_TRY(out.Write(plan.description));
  for (const Part& part : plan.parts) {
    GODWIT_TRY(out.PadTo(part.offset));
    GODWIT_TRY(out.Write(part.bytes));
  }
  return out.Finish();
}

}  // namespace

Status Encode(const Snapshot& snapshot, const Sink& sink) {
  GODWIT_ASSIGN(const Plan plan, MakePlan(snapshot));
  return WritePlan(plan, sink);
}

Result<Bytes> EncodeToBytes(const Snapshot& snapshot) {
  GODWIT_ASSIGN(const Plan plan, MakePlan(snapshot));
  Bytes bytes;
  bytes.reserve(plan.file_bytes);
  GODWIT_TRY(WritePlan(plan, [&](ByteView part) -> Status {
    bytes.insert(bytes.end(), part.begin(), part.end());
    return {};
  }));
  return bytes;
}

}  // namespace godwit::snapshot
