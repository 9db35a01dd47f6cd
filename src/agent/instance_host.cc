// The host's front: requests in and out, pausing, moving. host_core.h has the state, worker.cc the threads.
#include "agent/instance_host.h"

#include <algorithm>
#include <condition_variable>

#include <fmt/format.h>

#include "agent/header.h"
#include "agent/host_core.h"
#include "agent/worker.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;
using Phase = Exchange::Phase;

class Captured final : public CapturedHost {
 public:
  Captured(Bundle bundle, std::uint64_t memory_bytes, std::uint64_t estimate, std::vector<bool> elsewhere)
      : bundle_(std::move(bundle)), memory_bytes_(memory_bytes), estimate_(estimate), elsewhere_(std::move(elsewhere)) {}
  Status Encode(const std::function<Status(ByteView)>& sink) override { return EncodeBundle(bundle_, sink); }
  std::uint64_t bytes_estimate() const override { return estimate_; }
  std::uint64_t memory_bytes() const override { return memory_bytes_; }
  std::size_t running() const override { return bundle_.snapshots.size(); }
  std::size_t requests() const override { return bundle_.requests.size(); }
  const std::vector<bool>& elsewhere() const override { return elsewhere_; }

 private:
  Bundle bundle_;
  std::uint64_t memory_bytes_, estimate_;
  std::vector<bool> elsewhere_;
};

class Host final : public InstanceHost {
 public:
  explicit Host(Options options) : core_(std::move(options)) {}
  ~Host() override;

  Status Start();
  Status Load(Bundle bundle, ArrivingMemories memories);

  void Open(NewRequest request, std::shared_ptr<RequestSink> sink) override;
  void Body(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) override;
  bool ResponseAck(const RequestId& id, std::uint64_t offset) override;
  void Cancel(const RequestId& id) override;
  void Attach(const RequestId& id, std::uint64_t response_offset, bool head_received,
              std::shared_ptr<RequestSink> sink) override;
  void Detach(const RequestSink* sink) override;
  void EndWebSockets() override { FailOpen([](const Exchange& exchange) { return IsWebSocket(exchange.request); }); }
  LiveMemories Memories() override;
  void Nap(std::chrono::microseconds length) override;
  Computed Pace(double share, Clock::duration credit) override;
  Result<std::unique_ptr<CapturedHost>> PauseAndCapture(std::chrono::milliseconds timeout, const LiveMemories& elsewhere) override;
  void Resume() override;
  void Release(const Location& to) override;
  Statistics statistics() const override;
  const model::InstanceRecord& record() const override { return core_.options.record; }
  const model::ServiceRecord& service() const override { return core_.options.service; }

 private:
  // Those that are open and `which` picks.
  void FailOpen(const std::function<bool(const Exchange&)>& which);
  void JoinWorkers(std::unique_lock<std::mutex>& lock);

  mutable HostCore core_;
};

Status Host::Start() {
  GODWIT_TRY(CheckModule(core_.options.module->module(), core_.options.service.manifest.kind));
  if (core_.reactor()) {
    auto worker = std::make_unique<Worker>(&core_);
    GODWIT_TRY(worker->Initialise());
    core_.workers.push_back(std::move(worker));
    core_.workers.back()->Launch();
  }
  return {};
}

Status Host::Load(Bundle bundle, ArrivingMemories memories) {
  const Options& options = core_.options;
  if (bundle.service != options.service.name.value || bundle.instance != options.record.id.value) {
    return FailedPrecondition(fmt::format("the bundle holds instance {} of service {}, not {}", bundle.instance,
                                          bundle.service, options.record.id.value));
  }
  if (bundle.package != options.module->package().digest()) {
    return FailedPrecondition("the bundle was made with another package: " + bundle.package);
  }
  GODWIT_TRY(CheckModule(options.module->module(), options.service.manifest.kind));
  if (core_.reactor() && bundle.snapshots.size() != 1) return Corrupt("host bundle: a reactor has one instance");
  if (bundle.snapshots.size() > std::max<std::size_t>(kCommandInstancesMax, 1)) {
    return Corrupt("host bundle: more instances than a host runs");
  }
  core_.paused = true;
  core_.next_handle = bundle.next_handle;
  std::vector<std::vector<std::shared_ptr<Exchange>>> served(bundle.snapshots.size());
  for (BundledRequest& request : bundle.requests) {
    if (!core_.exchanges.emplace(request.exchange->request.id, request.exchange).second) {
      return Corrupt("host bundle: one request twice");
    }
    if (request.exchange->phase == Phase::kWaiting) core_.waiting.push_back(request.exchange);
    if (request.instance) served[*request.instance].push_back(request.exchange);
  }
  for (std::size_t i = 0; i < bundle.snapshots.size(); ++i) {
    auto worker = std::make_unique<Worker>(&core_);
    std::unique_ptr<runtime::ArrivingMemory> memory;
    if (bundle.memories[i]) {
      if (*bundle.memories[i] >= memories.size() || !memories[*bundle.memories[i]]) {
        return Corrupt("host bundle: an instance without the memory that was sent ahead");
      }
      memory = std::move(memories[*bundle.memories[i]]);
    }
    GODWIT_TRY(worker->Restore(bundle.snapshots[i], std::move(served[i]), std::move(memory)));
    core_.workers.push_back(std::move(worker));
  }
  return {};  // Resume launches them: to wake a thread twice costs a move as much as anything else does.
}

