#include "agent/copied_data.h"

#include <algorithm>
#include <iterator>

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
  const auto there = copies_.find(copy);
  if (there != copies_.end() && there->second.count(block) != 0) return;  // Somebody else has fetched it meanwhile.
  if (there != copies_.end() && there->second.size() >= blocks_max_) {
    Drop(std::ranges::min_element(there->second, {}, [](const auto& one) { return one.second->number; })->second);
  }
  bytes_ += bytes->size();
  used_.push_front({copy, block, std::move(bytes), next_number_++});
  copies_[copy][block] = used_.begin();
  while (bytes_ > bytes_max_) Drop(std::prev(used_.end()));
}

void CopiedData::Drop(std::list<Entry>::iterator entry) {
  bytes_ -= entry->bytes->size();
  const auto of = copies_.find(entry->copy);
  of->second.erase(entry->block);
  if (of->second.empty()) copies_.erase(of);
  used_.erase(entry);
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
