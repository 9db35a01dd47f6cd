// Decoding: header, hash, FlatBuffers verifier, then every count, range and order before anything is used.
#include <openssl/evp.h>

#include <cstring>

#include "base/flatbuffer.h"
#include "snapshot/layout.h"
#include "snapshot/snapshot.h"
#include "snapshot/snapshot_generated.h"

namespace godwit::snapshot {
namespace {

Error Bad(std::string_view what) { return Corrupt("damaged snapshot: " + std::string(what)); }

Result<Header> CheckHeader(ByteView encoded) {
  Header header;
  if (encoded.size() < sizeof kMagic || std::memcmp(encoded.data(), kMagic, sizeof kMagic) != 0) {
    return InvalidArgument("not a Godwit snapshot");
  }
  if (encoded.size() < sizeof header + kHashBytes) return Bad("it is truncated");
  std::memcpy(&header, encoded.data(), sizeof header);
  if (header.version != kFormatVersion) {
    return Unsupported("snapshot format version " + std::to_string(header.version) + "; this godwit reads version " +
                       std::to_string(kFormatVersion));
  }
  if (header.file_bytes > kFileBytesMax) return Bad("it is said to be larger than 8 GiB");
  if (header.file_bytes != encoded.size()) {
    return Bad("it has " + std::to_string(encoded.size()) + " bytes instead of " + std::to_string(header.file_bytes));
  }
  std::uint8_t hash[EVP_MAX_MD_SIZE];
  const ByteView hashed = encoded.first(encoded.size() - kHashBytes);
  GODWIT_CHECK(EVP_Digest(hashed.data(), hashed.size(), hash, nullptr, EVP_sha256(), nullptr) == 1,
               "SHA-256 is not available");
  if (std::memcmp(hash, hashed.data() + hashed.size(), kHashBytes) != 0) return Bad("its SHA-256 does not fit");
  if (header.reserved != 0) return Bad("reserved bytes are not zero");
  if (header.description_bytes > kDescriptionBytesMax || header.description_bytes < 8 ||
      header.description_bytes > hashed.size() - sizeof header) {
    return Bad("its description is out of range");
  }
  return header;
}

// Reads one description.
class Reader {
 public:
  Reader(ByteView encoded, const Header& header)
      : encoded_(encoded.first(encoded.size() - kHashBytes)), begin_(sizeof(Header) + header.description_bytes), copies_(encoded.size()) {}

  Status Read(const fbs::Description& d, Snapshot& s) {
    if (!d.package_digest() || d.package_digest()->size() > kNameBytesMax) return Bad("package digest");
    if (!d.ir_hash() || d.ir_hash()->size() != 32) return Bad("ir_hash is not 32 bytes");
    if (!d.stacks() || !d.memories() || !d.globals() || !d.tables() || !d.dropped_data() || !d.dropped_elements() ||
        !d.host_states() || !d.package()) {
      return Bad("a list is missing");
    }
    s.package_digest = d.package_digest()->str();
    s.ir_hash.assign(d.ir_hash()->begin(), d.ir_hash()->end());
    GODWIT_TRY(ReadStacks(*d.stacks(), s));
    GODWIT_TRY(ReadMemories(*d.memories(), s));
    GODWIT_TRY(ReadGlobals(*d.globals(), s));
    GODWIT_TRY(ReadTables(*d.tables(), s));
    GODWIT_TRY(ReadFlags(*d.dropped_data(), s.dropped_data));
    GODWIT_TRY(ReadFlags(*d.dropped_elements(), s.dropped_elements));
    GODWIT_TRY(ReadHosts(*d.host_states(), s));
    return ReadPackage(*d.package(), s);
  }

 private:
  Result<ByteView> View(std::uint64_t offset, std::uint64_t size, std::uint64_t alignment) const {
    if (offset % alignment != 0) return Bad("a part is not aligned");
    if (offset < begin_ || offset > encoded_.size() || size > encoded_.size() - offset) {
      return Bad("a part is outside the file");
    }
    return encoded_.subspan(offset, size);
  }
  Result<ByteView> View(const fbs::Range* range, std::uint64_t alignment) const {
    if (!range) return Bad("a part's range is missing");
    return View(range->offset(), range->size(), alignment);
  }

  Status ReadStacks(const flatbuffers::Vector<flatbuffers::Offset<fbs::Stack>>& list, Snapshot& s) {
    if (list.size() > kStacksMax) return Bad("more than 1024 stacks");
    for (const fbs::Stack* item : list) {
      Stack stack;
      stack.id = item->id();
      stack.function = item->function();
      stack.shadow_stack_pointer = item->shadow_stack_pointer();
      if (!item->arguments() || item->arguments()->size() > kArgumentsBytesMax) return Bad("a stack's arguments");
      if (!copies_.Take(item->arguments()->size())) return Bad("stacks share their bytes");
      stack.arguments.assign(item->arguments()->begin(), item->arguments()->end());
      GODWIT_ASSIGN(const ByteView frames, View(item->frames(), kPartAlignment));
      if (frames.size() > kFramesBytesMax) return Bad("a stack of more than 1 GiB");
      if (!copies_.Take(frames.size())) return Bad("stacks share their bytes");
      stack.frames.assign(frames.begin(), frames.end());
      GODWIT_ASSIGN(const ByteView shadow_stack, View(item->shadow_stack(), kPartAlignment));
      if (!copies_.Take(shadow_stack.size())) return Bad("stacks share their bytes");
      stack.shadow_stack.assign(shadow_stack.begin(), shadow_stack.end());
      stack.preempted = item->preempted();
      s.stacks.push_back(std::move(stack));
    }
    return {};
  }

