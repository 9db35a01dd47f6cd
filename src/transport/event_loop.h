// EventLoop: one thread that waits for sockets, timers and posted work, and runs everything that is loop-bound.
//
// Classes of this module say "on the loop": their callbacks run on the loop's thread, one at a time, and must not
// block. Post is how other threads get there.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <string>

namespace boost::asio {
class io_context;
}

namespace godwit::transport {

// A pending call. Destroying or assigning it cancels: the callback then never runs. Loop-bound.
class Timer {
 public:
  Timer() = default;
  Timer(Timer&&) noexcept;
  Timer& operator=(Timer&&) noexcept;
  ~Timer();
  void Cancel();

 private:
  friend class EventLoop;
  struct State;
  std::shared_ptr<State> state_;
};

// Self-synchronised. Destroy it after everything that was created on it, from another thread than its own.
class EventLoop {
 public:
  // Starts the thread; `name` (up to 15 characters) is shown by the system's tools.
  explicit EventLoop(const std::string& name);
  // Ends the thread after the callback that is running; work that is still posted is dropped.
  ~EventLoop();
  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Runs `work` on the loop, after what was posted before. Any thread.
  void Post(std::function<void()> work);
  // Runs `work` on the loop and returns when it has run; at once if called there. Any thread.
  void Run(const std::function<void()>& work);
  // Runs `work` after `delay`, unless the Timer goes first. On the loop only.
  [[nodiscard]] Timer After(std::chrono::milliseconds delay, std::function<void()> work);
  bool OnLoop() const;

  // For this module's own files.
  boost::asio::io_context& context();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::transport
