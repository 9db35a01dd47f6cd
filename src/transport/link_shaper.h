// Emulates a link's bandwidth and latency: says when bytes that are sent now would arrive. Pure, no clock.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>

#include "transport/channel.h"

namespace godwit::transport {

class LinkShaper {
 public:
  using Time = std::chrono::steady_clock::time_point;
  explicit LinkShaper(LinkShape shape) : shape_(shape) {}

  bool active() const { return shape_.bytes_per_second > 0 || shape_.latency.count() > 0; }
  // The most to pass to Admit at once, so that a large write does not hide what was queued after it.
  std::size_t piece_bytes() const {
    constexpr std::size_t kSmallest = 4 << 10, kLargest = 256 << 10;
    if (shape_.bytes_per_second == 0) return kLargest;
    return std::min(kLargest, std::max<std::size_t>(kSmallest, shape_.bytes_per_second / 200));
  }
  // Bytes queued at `now` follow all earlier ones; returns when the last of them has arrived.
  Time Admit(Time now, std::size_t bytes) {
    free_ = std::max(free_, now);
    if (shape_.bytes_per_second > 0) {
      free_ += std::chrono::nanoseconds(static_cast<std::int64_t>(1e9 * static_cast<double>(bytes) / static_cast<double>(shape_.bytes_per_second)));
    }
    return free_ + shape_.latency;
  }

 private:
  LinkShape shape_;
  Time free_{};  // When the emulated link is free again.
};

}  // namespace godwit::transport
