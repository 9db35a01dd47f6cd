// What transport's and the gateway's tests share: waiting for events of a loop's thread without sleeping.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace godwit::transport {

// A value that another thread sets once, awaited for at most two minutes.
template <typename T>
class Awaited {
 public:
  void Set(T value) {
    const std::lock_guard lock(mutex_);
    if (!value_) value_ = std::move(value);
    changed_.notify_all();
  }
  // nullopt if it did not come.
  std::optional<T> Wait(std::chrono::milliseconds most = std::chrono::minutes(2)) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, most, [&] { return value_.has_value(); });
    return value_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<T> value_;
};

}  // namespace godwit::transport
