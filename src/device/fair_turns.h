// Whose turn it is where several tenants want one device: start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM '96), all tenants alike.
//
// Each piece of work gets a start tag when it is begun: how much time its tenant has had, but no less than kLagUs before the greatest tag so far, so that
// who was away for a while has saved nothing up, and who only fetches its next piece loses nothing by it. The least tag is next.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

namespace godwit::device {

// Guarded by its user.
class FairTurns {
 public:
  static constexpr std::uint64_t kLagUs = 20'000;

  // The tag of a piece of this tenant, were it begun now.
  std::uint64_t StartOf(const std::string& tenant) const {
    const auto served = served_us_.find(tenant);
    return served == served_us_.end() ? last_us_ : std::max(last_us_ - std::min(last_us_, kLagUs), served->second);
  }
  // A piece is begun; its tag.
  std::uint64_t Begin(const std::string& tenant) {
    const std::uint64_t start = StartOf(tenant);
    last_us_ = std::max(last_us_, start);
    return start;
  }
  // What was begun with that tag took so long.
  void End(const std::string& tenant, std::uint64_t start_us, std::uint64_t took_us) {
    std::uint64_t& served = served_us_[tenant];
    served = std::max(served, start_us) + std::max<std::uint64_t>(1, took_us);
    std::erase_if(served_us_, [&](const auto& entry) { return entry.second + kLagUs <= last_us_; });
  }
  // Tenants of whom something must be remembered.
  std::size_t remembered() const { return served_us_.size(); }

 private:
  std::map<std::string, std::uint64_t> served_us_;  // Of those who are not farther behind than kLagUs.
  std::uint64_t last_us_ = 0;
};

}  // namespace godwit::device
