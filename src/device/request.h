// The command set of a computational storage device (CSx): requests and completions, values only.
//
// After the SNIA Computational Storage API 1.1 (discover, configure, allocate, copy, storage I/O, compute, batch; queued, with
// completion by poll or callback; abort) with the life cycle of NVMe Computational Programs (TP4091: load, activate, execute,
// deactivate, unload). One form of request serves all commands, as one form of NVMe queue entry does, so that drivers carry
// any of them. Added to both: remote devices, sealed capabilities on memory, deadline and energy budget of a request,
// work that ends early and goes on elsewhere, and push-back. docs/formats/device-protocol.md has it from the outside.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::device {

inline constexpr std::size_t kDataBytesMax = 256 << 10;   // Of `data` and of `state`, each.
inline constexpr std::size_t kNameBytesMax = 256;         // Of `tenant` and `name`.
inline constexpr std::size_t kRangesMax = 16;             // Of one request.
inline constexpr std::size_t kStepsMax = 64;              // Of one batch; a batch has no batches.

enum class Opcode : std::uint8_t {
  kDiscover = 1,    // -> data: the device's properties and functions as JSON.
  kHealth = 2,      // -> data: JSON.
  kStatistics = 3,  // -> data: JSON.
  kConfigure = 4,   // data: JSON of settings (engine.h). Of the device's owner alone (tenant "").
  // Functions (CSF). Built-in ones are loaded and active from the start.
  kLoad = 5,        // name, data: a program as the device's environment (CSEE) knows it -> value: the function's number.
  kActivate = 6,    // function
  kDeactivate = 7,  // function; kFailedPrecondition while it runs.
  kUnload = 8,      // function; kFailedPrecondition while it is active.
  // Function data memory (FDM); an allocated piece is AFDM.
  kAllocate = 9,    // bytes -> capability, for reading and writing; cleared. value: microseconds without use after which it is freed (0: never; at most a day).
  kFree = 10,       // ranges[0]: a whole allocation with all rights.
  kGrant = 11,      // ranges[0], rights -> capability for that part and no more rights than the given one has.
  kWrite = 12,      // data -> ranges[0]
  kRead = 13,       // ranges[0] -> data
  kCopy = 14,       // ranges[0] -> ranges[1], of one size; they may overlap.
  // Storage I/O that does not pass the host.
  kStorageRead = 15,   // object `name` at `offset` -> ranges[0]; value: bytes read, fewer only at the end.
  kStorageWrite = 16,  // ranges[0] -> a new object `name`; objects do not change.
  // Runs `function` with the arguments `data` over object `name` from `offset`, `bytes` long (0: to its end), or else over
  // ranges[0]. Output comes in the completion's data, or goes to one more range (value: its bytes). It ends early, with `more`, when its output is full, its time slice
  // (`slice`) is over or it is aborted: put the completion's `state` into the next request, here or at another device
  // that has the data, and it goes on where it was. Where the state is more than kDataBytesMax it runs past its slice.
  kExecute = 17,
  kBatch = 18,  // `steps`; a step runs when those of `after` have succeeded, and fails with kAborted if one of them has not.
  kAbort = 19,  // value: the number of a request of this tenant -> ended early, or never begun; kNotFound.
};

enum class Rights : std::uint8_t { kNone = 0, kRead = 1, kWrite = 2, kReadWrite = 3 };

// The right to a part of one allocation. Whoever has it may use it; the seal (a MAC by the device's secret) keeps anybody
// from making another one. Freeing the allocation ends it: allocations are never numbered alike.
struct Capability {
  std::uint64_t memory = 0;  // The allocation's number.
  std::uint64_t offset = 0, bytes = 0;
  Rights rights = Rights::kNone;
  std::array<std::uint8_t, 16> seal{};
};

struct Range {
  Capability capability;
  std::uint64_t offset = 0, bytes = 0;  // Within the capability's part.
};

struct Request {
  std::uint64_t id = 0;  // The submitter's, for Abort; unique among its tenant's requests under way.
  Opcode opcode = Opcode::kDiscover;
  std::string tenant;    // As the driver's far end has authenticated it. Empty: the device's owner.
  std::chrono::microseconds deadline{0};  // From its arrival; 0: none. Past it, it fails with kDeadlineExceeded.
  std::chrono::microseconds slice{0};     // Of an Execute; 0: until the output is full.
  std::uint64_t energy_uj = 0;            // Budget by the device's model; 0: none. Past it: kResourceExhausted.
  std::uint32_t function = 0;
  std::string name;
  std::uint64_t offset = 0, bytes = 0, value = 0;
  Rights rights = Rights::kNone;
  std::vector<Range> ranges;
  Bytes data;
  Bytes state;  // Of an Execute that goes on.
  std::vector<Request> steps;
  std::vector<std::uint32_t> after;  // Of a batch's step: numbers of earlier steps.
};

struct Completion {
  std::uint64_t id = 0;
  Status status;
  std::uint64_t value = 0;
  Capability capability;
  Bytes data, state;
  bool more = false;
  // The device has too much to do: nothing was begun; read the data and do it yourself. Then `status` is kResourceExhausted.
  bool pushed_back = false;
  // cpu_us: of an Execute's busy_us, what the processor worked; the rest was waiting, for it or for data. Of brief work the same.
  std::uint64_t queued_us = 0, busy_us = 0, cpu_us = 0;
  std::uint64_t energy_uj = 0;  // By the device's model (profile.h).
  std::uint64_t read_bytes = 0;  // Of data that the function looked at.
  std::vector<Completion> steps;
};

}  // namespace godwit::device
