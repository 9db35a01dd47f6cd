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

  // `blocks_max`: of one copy; a further block takes the place of the one that was put first.
  explicit CopiedData(std::uint64_t bytes_max, std::size_t blocks_max = ~std::size_t{0}) : bytes_max_(bytes_max), blocks_max_(blocks_max) {}

  // Null: not here (any more). Blocks are [index * kBlockBytes, ...), the last one shorter.
  std::shared_ptr<const Bytes> Get(const std::string& copy, std::uint64_t block);
  void Put(const std::string& copy, std::uint64_t block, std::shared_ptr<const Bytes> bytes);
  // Of [begin, end) what is here, in bytes.
  std::uint64_t Here(const std::string& copy, std::uint64_t begin, std::uint64_t end) const;
  std::uint64_t bytes() const;

 private:
  struct Entry {
    std::string copy;
    std::uint64_t block;
    std::shared_ptr<const Bytes> bytes;
    std::uint64_t number;  // Grows with each that is put.
  };
  void Drop(std::list<Entry>::iterator entry);

  const std::uint64_t bytes_max_;
  const std::size_t blocks_max_;
  mutable std::mutex mutex_;
  std::list<Entry> used_;  // The latest first.
  std::map<std::string, std::map<std::uint64_t, std::list<Entry>::iterator>> copies_;
  std::uint64_t bytes_ = 0, next_number_ = 0;
};

}  // namespace godwit::agent
