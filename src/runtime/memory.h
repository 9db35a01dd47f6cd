// One linear memory: a reservation of address space that is larger than any access generated code can make,
// of which the first `bytes()` are accessible. Bounds checks cost nothing because everything past that faults.
//
// Never moves, and never shrinks but by Rewind. Used by its instance's thread only, but for what Share gives. Reservations of
// destroyed memories are pooled: under emulation making one takes a quarter of a second.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "base/bytes.h"
#include "base/result.h"
#include "package/native_abi.h"

namespace godwit::runtime {

// Reservations kept for the next memories, per process.
inline constexpr std::size_t kPooledReservationsMax = 8;
// Memories from this size on ask for huge pages: faulting 4 KiB pages in one by one costs far more.
inline constexpr ByteCount kHugePagesFrom = 8_MiB;

// The pages of a linear memory. They stay mapped while anybody holds this, also when the instance is gone.
// Looking at them while the guest runs shows a page before, during or after a store to it. Any thread.
class SharedPages {
 public:
  explicit SharedPages(std::uint8_t* base) : base_(base) {}
  ~SharedPages();
  SharedPages(const SharedPages&) = delete;
  SharedPages& operator=(const SharedPages&) = delete;

  std::uint8_t* base() const { return base_; }
  std::uint64_t bytes() const { return bytes_.load(std::memory_order_acquire); }  // Only grows while it is shared.

 private:
  friend class LinearMemory;
  std::uint8_t* const base_;
  std::atomic<std::uint64_t> bytes_{0};
};

class LinearMemory {
 public:
  // No memory: base() is null.
  LinearMemory() = default;
  // kResourceExhausted if `pages` exceeds `pages_max` or the system has no address space left.
  static Result<LinearMemory> Create(std::uint64_t pages, std::uint64_t pages_max, bool huge_pages = true);
  // Puts a reservation with its first `bytes` touched into the pool, for the next Create. Best effort. Any thread.
  static void Prepare(std::uint64_t bytes);
  LinearMemory(LinearMemory&& other) noexcept;
  LinearMemory& operator=(LinearMemory&& other) noexcept;

  std::uint8_t* base() const { return base_; }
  std::uint64_t pages() const { return pages_; }
  std::uint64_t pages_max() const { return pages_max_; }
  std::uint64_t bytes() const { return pages_ * abi::kWasmPageBytes; }
  bool InReservation(std::uintptr_t address) const {
    return base_ != nullptr && address - reinterpret_cast<std::uintptr_t>(base_) < abi::kMemoryReservation;
  }

  // The size in pages before growing by `delta_pages`, or ~0u (and nothing changed) past pages_max.
  std::uint32_t Grow(std::uint32_t delta_pages);
  // For the next instance of the same module: `pages` again, of which what was there before is as it was left; false
  // (and of no use any more) if it cannot be. Not while others hold what Share gave.
  bool Rewind(std::uint64_t pages, std::uint64_t pages_max);
  // Makes pages that were not used yet present, in one call of the kernel: a fault a page costs far more.
  // What was in them may be lost.
  void Populate(std::uint64_t offset, std::uint64_t bytes);
  // Null where there is no memory.
  std::shared_ptr<const SharedPages> Share() const { return shared_; }
  bool IsShared() const { return shared_.use_count() > 1; }

 private:
  void SetPages(std::uint64_t pages);

  std::shared_ptr<SharedPages> shared_;  // Frees the reservation.
  std::uint8_t* base_ = nullptr;
  std::uint64_t pages_ = 0;
  std::uint64_t pages_max_ = 0;
  bool huge_pages_ = true;       // From kHugePagesFrom on.
  std::uint64_t populated_ = 0;  // So many bytes from the base were made present ahead of time.
};

}  // namespace godwit::runtime
