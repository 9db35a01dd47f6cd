// ControlClient: the agent's side of the controller's API: keeps the device registered under its lease, follows the
// records, and sends what the agent reports. Owns the threads that block on HTTP for it.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/records.h"
#include "transport/http_client.h"

namespace godwit::agent {

// Self-synchronised. The handlers are called on its threads, those of one kind of record in order.
class ControlClient {
 public:
  struct Handlers {
    // A record was put (its JSON) or deleted (`json` empty).
    std::function<void(const std::string& kind, const std::string& name, const std::string& json)> on_record;
    std::function<model::DeviceRecord()> device;   // As it is to be registered now.
    std::function<void()> on_registered;
    std::function<void()> on_lease_lost;           // The lease's time is over without a renewal.
  };
  static constexpr std::size_t kReportsMax = 10'000;  // Waiting to be sent; more are dropped, oldest first.

  ControlClient(std::string url, std::string token, Handlers handlers);
  ~ControlClient();
  // Registers and follows `kinds`; returns at once.
  void Start(const std::vector<std::string>& kinds);
  // Gives the lease back and ends all threads.
  void Stop();
  bool registered() const { return registered_.load(); }

  // One call, now, on the caller's thread. The error is the answer's problem.
  Result<std::string> Call(const std::string& method, const std::string& target, const std::string& body);
  Status FetchBlob(const std::string& digest, const std::function<Status(ByteView)>& sink);
  // A call to be made in order with the other reports, again until it is answered; `done` may be null.
  void Report(std::string method, std::string target, std::string body, std::function<void(Status)> done = nullptr);

 private:
  struct Follower;
  struct PendingReport {
    std::string method, target, body;
    std::function<void(Status)> done;
  };
  Result<std::unique_ptr<transport::HttpClient>> Connect() const;
  void LeaseMain();
  void ReportMain();
  void Follow(Follower& follower);
  // Waits; true if stopping.
  bool Pause(std::chrono::milliseconds time);

  const std::string url_, token_;
  const Handlers handlers_;
  std::atomic<bool> registered_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  std::vector<PendingReport> reports_;
  std::vector<std::unique_ptr<Follower>> followers_;
  std::thread lease_thread_, report_thread_;
};

}  // namespace godwit::agent
