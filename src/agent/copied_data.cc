#include "agent/copied_data.h"

#include <algorithm>

namespace godwit::agent {

std::shared_ptr<const Bytes> CopiedData::Get(const std::string& copy, std::uint64_t block) {
  const std::lock_guard lock(mutex_);
  const auto blocks = copies_.find(copy);
  if (blocks == copies_.end()) return nullptr;
  const auto found = blocks->second.find(block);
  if (found == blocks->second.end()) return nullptr;
  used_.splice(used_.begin(), used_, found->second);
  return found->second->bytes;
}

void CopiedData::Put(const std::string& copy, std::uint64_t block, std::shared_ptr<const Bytes> bytes) {
  const std::lock_guard lock(mutex_);
  auto& blocks = copies_[copy];
  if (blocks.count(block) != 0) return;  // Somebody else has fetched it meanwhile.
  bytes_ += bytes->size();
  used_.push_front({copy, block, std::move(bytes)});
  blocks[block] = used_.begin();
  while (bytes_ > bytes_max_) {
    const Entry& last = used_.back();
    bytes_ -= last.bytes->size();
    const auto of = copies_.find(last.copy);
    of->second.erase(last.block);
    if (of->second.empty()) copies_.erase(of);
    used_.pop_back();
  }
}

std::uint64_t CopiedData::Here(const std::string& copy, std::uint64_t begin, std::uint64_t end) const {
  const std::lock_guard lock(mutex_);
  const auto blocks = copies_.find(copy);
  std::uint64_t here = 0;
  if (blocks == copies_.end()) return here;
  for (auto at = blocks->second.lower_bound(begin / kBlockBytes); at != blocks->second.end() && at->first * kBlockBytes < end; ++at) {
    const std::uint64_t first = std::max(begin, at->first * kBlockBytes), last = std::min(end, at->first * kBlockBytes + at->second->bytes->size());
    here += last - std::min(first, last);
  }
  return here;
}

std::uint64_t CopiedData::bytes() const {
  const std::lock_guard lock(mutex_);
  return bytes_;
}

}  // namespace godwit::agent