void Host::JoinWorkers(std::unique_lock<std::mutex>& lock) {
  core_.stopping = true;
  for (const auto& worker : core_.workers) worker->CancelRunning();
  core_.changed.notify_all();
  auto workers = std::move(core_.workers);
  core_.workers.clear();
  lock.unlock();
  workers.clear();  // Joins.
  core_.JoinTimer();
  lock.lock();
}

Host::~Host() {
  FailOpen([](const Exchange&) { return true; });
  std::unique_lock lock(core_.lock);
  if (!core_.released) JoinWorkers(lock);
}

void Host::FailOpen(const std::function<bool(const Exchange&)>& which) {
  const std::lock_guard lock(core_.lock);
  if (core_.released) return;
  const auto exchanges = core_.exchanges;
  for (const auto& [id, exchange] : exchanges) {
    if (!exchange->open() || !which(*exchange)) continue;
    core_.Fail(*exchange, {.status = 503,
                           .code = ErrorCode::kUnavailable,
                           .message = "the instance was stopped",
                           .begun = exchange->phase != Phase::kWaiting,
                           .retry_after_ms = 1000});
  }
}

void Host::Open(NewRequest request, std::shared_ptr<RequestSink> sink) {
  const std::lock_guard lock(core_.lock);
  if (const auto known = core_.exchanges.find(request.id); known != core_.exchanges.end()) {
    if (core_.released) {
      sink->Moved(request.id, core_.moved_to, known->second->captured_received, known->second->carried);
    } else {
      known->second->Attach(std::move(sink), 0, false);
    }
    return;
  }
  if (core_.released) {
    sink->Moved(request.id, core_.moved_to, 0, false);
    return;
  }
  ++core_.requests_total;
  auto exchange = std::make_shared<Exchange>();
  exchange->request = std::move(request);
  exchange->sink = std::move(sink);
  exchange->body_ended = !exchange->request.body_follows;
  const model::Limits& limits = core_.options.service.manifest.limits;
  const auto limit = Clock::now() + limits.request_timeout;
  (IsWebSocket(exchange->request) ? exchange->begin_by : exchange->request.deadline) = std::min(exchange->request.deadline, limit);
  if (exchange->request.body_bytes > 0 && static_cast<std::uint64_t>(exchange->request.body_bytes) > limits.body.value) {
    return core_.Fail(*exchange, TooLarge(limits.body));
  }
  if (core_.waiting.size() >= kWaitingRequestsMax) {
    return core_.Fail(*exchange, {.status = 503,
                                  .code = ErrorCode::kResourceExhausted,
                                  .message = fmt::format("{} requests wait for this instance already", kWaitingRequestsMax),
                                  .begun = false,
                                  .retry_after_ms = 1000});
  }
  exchange->handle = core_.NewHandle();
  core_.exchanges.emplace(exchange->request.id, exchange);
  core_.waiting.push_back(exchange);
  core_.ArmTimer(std::min(exchange->request.deadline, exchange->begin_by));
  core_.Dispatch();
}

void Host::Body(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) {
  const std::lock_guard lock(core_.lock);
  Exchange* exchange = core_.FindOpen(id);
  if (exchange == nullptr) return;
  const ByteCount limit = core_.options.service.manifest.limits.body;
  if (offset + bytes.size() > limit.value && !IsWebSocket(exchange->request)) return core_.Fail(*exchange, TooLarge(limit));
  if (!exchange->TakeBody(offset, bytes, last)) {
    return core_.Fail(*exchange, {.status = 502,
                                  .code = ErrorCode::kCorrupt,
                                  .message = "the gateway sent body bytes out of order or beyond the window"});
  }
  exchange->Wake();
}

