// CopiedData: blocks of datasets of other devices, as they were fetched, kept in memory for the next work over them here.
//
// So much as it may hold, the least recently used go first. A copy is of one version of a dataset (by its digest) for one service.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "base/bytes.h"

namespace godwit::agent {

// Self-synchronised.
class CopiedData {
 public:
  static constexpr std::uint64_t kBlockBytes = 512 << 10;

  explicit CopiedData(std::uint64_t bytes_max) : bytes_max_(bytes_max) {}

  // Null: not here (any more). Blocks are [index * kBlockBytes, ...), the last one shorter.
  std::shared_ptr<const Bytes> Get(const std::string& copy, std::uint64_t block);
  void Put(const std::string& copy, std::uint64_t block, std::shared_ptr<const Bytes> bytes);
  // Of [begin, end) what is here, in bytes.
  std::uint64_t Here(const std::string& copy, std::uint64_t begin, std::uint64_t end) const;
  std::uint64_t bytes() const;
  std::uint64_t bytes_max() const { return bytes_max_; }

 private:
  struct Entry {
    std::string copy;
    std::uint64_t block;
    std::shared_ptr<const Bytes> bytes;
  };
  const std::uint64_t bytes_max_;
  mutable std::mutex mutex_;
  std::list<Entry> used_;  // The latest first.
  std::map<std::string, std::map<std::uint64_t, std::list<Entry>::iterator>> copies_;
  std::uint64_t bytes_ = 0;
};

}  // namespace godwit::agent
