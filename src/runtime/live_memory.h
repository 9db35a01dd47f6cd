// Linear memory on its way to another device while its guest runs: what the source reads, and what the target fills
// before the instance exists.
//
// Pages here are of snapshot::kPageBytes. A page "as initial" is as the module's active data segments left it: both
// ends have it from the package, so it never travels.
#pragma once

#include <cstdint>
#include <memory>

#include <vector>

#include "runtime/instance.h"
#include "runtime/memory.h"
#include "snapshot/snapshot.h"

namespace godwit::runtime {

// How many pages of 64 KiB a memory may have.
std::uint64_t MemoryPagesMax(const fbs::Memory& declared, const Limits& limits);

// The source's view. Keeps the memory mapped. Immutable but for what the guest does; any thread.
class LiveMemory {
 public:
  static std::shared_ptr<const LiveMemory> Of(std::shared_ptr<const SharedPages> pages, std::shared_ptr<const LoadedModule> module);
  virtual ~LiveMemory() = default;
  virtual std::uint8_t* base() const = 0;
  virtual std::uint64_t bytes() const = 0;      // Only grows...
  virtual std::uint64_t bytes_max() const = 0;  // ...up to this; so much address space is its own.
  // Whether a page is as initial just now.
  virtual bool AsInitial(std::uint64_t page) const = 0;
  // All pages that are not, found without a tracker. While the guest stands still.
  virtual std::vector<snapshot::PageRun> Changed() const = 0;
};

// The target's: begins as the module's initial image. One thread at a time, but that ranges of pages that do not
// overlap may be written by several at once.
class ArrivingMemory {
 public:
  // A memory of `bytes`. kInvalidArgument if the module has none, or none of that size; kResourceExhausted.
  static Result<std::unique_ptr<ArrivingMemory>> Create(std::shared_ptr<const LoadedModule> module, const Limits& limits,
                                                        ByteCount bytes);
  virtual ~ArrivingMemory() = default;
  virtual std::uint8_t* base() const = 0;
  virtual std::uint64_t bytes() const = 0;
  // Has at least `bytes` afterwards. kResourceExhausted past the module's or the service's limit.
  virtual Status GrowTo(ByteCount bytes) = 0;
  // Makes pages that will be written present, keeping what they hold. Best effort.
  virtual void Populate(std::uint64_t first_page, std::uint64_t count) = 0;
  // Makes pages as initial. The range lies inside the memory.
  virtual void Reset(std::uint64_t first_page, std::uint64_t count) = 0;
  // For the instance, once: what it is to run on.
  virtual LinearMemory Take() = 0;
};

}  // namespace godwit::runtime
