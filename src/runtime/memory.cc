#include "runtime/memory.h"

#include <sys/mman.h>

#include <utility>

#include <fmt/format.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace godwit::runtime {

Result<LinearMemory> LinearMemory::Create(std::uint64_t pages, std::uint64_t pages_max) {
  if (pages > pages_max) {
    return ResourceExhausted(fmt::format("linear memory of {} pages of 64 KiB is over the limit of {}: raise limits.memory",
                                         pages, pages_max));
  }
  void* base = mmap(nullptr, abi::kMemoryReservation, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return ErrnoError("reserving address space for a linear memory");
  LinearMemory memory;
  memory.base_ = static_cast<std::uint8_t*>(base);
  memory.pages_max_ = pages_max;
  if (memory.Grow(static_cast<std::uint32_t>(pages)) == ~0u) return ErrnoError("making a linear memory accessible");
  return memory;
}

LinearMemory::LinearMemory(LinearMemory&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)),
      pages_(std::exchange(other.pages_, 0)),
      pages_max_(std::exchange(other.pages_max_, 0)) {}

LinearMemory& LinearMemory::operator=(LinearMemory&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(pages_, other.pages_);
  std::swap(pages_max_, other.pages_max_);
  return *this;
}

LinearMemory::~LinearMemory() {
  if (base_ != nullptr) munmap(base_, abi::kMemoryReservation);
}

std::uint32_t LinearMemory::Grow(std::uint32_t delta_pages) {
  if (base_ == nullptr || delta_pages > pages_max_ - pages_) return ~0u;
  const auto old_pages = static_cast<std::uint32_t>(pages_);
  if (delta_pages != 0 &&
      mprotect(base_ + bytes(), delta_pages * abi::kWasmPageBytes, PROT_READ | PROT_WRITE) != 0) {
    return ~0u;
  }
  pages_ += delta_pages;
  return old_pages;
}

void LinearMemory::Populate(std::uint64_t offset, std::uint64_t bytes) {
  // Only a hint: where the kernel does not know it, the first writes fault instead.
  if (bytes != 0) madvise(base_ + offset, bytes, MADV_POPULATE_WRITE);
}

}  // namespace godwit::runtime
