// A table of key-value pairs for the device functions lookup, pairs and follow: an SQLite database file (device/pairs.h), made from lines of records.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"

namespace godwit::cli {

struct PairsSource {
  std::string file;
  std::string key;    // Of a JSON line a member, of comma-separated values a column by its name in the first line.
  std::string value;  // Likewise; empty: the whole record.
};

// Writes `to`; the number of pairs. kInvalidArgument names the line: no such member or column, a key twice.
Result<std::uint64_t> WritePairs(const PairsSource& source, const std::string& to);

}  // namespace godwit::cli
