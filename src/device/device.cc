#include "device/device.h"

#include <fmt/format.h>

namespace godwit::device {

Completion Device::Call(Request request, std::chrono::milliseconds timeout) {
  const std::uint64_t id = request.id;
  Queue queue(*this);
  queue.Submit(std::move(request));
  if (auto completion = queue.Wait(timeout)) return std::move(*completion);
  Completion late;
  late.id = id;
  late.status = DeadlineExceeded(fmt::format("the device has not answered within {} ms", timeout.count()));
  return late;
}

void Queue::Submit(Request request) {
  {
    const std::lock_guard lock(state_->mutex);
    ++state_->under_way;
  }
  device_.Submit(std::move(request), [state = state_](Completion completion) {
    const std::lock_guard lock(state->mutex);
    state->completions.push_back(std::move(completion));
    --state->under_way;
    state->changed.notify_all();
  });
}

std::optional<Completion> Queue::Poll() { return Wait(std::chrono::milliseconds(0)); }

std::optional<Completion> Queue::Wait(std::chrono::milliseconds most) {
  std::unique_lock lock(state_->mutex);
  if (state_->completions.empty() && most.count() > 0) {
    state_->changed.wait_for(lock, most, [&] { return !state_->completions.empty(); });
  }
  if (state_->completions.empty()) return std::nullopt;
  Completion first = std::move(state_->completions.front());
  state_->completions.pop_front();
  return first;
}

std::size_t Queue::under_way() const {
  const std::lock_guard lock(state_->mutex);
  return state_->under_way;
}

}  // namespace godwit::device
