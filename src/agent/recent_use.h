// RecentUse: how often an instance was asked of late, and what its requests took.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <deque>
#include <optional>
#include <vector>

namespace godwit::agent {

// Guarded by its user. Remembers at most 1024 requests of the last 30 seconds.
class RecentUse {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr std::size_t kMost = 1024;
  static constexpr std::chrono::seconds kWindow{30};

  struct Figures {
    double requests_per_second = 0;
    double cpu_ms = 0;  // The mean.
    double p99_ms = 0;  // From when a request came to its whole answer.
  };

  void Add(Clock::time_point now, Clock::duration took, std::chrono::nanoseconds cpu) {
    if (requests_.size() == kMost) requests_.pop_front();
    requests_.push_back({now, took, cpu});
  }
  // nullopt where there were none.
  std::optional<Figures> Get(Clock::time_point now) {
    while (!requests_.empty() && requests_.front().ended < now - kWindow) requests_.pop_front();
    if (requests_.empty()) return std::nullopt;
    const auto ms = [](auto duration) { return std::chrono::duration<double, std::milli>(duration).count(); };
    Figures figures;
    std::vector<Clock::duration> took;
    for (const Request& request : requests_) {
      took.push_back(request.took);
      figures.cpu_ms += ms(request.cpu);
    }
    const double count = static_cast<double>(requests_.size());
    figures.cpu_ms /= count;
    // Where not all of the window is remembered, the time that is.
    const double span = requests_.size() == kMost ? ms(now - requests_.front().ended) : ms(kWindow);
    figures.requests_per_second = 1000 * count / std::max(span, 1.0);
    const auto nth = took.begin() + static_cast<std::ptrdiff_t>((took.size() - 1) * 99 / 100);
    std::nth_element(took.begin(), nth, took.end());
    figures.p99_ms = ms(*nth);
    return figures;
  }

 private:
  struct Request {
    Clock::time_point ended;
    Clock::duration took;
    std::chrono::nanoseconds cpu;
  };
  std::deque<Request> requests_;
};

}  // namespace godwit::agent
