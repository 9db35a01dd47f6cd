// PageTracker by userfaultfd's asynchronous write protection and PAGEMAP_SCAN.
#pragma once

#include "migration/page_tracker.h"

namespace godwit::migration {

// kUnsupported, saying what is missing.
Result<std::unique_ptr<PageTracker>> CreateWriteProtectTracker(std::uint8_t* base, std::uint64_t bytes_max);

}  // namespace godwit::migration
