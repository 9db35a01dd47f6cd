// Snapshots: an instance's whole state in ISA-neutral form, and its encoding.
//
// docs/formats/snapshot.md describes the bytes: a magic and version, a FlatBuffers description, the raw
// parts (frames, pages, package blobs) at aligned offsets, and a SHA-256 over everything. Decode believes
// nothing before the hash and the FlatBuffers verifier passed and every offset is inside the file.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::snapshot {

inline constexpr std::uint32_t kFormatVersion = 2;
inline constexpr std::uint64_t kPageBytes = 4096;  // Unit of page runs, whatever the device's page size.

// One guest stack: the call that was running and its frames, innermost first, as package/native_abi.h lays
// them out. `frames` is empty for a call that has not begun.
struct Stack {
  std::uint64_t id = 0;           // The instance's number for this call, unique within it.
  std::uint32_t function = 0;     // Module function index that was called first.
  std::vector<std::uint8_t> arguments;  // 16 bytes a parameter; used only if `frames` is empty.
  std::uint32_t shadow_stack_pointer = 0;  // Value of __stack_pointer for this stack (concurrency > 1).
  Bytes frames;
  // What linear memory has from 128 bytes below the stack pointer on while this call runs. Empty: it is there.
  Bytes shadow_stack;
  bool preempted = false;  // Stopped in the middle of its code: it goes on before any other. One at most.
};

// Pages [first_page, first_page + bytes.size() / kPageBytes) of a memory. Pages in no run are as the package's
// initial image has them (the module's data segments on zero pages).
struct PageRun {
  std::uint64_t first_page = 0;
  ByteView bytes;  // Points into the instance's memory (encoding) or into the decoded snapshot's buffer.
};

struct Memory {
  std::uint64_t wasm_pages = 0;  // Current size in 64 KiB pages.
  std::vector<PageRun> runs;     // Ascending, disjoint. A zero page that the initial image has as non-zero is in a run.
};

struct Table {
  std::vector<std::uint32_t> elements;  // 0 null, else module function index + 1 (funcref) or host id (externref).
};

// A host module's own state, by the module's name ("wasi_snapshot_preview1", "godwit").
struct HostState {
  std::string module;
  Bytes bytes;
};

// A package blob carried along (see package::Blob).
struct CarriedBlob {
  std::string digest;
  ByteView bytes;
  std::uint64_t file_offset = 0;  // Set by decoding: where the bytes are in the encoded snapshot; a multiple of 64 KiB.
};

struct Snapshot {
  std::string package_digest;
  Bytes ir_hash;                     // 32 bytes; images of another IR are refused.
  std::vector<Stack> stacks;
  std::vector<Memory> memories;
  std::vector<std::array<std::uint8_t, 16>> globals;  // The module's own globals, in index order.
  std::vector<Table> tables;
  std::vector<bool> dropped_data, dropped_elements;
  std::vector<HostState> host_states;
  std::vector<CarriedBlob> package;  // Empty with --no-package. The index blob first.
};

// Receives the encoding in order. Returning an error ends it.
using Sink = std::function<Status(ByteView)>;

// Writes the encoding of `snapshot` to `sink` without copying pages or blobs.
Status Encode(const Snapshot& snapshot, const Sink& sink);
Result<Bytes> EncodeToBytes(const Snapshot& snapshot);

// Decodes; the result's views point into `encoded`, which must outlive it. kCorrupt (with what is wrong) for
// damaged or truncated bytes, kUnsupported for another version, kInvalidArgument for "not a Godwit snapshot".
Result<Snapshot> Decode(ByteView encoded);

}  // namespace godwit::snapshot
