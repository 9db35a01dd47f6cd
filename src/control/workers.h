// Workers: a few threads for work that blocks, so that the event loop does not.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace godwit::control {

inline constexpr std::size_t kWorkQueueMax = 1024;

// Self-synchronised.
class Workers {
 public:
  explicit Workers(std::size_t threads) {
    for (std::size_t i = 0; i < threads; ++i) threads_.emplace_back([this] { Run(); });
  }
  // Finishes what was queued.
  ~Workers() {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  // False, and nothing is queued, if kWorkQueueMax pieces wait already.
  bool TryPost(std::function<void()> work) { return Queue(std::move(work), kWorkQueueMax); }
  // For work that must not be refused: ends of what was begun.
  void Post(std::function<void()> work) { Queue(std::move(work), SIZE_MAX); }

 private:
  bool Queue(std::function<void()> work, std::size_t max) {
    {
      std::lock_guard lock(mutex_);
      if (queue_.size() >= max) return false;
      queue_.push_back(std::move(work));
    }
    changed_.notify_one();
    return true;
  }

  void Run() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [&] { return stopping_ || !queue_.empty(); });
      if (queue_.empty()) return;
      auto work = std::move(queue_.front());
      queue_.pop_front();
      lock.unlock();
      work();
      work = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> queue_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace godwit::control
