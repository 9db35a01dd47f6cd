// HostCore: what an instance host's front and its worker threads share. Everything is guarded by `lock`.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "agent/bundle.h"
#include "agent/exchange.h"
#include "agent/guest_api.h"
#include "agent/instance_host.h"
#include "agent/warm_thread.h"

namespace godwit::agent {

class Worker;

class HostCore final : public GuestRequests {
 public:
  explicit HostCore(InstanceHost::Options from);
  ~HostCore() override;

  bool reactor() const { return options.service.manifest.kind == model::ServiceKind::kReactor; }
  std::uint32_t concurrency() const;
  // How often each request's CPU time is looked at, where the manifest limits it.
  static constexpr std::chrono::milliseconds kCpuCheckInterval{20};
  // For how long a reactor's request that has ended may go on, so that it leaves the memory that it shares in order.
  static constexpr std::chrono::milliseconds kLeaveTime{100};

  // --- The lock is held.
  // Ends the request with `failure`: tells the sink, and its worker to drop it.
  void Fail(Exchange& exchange, Failure failure);
  Exchange* FindOpen(const RequestId& id);
  std::uint32_t NewHandle() { return next_handle++ == ~0u ? (next_handle = 2, 1u) : next_handle - 1; }
  // Wakes workers for what waits; a command host starts another one if it may.
  void Dispatch();
  void Unpause();
  // Has the timer's thread look at `when`, and launches it the first time.
  void ArmTimer(std::chrono::steady_clock::time_point when);
  // Forgets a request whose answer has been given, or keeps it for its gateway to come back.
  void Retire(const std::shared_ptr<Exchange>& exchange);

  // Ends the thread that ends requests whose time is up. Takes the lock itself.
  void JoinTimer();

  // --- GuestRequests
  std::mutex& mutex() override { return lock; }
  Exchange* Find(std::uint32_t handle, runtime::Instance& instance, runtime::TaskId task) override;
  std::shared_ptr<Exchange> Share(Exchange* exchange) override;
  const model::Manifest& manifest() const override { return options.service.manifest; }
  const Asker& asker() const override { return asker_; }
  Environment& environment() override { return *options.environment; }

  InstanceHost::Options options;
  mutable std::mutex lock;
  std::condition_variable changed;  // paused, stopping, or a worker parked.
  std::map<RequestId, std::shared_ptr<Exchange>> exchanges;
  std::deque<std::shared_ptr<Exchange>> waiting;
  std::vector<std::unique_ptr<Worker>> workers;
  std::uint32_t next_handle = 1;
  bool paused = false, stopping = false, released = false;
  std::optional<std::chrono::steady_clock::time_point> running_since;  // When a worker could first run the guest.
  std::uint64_t pauses = 0;  // How often it was paused: a worker parks anew for each.
  std::vector<const std::uint8_t*> copied_elsewhere;  // Bases of memories whose pages a capture leaves out.
  Location moved_to;
  std::uint64_t requests_total = 0, failed_total = 0, traps_total = 0;
  RecentUse recent;
  const std::shared_ptr<std::atomic<std::uint64_t>> open_files = std::make_shared<std::atomic<std::uint64_t>>(0);  // Of /data. No lock.

 private:
  void TimerMain();

  Asker asker_;
  std::unique_ptr<WarmThread> timer_;
  std::condition_variable timer_changed_;
  std::chrono::steady_clock::time_point timer_due_ = std::chrono::steady_clock::time_point::max();
};

Failure TooLarge(ByteCount limit);
// kInvalidArgument if the module does not export what its kind needs.
Status CheckModule(const godwit::fbs::Module& module, model::ServiceKind kind);
// An RFC 9457 problem.
std::string ProblemJson(std::uint16_t status, std::string_view title, std::string_view detail, std::string_view service,
                        std::string_view function);

}  // namespace godwit::agent
