// Worker: one OS thread of an instance host and the runtime instance that it owns. A reactor's worker serves several
// requests in one instance; a command's worker one request at a time, each in an instance of its own.
//
// Functions that say "lock" are called with HostCore::lock held, by any thread.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <vector>

#include "agent/host_core.h"
#include "agent/warm_thread.h"
#include "device/foreground.h"
#include "runtime/instance.h"

namespace godwit::agent {

class Worker {
 public:
  explicit Worker(HostCore* core);
  ~Worker();  // Joins; HostCore::stopping is set.

  // Makes an instance as Restore will, and drops it: what it leaves behind serves that one, and all of it is in the caches.
  void Rehearse();
  // Before Launch, by the thread that makes the host.
  Status Initialise();  // A reactor's instance, with its start function and _initialize run.
  Status Restore(const snapshot::Snapshot& snapshot, std::vector<std::shared_ptr<Exchange>> serving,
                 std::unique_ptr<runtime::ArrivingMemory> memory);
  void Launch();  // Once, however often it is called.

  // --- lock
  void Signal() { wake_->Signal(); }
  void RequestStop();
  void WithdrawStop();
  void CancelRunning();
  void Drop(Exchange* exchange);  // Its request has ended.
  bool parked() const { return parked_; }
  bool idle() const { return !instance_ && calls_.empty() && !creating_; }
  bool has_instance() const { return instance_ != nullptr && (core_->reactor() || !calls_.empty()); }
  bool runs(const runtime::Instance& instance) const { return instance_.get() == &instance; }
  Exchange* Find(std::uint32_t handle, runtime::TaskId task) const;
  Exchange* running() const { return running_; }
  std::chrono::nanoseconds RunningCpu() const;
  std::vector<const Exchange*> serving() const;
  std::uint64_t memory_bytes() const { return memory_bytes_; }
  // Null: no instance, or none with a memory.
  std::shared_ptr<const runtime::LiveMemory> memory() const { return instance_ && !creating_ ? instance_->memory() : nullptr; }
  void Nap(std::chrono::microseconds length) {
    if (running_ != nullptr) instance_->Nap(length);
  }
  // What it ran since the last time; with more than its share it sleeps.
  std::chrono::nanoseconds Pace(double share, std::chrono::steady_clock::duration credit, std::chrono::steady_clock::time_point now);
  // Captures by the calling thread, the host being paused, if this worker sleeps and has nothing to do. True: it has
  // parked, as far as others see. The lock is released meanwhile.
  bool CaptureIdle(std::unique_lock<std::mutex>& lock);
  // What it captured when it parked.
  Result<snapshot::Snapshot> TakeSnapshot();

 private:
  struct GuestCall {
    runtime::TaskId task;
    std::shared_ptr<Exchange> exchange;
    std::optional<runtime::Blocked> blocked;  // Set while it waits.
    bool ready = true;
  };
  using Lock = std::unique_lock<std::mutex>;

  void Main();
  void Park(Lock& lock);
  Result<snapshot::Snapshot> Capture(Lock& lock);
  bool DropEnded(Lock& lock);
  bool TakeWork(Lock& lock);
  Result<std::unique_ptr<runtime::Instance>> CreateInstance(const std::shared_ptr<Exchange>& exchange);
  std::vector<std::shared_ptr<runtime::HostModule>> HostModules(const std::shared_ptr<Exchange>& exchange, Status* status);
  Status RunToEnd(runtime::Instance& instance, std::uint32_t function);
  void RunOne(Lock& lock, std::size_t index);
  void End(Lock& lock, GuestCall call, runtime::Outcome outcome);
  void FailTrapped(Exchange& exchange, const std::string& function, const std::string& message);
  void Wait(Lock& lock);
  void Renew(Lock& lock);
  std::uint64_t ThreadCpuNs() const;
  runtime::Limits InstanceLimits() const;

  HostCore* core_;
  std::shared_ptr<EventFd> wake_ = std::make_shared<EventFd>();
  std::unique_ptr<runtime::Instance> instance_;
  std::vector<GuestCall> calls_;
  std::size_t next_call_ = 0;
  Exchange* running_ = nullptr;
  std::uint64_t running_since_cpu_ns_ = 0, paced_cpu_ns_ = 0;
  device::Debt debt_;
  bool creating_ = false, parked_ = false, renew_ = false;
  bool sleeping_ = false;         // In Wait.
  // This pause leaves the instance alone: CaptureIdle captured it, or it was restored into a paused host.
  bool captured_idle_ = false;
  std::optional<Result<snapshot::Snapshot>> captured_;
  std::uint64_t memory_bytes_ = 0;
  std::optional<std::uint32_t> handler_;
  std::unique_ptr<WarmThread> thread_;
  std::optional<clockid_t> cpu_clock_;
};

}  // namespace godwit::agent
