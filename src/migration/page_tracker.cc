#include "migration/page_tracker.h"

#include <sys/mman.h>
#include <unistd.h>

#include "migration/protect_tracker.h"
#include "migration/write_protect_tracker.h"

namespace godwit::migration {
namespace {

// The coarsest unit in which any kind tells pages apart.
constexpr std::uint64_t kUnitBytesMax = 64 << 10;

// Whether a tracker of this kind tells the truth on a small memory of its own.
bool Works(TrackerKind kind) {
  constexpr std::uint64_t unit = kUnitBytesMax, bytes = 8 * unit;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return false;
  auto* base = static_cast<std::uint8_t*>(memory);
  const auto covers = [&](const std::vector<PageRange>& ranges, std::uint64_t offset) {
    for (const PageRange& range : ranges) {
      if (offset / kPageBytes >= range.first && offset / kPageBytes < range.first + range.count) return true;
    }
    return false;
  };
  const auto works = [&] {
    auto tracker = CreateTracker(kind, base, bytes);
    if (!tracker.ok()) return false;
    std::vector<PageRange> first, second, third;
    const_cast<volatile std::uint8_t*>(base)[unit] = 1;
    if (!(*tracker)->Harvest(0, bytes, first).ok() || !covers(first, unit)) return false;
    const_cast<volatile std::uint8_t*>(base)[5 * unit] = 1;
    if (!(*tracker)->Harvest(0, bytes, second).ok() || !covers(second, 5 * unit) || covers(second, unit)) return false;
    return (*tracker)->Harvest(0, bytes, third).ok() && third.empty();
  };
  const bool result = works();
  munmap(memory, bytes);
  return result;
}

}  // namespace

std::string_view ToString(TrackerKind kind) {
  switch (kind) {
    case TrackerKind::kNone: return "none";
    case TrackerKind::kWriteProtect: return "userfaultfd";
    case TrackerKind::kProtect: return "mprotect";
  }
  return "?";
}

TrackerKind ProbeTracker() {
  for (const TrackerKind kind : {TrackerKind::kWriteProtect, TrackerKind::kProtect}) {
    if (Works(kind)) return kind;
  }
  return TrackerKind::kNone;
}

Result<std::unique_ptr<PageTracker>> CreateTracker(TrackerKind kind, std::uint8_t* base, std::uint64_t bytes_max) {
  switch (kind) {
    case TrackerKind::kWriteProtect: return CreateWriteProtectTracker(base, bytes_max);
    case TrackerKind::kProtect: return CreateProtectTracker(base, bytes_max);
    case TrackerKind::kNone: break;
  }
  return Unsupported("this machine offers no way to find written pages while a guest runs");
}

}  // namespace godwit::migration
