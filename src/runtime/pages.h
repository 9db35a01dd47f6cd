// Which pages of a linear memory a snapshot must hold: those that differ from the module's initial image.
#pragma once

#include <span>
#include <vector>

#include "runtime/module.h"
#include "snapshot/snapshot.h"

namespace godwit::runtime {

// Runs of changed pages of [base, base + bytes), pointing into it. Pages that were never touched are skipped
// without looking at them where the system can tell. Pages of `blank`, aligned and of these, count as zeros whatever is there, unless the module has
// something there initially.
std::vector<snapshot::PageRun> ChangedPages(const std::uint8_t* base, std::uint64_t bytes, const InitialPages& initial,
                                            std::span<const std::uint8_t> blank = {});

// Makes the pages of [base, base + bytes) what they are initially. Only those are written that differ.
void RestorePages(std::uint8_t* base, std::uint64_t bytes, const InitialPages& initial);

// Whether a page holds only zeros. `page` is aligned to 8 bytes.
bool IsZeroPage(const std::uint8_t* page);

}  // namespace godwit::runtime
