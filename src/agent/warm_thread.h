// WarmThread: a thread that was made before there is work for it. Making one takes the maker's processor away for as
// long as the system likes, which an instance that is about to be resumed would feel.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

namespace godwit::agent {

inline constexpr std::size_t kWarmThreadsMax = 16;  // Kept waiting, per process.

// One owner; the destructor waits for the work to end.
class WarmThread {
 public:
  // Runs `work` on a thread that waits already, or else on a new one.
  static std::unique_ptr<WarmThread> Run(std::function<void()> work);
  // Makes threads until `count` wait. Best effort. Any thread.
  static void Prepare(std::size_t count);
  ~WarmThread();
  WarmThread(const WarmThread&) = delete;
  WarmThread& operator=(const WarmThread&) = delete;

 private:
  struct State;
  explicit WarmThread(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace godwit::agent