bool Host::ResponseAck(const RequestId& id, std::uint64_t offset) {
  const std::lock_guard lock(core_.lock);
  const auto found = core_.exchanges.find(id);
  if (found == core_.exchanges.end()) return true;
  if (core_.released) return false;
  found->second->Acknowledge(offset);
  if (found->second->phase != Phase::kEnded) return false;
  core_.exchanges.erase(found);
  return true;
}

void Host::Cancel(const RequestId& id) {
  const std::lock_guard lock(core_.lock);
  const auto found = core_.exchanges.find(id);
  if (found == core_.exchanges.end() || core_.released) return;
  found->second->sink = nullptr;
  core_.Fail(*found->second, {.status = 499, .code = ErrorCode::kAborted, .message = "cancelled by the client"});
}

void Host::Attach(const RequestId& id, std::uint64_t response_offset, bool head_received,
                  std::shared_ptr<RequestSink> sink) {
  const std::lock_guard lock(core_.lock);
  const auto found = core_.exchanges.find(id);
  if (found == core_.exchanges.end()) {
    sink->Failed(id, {.status = 502,
                      .code = ErrorCode::kNotFound,
                      .message = "the request is not known here",
                      .problem = {},
                      .begun = true});
    return;
  }
  Exchange& exchange = *found->second;
  if (core_.released) {
    sink->Moved(id, core_.moved_to, exchange.captured_received, exchange.carried);
    return;
  }
  exchange.Attach(std::move(sink), response_offset, head_received);
}

void Host::Detach(const RequestSink* sink) {
  const std::lock_guard lock(core_.lock);
  for (const auto& [id, exchange] : core_.exchanges) {
    if (exchange->sink.get() == sink) exchange->sink = nullptr;
  }
}

LiveMemories Host::Memories() {
  const std::lock_guard lock(core_.lock);
  LiveMemories memories;
  for (const auto& worker : core_.workers) {
    if (auto memory = worker->memory()) memories.push_back(std::move(memory));
  }
  return memories;
}

void Host::Nap(std::chrono::microseconds length) {
  const std::lock_guard lock(core_.lock);
  for (const auto& worker : core_.workers) worker->Nap(length);
}

InstanceHost::Computed Host::Pace(double share, Clock::duration credit) {
  const std::lock_guard lock(core_.lock);
  Computed computed;
  for (const auto& worker : core_.workers) {
    computed.time += worker->Pace(share, credit, Clock::now());
    if (worker->running() != nullptr) ++computed.running;
  }
  return computed;
}

Result<std::unique_ptr<CapturedHost>> Host::PauseAndCapture(std::chrono::milliseconds timeout, const LiveMemories& elsewhere) {
  std::unique_lock lock(core_.lock);
  if (core_.released || core_.stopping) return FailedPrecondition("the instance is not here any more");
  if (core_.paused) return FailedPrecondition("the instance is being moved already");
  core_.paused = true;
  ++core_.pauses;
  core_.copied_elsewhere.clear();
  for (const auto& memory : elsewhere) core_.copied_elsewhere.push_back(memory->base());
  const bool idle = core_.workers.size() == 1 && core_.workers[0]->CaptureIdle(lock);
  if (!idle) {
    for (const auto& worker : core_.workers) worker->RequestStop();
  }
  const bool parked = core_.changed.wait_for(lock, timeout, [&] {
    return core_.stopping ||
           std::all_of(core_.workers.begin(), core_.workers.end(), [](const auto& worker) { return worker->parked(); });
  });
  Bundle bundle;
  Status status;
  if (core_.stopping) status = FailedPrecondition("the instance is being stopped");
  if (!parked) status = DeadlineExceeded(fmt::format("the instance did not stop within {} ms", timeout.count()));
  std::map<const Exchange*, std::uint32_t> served_by;
  std::uint64_t memory_bytes = 0, estimate = 1 << 20;
  std::vector<bool> left_out(elsewhere.size());
  for (const auto& worker : core_.workers) {
    if (!status.ok() || !worker->has_instance()) continue;
    auto snapshot = worker->TakeSnapshot();
    if (!snapshot.ok()) {
      status = snapshot.error();
      continue;
    }
    for (const Exchange* exchange : worker->serving()) served_by[exchange] = static_cast<std::uint32_t>(bundle.snapshots.size());
    memory_bytes += worker->memory_bytes();
    bundle.memories.emplace_back();
    const auto memory = worker->memory();
    for (std::uint32_t i = 0; memory && i < elsewhere.size(); ++i) {
      if (elsewhere[i]->base() != memory->base()) continue;
      bundle.memories.back() = i;
      left_out[i] = true;
    }
    for (const snapshot::Memory& memory : snapshot->memories) {
      for (const snapshot::PageRun& run : memory.runs) estimate += run.bytes.size() + 64;
    }
    for (const snapshot::Stack& stack : snapshot->stacks) estimate += stack.frames.size();
    bundle.snapshots.push_back(std::move(snapshot).value());
  }
  if (!status.ok()) {
    bundle.snapshots.clear();
    core_.Unpause();
    return status.error();
  }
  bundle.service = core_.options.service.name.value;
  bundle.instance = core_.options.record.id.value;
  bundle.package = core_.options.module->package().digest();
  bundle.next_handle = core_.next_handle;
  const auto carry = [&](const std::shared_ptr<Exchange>& exchange, std::optional<std::uint32_t> instance) {
    exchange->carried = true;
    exchange->captured_received = exchange->body_received;
    estimate += exchange->body.size() + exchange->out.size() + exchange->cgi_buffer.size() + 4096;
    for (const auto& [handle, answer] : exchange->answers) estimate += answer.first.body.size();
    bundle.requests.push_back({exchange->Copy(), instance});
  };
  for (const auto& [id, exchange] : core_.exchanges) {
    exchange->carried = false;
    exchange->captured_received = 0;
    const auto served = served_by.find(exchange.get());
    if (exchange->phase == Phase::kRunning && served != served_by.end()) carry(exchange, served->second);
    // Answered and given to a channel that lives: nobody will ask again.
    if (exchange->phase == Phase::kAnswered && !(exchange->last_sent && exchange->sink)) carry(exchange, std::nullopt);
  }
  for (const auto& exchange : core_.waiting) {
    if (exchange->phase == Phase::kWaiting) carry(exchange, std::nullopt);
  }
  return std::unique_ptr<CapturedHost>(std::make_unique<Captured>(std::move(bundle), memory_bytes, estimate, std::move(left_out)));
}

