// Logs: the last lines of each service, in memory, for `godwit logs`.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace godwit::control {

inline constexpr std::size_t kLogLinesMax = 10'000;      // Of one service; the oldest go first.
inline constexpr std::size_t kLogLineBytesMax = 16'384;  // Longer lines are cut.
inline constexpr std::size_t kLogServicesMax = 1'000;    // Lines of further services are dropped.

// Self-synchronised.
class Logs {
 public:
  // Called with each line (JSON) under the log's lock: it must not block nor call the log.
  using Listener = std::function<void(const std::string& line)>;

  void Append(const std::string& service, std::string line);
  // The last `tail` lines, oldest first.
  std::vector<std::string> Tail(const std::string& service, std::size_t tail) const;
  // Calls `listener` with the last `tail` lines and then with each new one until Unfollow.
  std::uint64_t Follow(const std::string& service, std::size_t tail, Listener listener);
  void Unfollow(std::uint64_t follower);
  void Forget(const std::string& service);

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::deque<std::string>> lines_;
  std::map<std::uint64_t, std::pair<std::string, Listener>> followers_;
  std::uint64_t next_ = 1;
};

}  // namespace godwit::control
