// GuestPacer: where a cgroup limits the agent's processor time, guests leave of it what the rest of the agent needs (device/foreground.h).
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "agent/instance_host.h"
#include "device/foreground.h"

namespace godwit::agent {

// Limits may come, go and change while it lasts (a container's that is resized).
class GuestPacer {
 public:
  using PaceAll = std::function<InstanceHost::Computed(double share, device::Foreground::Clock::duration credit)>;
  // `pace`: InstanceHost::Pace of all that are here. Both outlive it.
  GuestPacer(device::Foreground& foreground, PaceAll pace);
  ~GuestPacer();

 private:
  void Main();

  device::Foreground& foreground_;
  const PaceAll pace_;
  std::mutex mutex_;
  std::condition_variable ends_;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace godwit::agent
