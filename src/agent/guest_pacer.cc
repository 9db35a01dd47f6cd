#include "agent/guest_pacer.h"

#include <utility>

namespace godwit::agent {

GuestPacer::GuestPacer(device::Foreground& foreground, PaceAll pace) : foreground_(foreground), pace_(std::move(pace)), thread_([this] { Main(); }) {}

GuestPacer::~GuestPacer() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  ends_.notify_all();
  thread_.join();
}

void GuestPacer::Main() {
  constexpr std::chrono::milliseconds kBusy{2}, kIdle{20}, kNoLimit{1000};
  std::unique_lock lock(mutex_);
  while (!ending_) {
    if (!foreground_.limited()) {
      ends_.wait_for(lock, kNoLimit, [this] { return ending_; });
      continue;
    }
    const auto computed = pace_(foreground_.share_of_guests(), foreground_.credit());
    foreground_.GuestsRan(computed.time, computed.running);
    ends_.wait_for(lock, computed.running > 0 ? kBusy : kIdle, [this] { return ending_; });
  }
}

}  // namespace godwit::agent