void Host::Resume() {
  const std::lock_guard lock(core_.lock);
  if (core_.released || !core_.paused) return;
  core_.Unpause();
  // With nothing to run it is as an idle instance is: the next request wakes its thread. Else the worker says when it runs.
  if (!core_.running_since && core_.exchanges.empty()) core_.running_since = Clock::now();
  for (const auto& worker : core_.workers) worker->Launch();
}

void Host::Release(const Location& to) {
  std::unique_lock lock(core_.lock);
  if (core_.released) return;
  core_.released = true;
  core_.moved_to = to;
  for (const auto& [id, exchange] : core_.exchanges) {
    if (!exchange->sink || exchange->phase == Phase::kEnded || (exchange->phase == Phase::kAnswered && exchange->last_sent)) {
      continue;
    }
    exchange->sink->Moved(id, to, exchange->captured_received, exchange->carried);
    exchange->sink = nullptr;
  }
  core_.waiting.clear();
  JoinWorkers(lock);
}

InstanceHost::Statistics Host::statistics() const {
  const std::lock_guard lock(core_.lock);
  Statistics statistics{.requests_total = core_.requests_total,
                        .failed_total = core_.failed_total,
                        .traps_total = core_.traps_total,
                        .running = 0,
                        .waiting = core_.waiting.size(),
                        .memory_bytes = 0,
                        .running_since = core_.running_since,
                        .paused = core_.paused,
                        .released = core_.released,
                        .recent = core_.recent.Get(Clock::now()),
                        .open_files = core_.open_files->load()};
  for (const auto& worker : core_.workers) {
    statistics.running += worker->serving().size();
    statistics.memory_bytes += worker->memory_bytes();
  }
  return statistics;
}

}  // namespace

Result<std::unique_ptr<InstanceHost>> InstanceHost::Create(Options options) {
  auto host = std::make_unique<Host>(std::move(options));
  GODWIT_TRY(host->Start());
  return std::unique_ptr<InstanceHost>(std::move(host));
}

void InstanceHost::Rehearse(Options options) {
  HostCore core(std::move(options));
  core.stopping = true;
  Worker(&core).Rehearse();
}

Result<std::unique_ptr<InstanceHost>> InstanceHost::CreateFromBundle(Options options, ByteView bundle, ArrivingMemories memories) {
  GODWIT_ASSIGN(auto decoded, DecodeBundle(bundle));
  auto host = std::make_unique<Host>(std::move(options));
  GODWIT_TRY(host->Load(std::move(decoded), std::move(memories)));
  return std::unique_ptr<InstanceHost>(std::move(host));
}

}  // namespace godwit::agent
