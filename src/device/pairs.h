// A table of key-value pairs as a dataset: an SQLite database file with a table pairs(key PRIMARY KEY, value), read where it lies, page by page.
//
// The file comes from outside: it is opened read-only, without views, triggers, virtual tables, generated columns or functions that a schema could
// name, and nothing is looked up in it but by its primary key. Format: https://www.sqlite.org/fileformat2.html.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "device/function.h"

namespace godwit::device {

inline constexpr std::size_t kPairBytesMax = 64 << 10;  // Of a key and its value.

// Bound to one thread; `source` must outlive it.
class PairTable {
 public:
  // kInvalidArgument: no such table; kCorrupt; what reading the source gives.
  static Result<std::unique_ptr<PairTable>> Open(const Source& source);
  virtual ~PairTable() = default;
  // Valid until the next call; nullopt: no such key.
  virtual Result<std::optional<std::string_view>> Get(std::string_view key) = 0;
  struct Range {
    std::string from;                // The first key, or what lies before it if `behind`.
    bool behind = false;
    std::optional<std::string> to;   // Before this one.
  };
  // Pairs in the order of their keys until `each` returns false (then false) or there are no more.
  virtual Result<bool> Walk(const Range& range, const std::function<bool(std::string_view key, std::string_view value)>& each) = 0;
  virtual std::uint64_t read_bytes() const = 0;
};

}  // namespace godwit::device
