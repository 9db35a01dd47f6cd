// The functions that every device brings itself (docs/formats/device-protocol.md has their arguments).
#pragma once

#include <memory>
#include <vector>

#include "device/function.h"

namespace godwit::device {

// Their numbers, which are the same on each device.
enum class BuiltIn : std::uint32_t { kScan = 1, kMatch = 2, kChecksum = 3, kGather = 4, kChase = 5, kLookup = 6, kPairs = 7, kFollow = 8 };

std::vector<std::shared_ptr<const Function>> BuiltInFunctions();

// One each; in files of their own.
std::shared_ptr<const Function> MakeScan();      // Filter, project, aggregate a table.
std::shared_ptr<const Function> MakeMatch();     // Lines that match a regular expression.
std::shared_ptr<const Function> MakeChecksum();  // CRC-32C.
std::shared_ptr<const Function> MakeGather();    // Rows of a matrix, reduced (RecSSD's embedding look-up).
std::shared_ptr<const Function> MakeChase();     // Dependent look-ups: records that name the next one.
std::shared_ptr<const Function> MakeLookup();       // Values of keys (pairs.h).
std::shared_ptr<const Function> MakePairs();     // Pairs in the order of their keys.
std::shared_ptr<const Function> MakeFollow();    // Dependent look-ups: values that name the next key.

}  // namespace godwit::device
