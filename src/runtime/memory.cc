#include "runtime/memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "base/check.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace godwit::runtime {
namespace {

constexpr std::uint64_t kHugePageBytes = 2 << 20;

// The first `accessible` bytes are zero and may be read and written; the rest faults.
struct Reservation {
  std::uint8_t* base = nullptr;
  std::uint64_t accessible = 0;
};

// Guarded by its mutex. Never destroyed: memories may be released by threads that end after main.
struct ReservationPool {
  std::mutex mutex;
  std::vector<Reservation> reservations;
};

ReservationPool& Pool() {
  static auto* pool = new ReservationPool;
  return *pool;
}

// Aligned to huge pages; null if there is no address space left. The rest of the mapping stays unused.
Reservation Reserve() {
  void* mapping = mmap(nullptr, abi::kMemoryReservation + kHugePageBytes, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return {};
  const auto address = reinterpret_cast<std::uintptr_t>(mapping);
  const std::uintptr_t aligned = (address + kHugePageBytes - 1) / kHugePageBytes * kHugePageBytes;
  if (aligned != address) munmap(mapping, aligned - address);
  const std::uintptr_t tail = address + kHugePageBytes - aligned;
  if (tail != 0) munmap(reinterpret_cast<void*>(aligned + abi::kMemoryReservation), tail);
  return {reinterpret_cast<std::uint8_t*>(aligned), 0};
}

// The pooled reservation with the most accessible bytes, or a new one.
Reservation Acquire() {
  {
    ReservationPool& pool = Pool();
    std::lock_guard lock(pool.mutex);
    const auto best = std::max_element(pool.reservations.begin(), pool.reservations.end(),
                                       [](const auto& a, const auto& b) { return a.accessible < b.accessible; });
    if (best != pool.reservations.end()) {
      const Reservation reservation = *best;
      pool.reservations.erase(best);
      return reservation;
    }
  }
  return Reserve();
}

void Release(Reservation reservation) {
  ReservationPool& pool = Pool();
  std::unique_lock lock(pool.mutex);
  if (pool.reservations.size() < kPooledReservationsMax) {
    pool.reservations.push_back(reservation);
    return;
  }
  lock.unlock();
  munmap(reservation.base, abi::kMemoryReservation);
}

bool MakeAccessible(std::uint8_t* base, std::uint64_t from, std::uint64_t to, bool huge_pages) {
  if (to <= from) return true;
  if (mprotect(base + from, to - from, PROT_READ | PROT_WRITE) != 0) return false;
  if (huge_pages && to >= kHugePagesFrom.value) madvise(base + from, to - from, MADV_HUGEPAGE);
  return true;
}

// Forgets the content of [from, to) and makes it fault. Fails only if the address space is not ours.
void MakeInaccessible(std::uint8_t* base, std::uint64_t from, std::uint64_t to) {
  if (to <= from) return;
  GODWIT_CHECK(mmap(base + from, to - from, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) !=
                   MAP_FAILED,
               "a linear memory could not be cleared");
}

// Makes zero pages present. Elsewhere than on x86-64 this may be emulation, where madvise does nothing but
// MAP_POPULATE works; short ranges are not worth a mapping of their own.
void PopulateZeroed(std::uint8_t* base, std::uint64_t offset, std::uint64_t bytes) {
#if defined(__x86_64__)
  madvise(base + offset, bytes, MADV_POPULATE_WRITE);  // Without it the first writes fault instead.
#else
  constexpr std::uint64_t kWorthMapping = 256 * 1024;
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  if (bytes < kWorthMapping || offset % page != 0 || bytes % page != 0) return;
  void* mapped = mmap(base + offset, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED | MAP_POPULATE, -1, 0);
  GODWIT_CHECK(mapped != MAP_FAILED, "a linear memory could not be populated");
#endif
}

}  // namespace

Result<LinearMemory> LinearMemory::Create(std::uint64_t pages, std::uint64_t pages_max, bool huge_pages) {
  if (pages > pages_max) {
    return ResourceExhausted(fmt::format("linear memory of {} pages of 64 KiB is over the limit of {}: raise limits.memory",
                                         pages, pages_max));
  }
  const Reservation reservation = Acquire();
  if (reservation.base == nullptr) return ErrnoError("reserving address space for a linear memory");
  LinearMemory memory;
  memory.shared_ = std::make_shared<SharedPages>(reservation.base);
  memory.base_ = reservation.base;
  memory.SetPages(pages);
  memory.pages_max_ = pages_max;
  memory.huge_pages_ = huge_pages;
  memory.populated_ = std::min(reservation.accessible, memory.bytes());
  MakeInaccessible(memory.base_, memory.bytes(), reservation.accessible);
  if (!MakeAccessible(memory.base_, reservation.accessible, memory.bytes(), huge_pages)) {
    return ErrnoError("making a linear memory accessible");
  }
  return memory;
}

void LinearMemory::Prepare(std::uint64_t bytes) {
  Reservation reservation = Reserve();
  if (reservation.base == nullptr) return;
  bytes = std::min<std::uint64_t>(bytes, 4ull << 30) / abi::kWasmPageBytes * abi::kWasmPageBytes;
  if (bytes != 0 && MakeAccessible(reservation.base, 0, bytes, true)) {
    PopulateZeroed(reservation.base, 0, bytes);
    reservation.accessible = bytes;
  }
  Release(reservation);
}

LinearMemory::LinearMemory(LinearMemory&& other) noexcept
    : shared_(std::move(other.shared_)),
      base_(std::exchange(other.base_, nullptr)),
      pages_(std::exchange(other.pages_, 0)),
      pages_max_(std::exchange(other.pages_max_, 0)),
      huge_pages_(other.huge_pages_),
      populated_(std::exchange(other.populated_, 0)) {}

LinearMemory& LinearMemory::operator=(LinearMemory&& other) noexcept {
  std::swap(shared_, other.shared_);
  std::swap(base_, other.base_);
  std::swap(pages_, other.pages_);
  std::swap(pages_max_, other.pages_max_);
  std::swap(huge_pages_, other.huge_pages_);
  std::swap(populated_, other.populated_);
  return *this;
}

SharedPages::~SharedPages() {
  MakeInaccessible(base_, 0, bytes());
  Release({base_, 0});
}

void LinearMemory::SetPages(std::uint64_t pages) {
  pages_ = pages;
  shared_->bytes_.store(bytes(), std::memory_order_release);
}

std::uint32_t LinearMemory::Grow(std::uint32_t delta_pages) {
  if (base_ == nullptr || delta_pages > pages_max_ - pages_) return ~0u;
  const auto old_pages = static_cast<std::uint32_t>(pages_);
  if (!MakeAccessible(base_, bytes(), bytes() + delta_pages * abi::kWasmPageBytes, huge_pages_)) return ~0u;
  SetPages(pages_ + delta_pages);
  return old_pages;
}

bool LinearMemory::Rewind(std::uint64_t pages, std::uint64_t pages_max) {
  GODWIT_CHECK(!IsShared(), "a memory was rewound under somebody's eyes");
  const std::uint64_t had = bytes();
  SetPages(pages);
  pages_max_ = pages_max;
  populated_ = std::min(populated_, bytes());
  MakeInaccessible(base_, bytes(), had);
  return MakeAccessible(base_, had, bytes(), huge_pages_);
}

void LinearMemory::Populate(std::uint64_t offset, std::uint64_t bytes) {
  if (bytes != 0 && offset + bytes > populated_) PopulateZeroed(base_, offset, bytes);
}

}  // namespace godwit::runtime
