// PageTracker: which pages of a memory were written since they were last asked for, while its guest runs.
//
// A tracker costs nothing until Harvest has passed over a range for the first time; from then on the first write to
// each page of it costs a fault. Ways, best first:
// - kWriteProtect: userfaultfd's asynchronous write protection and PAGEMAP_SCAN (Linux 6.7), which finds and protects
//   again in one call. Writes by the kernel, for system calls of the host, are seen too.
// - kProtect: mprotect and a handler of SIGSEGV (runtime/trap.h). Works everywhere, also under emulation. The kernel
//   does not write to protected pages but fails with EFAULT: host calls that have it write make it so again
//   (runtime/into_guest.h).
// Soft-dirty bits are no way here: docs/decisions/0011 says why.
//
// Pages are of kPageBytes whatever the system's are. A tracker is used by one thread at a time; the guest runs on.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace godwit::migration {

inline constexpr std::uint64_t kPageBytes = 4096;
// The most that one Harvest covers: locks of the kernel are held meanwhile.
inline constexpr std::uint64_t kSliceBytesMax = 16 << 20;

enum class TrackerKind : std::uint8_t { kNone, kWriteProtect, kProtect };
std::string_view ToString(TrackerKind kind);  // "none", "userfaultfd", "mprotect"

struct PageRange {
  std::uint64_t first = 0, count = 0;  // In pages, from the memory's begin.
  friend bool operator==(const PageRange&, const PageRange&) = default;
};

class PageTracker {
 public:
  // Ends the tracking; the pages may be written freely again. The memory is still mapped.
  virtual ~PageTracker() = default;
  // Appends, in order, pages of [begin, end) that may have been written since the last Harvest over them - at first:
  // that may hold something - and watches all of the range from then on. A page that is written while this runs is
  // reported now or by the next. `begin` and `end` are multiples of kPageBytes, at most kSliceBytesMax apart.
  // kInternal: the system refused; nothing is known of the range.
  virtual Status Harvest(std::uint64_t begin, std::uint64_t end, std::vector<PageRange>& written) = 0;
};

// The best kind that works on this machine, tried out. kNone if none does.
TrackerKind ProbeTracker();
// Of the memory at `base`, which may grow to `bytes_max` bytes; `base` is aligned to the system's pages. For kNone:
// kUnsupported.
Result<std::unique_ptr<PageTracker>> CreateTracker(TrackerKind kind, std::uint8_t* base, std::uint64_t bytes_max);

}  // namespace godwit::migration
