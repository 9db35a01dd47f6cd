// One linear memory: a reservation of address space that is larger than any access generated code can make,
// of which the first `bytes()` are accessible. Bounds checks cost nothing because everything past that faults.
//
// Never moves and never shrinks. Used by its instance's thread only.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"
#include "package/native_abi.h"

namespace godwit::runtime {

class LinearMemory {
 public:
  // No memory: base() is null.
  LinearMemory() = default;
  // kResourceExhausted if `pages` exceeds `pages_max` or the system has no address space left.
  static Result<LinearMemory> Create(std::uint64_t pages, std::uint64_t pages_max);
  LinearMemory(LinearMemory&& other) noexcept;
  LinearMemory& operator=(LinearMemory&& other) noexcept;
  ~LinearMemory();

  std::uint8_t* base() const { return base_; }
  std::uint64_t pages() const { return pages_; }
  std::uint64_t pages_max() const { return pages_max_; }
  std::uint64_t bytes() const { return pages_ * abi::kWasmPageBytes; }
  bool InReservation(std::uintptr_t address) const {
    return base_ != nullptr && address - reinterpret_cast<std::uintptr_t>(base_) < abi::kMemoryReservation;
  }

  // The size in pages before growing by `delta_pages`, or ~0u (and nothing changed) past pages_max.
  std::uint32_t Grow(std::uint32_t delta_pages);
  // Touches [offset, offset + bytes) for writing in one call of the kernel: a fault a page costs far more.
  void Populate(std::uint64_t offset, std::uint64_t bytes);

 private:
  std::uint8_t* base_ = nullptr;
  std::uint64_t pages_ = 0;
  std::uint64_t pages_max_ = 0;
};

}  // namespace godwit::runtime
