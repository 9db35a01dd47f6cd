#include "device/under_way.h"

#include <algorithm>
#include <random>
#include <utility>

#include <fmt/format.h>

namespace godwit::device {

Completion Failed(std::uint64_t id, Error error) {
  Completion completion;
  completion.id = id;
  completion.status = std::move(error);
  return completion;
}

UnderWay::UnderWay() {
  std::random_device random;
  next_ = static_cast<std::uint64_t>(random()) << 32 | random();
}

bool UnderWay::Begin(Request& request, Device::Done done) {
  {
    const std::lock_guard lock(mutex_);
    auto known = waiting_.end();
    if (request.opcode == Opcode::kAbort) {
      known = std::find_if(waiting_.begin(), waiting_.end(), [&](const auto& one) { return one.second.id == request.value && one.second.tenant == request.tenant; });
    }
    if (request.opcode != Opcode::kAbort || known != waiting_.end()) {
      if (known != waiting_.end()) request.value = known->first;
      const std::uint64_t number = next_++;
      waiting_[number] = {std::exchange(request.id, number), request.tenant, std::move(done)};
      return true;
    }
  }
  done(Failed(request.id, NotFound(fmt::format("no request {} of '{}' is under way here", request.value, request.tenant))));
  return false;
}

void UnderWay::Finish(Completion completion) {
  Waiting waiting;
  {
    const std::lock_guard lock(mutex_);
    auto found = waiting_.extract(completion.id);
    if (found.empty()) return;
    waiting = std::move(found.mapped());
  }
  completion.id = waiting.id;
  waiting.done(std::move(completion));
}

void UnderWay::FailAll(const Error& error) {
  std::map<std::uint64_t, Waiting> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(waiting_);
  }
  for (const auto& [number, one] : all) one.done(Failed(one.id, error));
}

}  // namespace godwit::device
