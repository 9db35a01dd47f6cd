// PageTracker by mprotect and SIGSEGV.
#pragma once

#include "migration/page_tracker.h"

namespace godwit::migration {

// Memories tracked this way at once, in one process.
inline constexpr std::size_t kProtectTrackersMax = 64;

// Watches units of 64 KiB, so that a memory with many written places does not run into the system's limit of mappings.
// kResourceExhausted past kProtectTrackersMax; kUnsupported where the system refuses.
Result<std::unique_ptr<PageTracker>> CreateProtectTracker(std::uint8_t* base, std::uint64_t bytes_max);

}  // namespace godwit::migration