  Status ReadMemories(const flatbuffers::Vector<flatbuffers::Offset<fbs::Memory>>& list, Snapshot& s) {
    if (list.size() > kMemoriesMax) return Bad("more than one memory");
    for (const fbs::Memory* item : list) {
      Memory memory;
      memory.wasm_pages = item->wasm_pages();
      if (memory.wasm_pages > kWasmPagesMax) return Bad("a memory of more than 4 GiB");
      if (!item->runs() || !IsAligned(*item->runs())) return Bad("a memory without page runs");
      const std::uint64_t pages = memory.wasm_pages * (65536 / kPageBytes);
      std::uint64_t next = 0;
      for (const fbs::PageRun* run : *item->runs()) {
        if (run->first_page() < next || run->first_page() >= pages || run->pages() == 0 ||
            run->pages() > pages - run->first_page()) {
          return Bad("page runs are not ascending inside the memory");
        }
        next = run->first_page() + run->pages();
        GODWIT_ASSIGN(const ByteView bytes, View(run->offset(), run->pages() * kPageBytes, kPageBytes));
        memory.runs.push_back({run->first_page(), bytes});
      }
      s.memories.push_back(std::move(memory));
    }
    return {};
  }

  Status ReadGlobals(const flatbuffers::Vector<const fbs::Global*>& list, Snapshot& s) {
    if (list.size() > kGlobalsMax || !IsAligned(list)) return Bad("too many globals, or not aligned");
    for (const fbs::Global* item : list) {
      const std::uint64_t words[2] = {item->lo(), item->hi()};
      std::memcpy(s.globals.emplace_back().data(), words, sizeof words);
    }
    return {};
  }

  Status ReadTables(const flatbuffers::Vector<flatbuffers::Offset<fbs::TableState>>& list, Snapshot& s) {
    if (list.size() > kTablesMax) return Bad("too many tables");
    std::size_t elements = 0;
    for (const fbs::TableState* item : list) {
      if (!item->elements()) return Bad("a table without elements");
      elements += item->elements()->size();
      if (elements > kTableElementsMax) return Bad("too many table elements");
      if (!copies_.Take(item->elements()->size() * sizeof(std::uint32_t))) return Bad("tables share their elements");
      s.tables.push_back({{item->elements()->begin(), item->elements()->end()}});
    }
    return {};
  }

  static Status ReadFlags(const flatbuffers::Vector<std::uint8_t>& list, std::vector<bool>& flags) {
    if (list.size() > kSegmentsMax) return Bad("too many segments");
    for (const std::uint8_t flag : list) {
      if (flag > 1) return Bad("a flag that is neither 0 nor 1");
      flags.push_back(flag != 0);
    }
    return {};
  }

  Status ReadHosts(const flatbuffers::Vector<flatbuffers::Offset<fbs::HostState>>& list, Snapshot& s) {
    if (list.size() > kHostStatesMax) return Bad("too many host states");
    for (const fbs::HostState* item : list) {
      if (!item->module_() || item->module_()->size() > kNameBytesMax) return Bad("a host state's name");
      GODWIT_ASSIGN(const ByteView bytes, View(item->bytes(), kPartAlignment));
      if (!copies_.Take(bytes.size())) return Bad("host states share their bytes");
      s.host_states.push_back({item->module_()->str(), Bytes(bytes.begin(), bytes.end())});
    }
    return {};
  }

  Status ReadPackage(const flatbuffers::Vector<flatbuffers::Offset<fbs::Blob>>& list, Snapshot& s) {
    if (list.size() > kBlobsMax) return Bad("too many package blobs");
    for (const fbs::Blob* item : list) {
      if (!item->digest() || item->digest()->size() > kNameBytesMax) return Bad("a package blob's digest");
      GODWIT_ASSIGN(const ByteView bytes, View(item->bytes(), kBlobAlignment));
      s.package.push_back({item->digest()->str(), bytes, item->bytes()->offset()});
    }
    return {};
  }

  ByteView encoded_;
  std::uint64_t begin_;
  CopyBudget copies_;
};

}  // namespace

Result<Snapshot> Decode(ByteView encoded) {
  GODWIT_ASSIGN(const Header header, CheckHeader(encoded));
  Bytes copy;
  const ByteView description = AlignedOrCopied(encoded.subspan(sizeof(Header), header.description_bytes), copy);
  flatbuffers::Verifier verifier(description.data(), description.size(), 16, 4'000'000);
  if (!fbs::VerifyDescriptionBuffer(verifier)) return Bad("its description is not a valid FlatBuffer");
  Snapshot snapshot;
  GODWIT_TRY(Reader(encoded, header).Read(*fbs::GetDescription(description.data()), snapshot));
  return snapshot;
}

}  // namespace godwit::snapshot
