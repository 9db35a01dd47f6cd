#include "agent/host_core.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "agent/worker.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;
using Phase = Exchange::Phase;

std::string_view StatusTitle(std::uint16_t status) {
  switch (status) {
    case 413: return "Body too large";
    case 429: return "Too many requests";
    case 500: return "The service failed";
    case 502: return "Bad gateway";
    case 503: return "Service unavailable";
    case 504: return "Time limit exceeded";
    default: return "Request failed";
  }
}

}  // namespace

std::string ProblemJson(std::uint16_t status, std::string_view title, std::string_view detail, std::string_view service,
                        std::string_view function) {
  nlohmann::json problem = {{"type", "about:blank"}, {"status", status}, {"title", title}, {"detail", detail}, {"service", service}};
  if (!function.empty()) problem["function"] = function;
  return problem.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

Failure TooLarge(ByteCount limit) {
  return {.status = 413,
          .code = ErrorCode::kResourceExhausted,
          .message = fmt::format("the request's body is larger than limits.body_bytes ({})", limit.value)};
}

Status CheckModule(const godwit::fbs::Module& module, model::ServiceKind kind) {
  const std::string_view wanted = kind == model::ServiceKind::kReactor ? "godwit_handle" : "_start";
  for (unsigned i = 0; module.exports() != nullptr && i < module.exports()->size(); ++i) {
    const auto& exported = *module.exports()->Get(i);
    if (exported.kind() == godwit::fbs::ExternKind::function && exported.name() != nullptr &&
        exported.name()->string_view() == wanted) {
      return {};
    }
  }
  return InvalidArgument(fmt::format("a service of kind '{}' must export the function '{}'", model::ToString(kind), wanted));
}

HostCore::HostCore(InstanceHost::Options from) : options(std::move(from)) {
  asker_ = {options.service.name, options.record.id, options.record.epoch};
}

HostCore::~HostCore() { JoinTimer(); }

std::uint32_t HostCore::concurrency() const {
  std::uint32_t most = 1;
  for (const model::HttpTrigger& trigger : options.service.manifest.http) most = std::max(most, trigger.concurrency);
  return most;
}

void HostCore::Fail(Exchange& exchange, Failure failure) {
  if (exchange.phase == Phase::kEnded) return;
  const bool running = exchange.phase == Phase::kRunning;
  failure.begun = failure.begun && exchange.phase != Phase::kWaiting;
  exchange.phase = Phase::kEnded;
  ++failed_total;
  if (failure.problem.empty()) {
    failure.problem = ProblemJson(failure.status, StatusTitle(failure.status), failure.message, options.service.name.value, "");
  }
  if (exchange.sink) exchange.sink->Failed(exchange.request.id, failure);
  exchange.sink = nullptr;
  if (running) {
    exchange.leave_by = Clock::now() + kLeaveTime;
    ArmTimer(exchange.leave_by);
    for (const auto& worker : workers) worker->Drop(&exchange);
    exchange.Wake();
  }
  std::erase_if(waiting, [&](const auto& other) { return other.get() == &exchange; });
  exchanges.erase(exchange.request.id);  // May be the last owner: the caller does not use it afterwards.
}

Exchange* HostCore::FindOpen(const RequestId& id) {
  const auto found = exchanges.find(id);
  return found != exchanges.end() && found->second->open() && !released ? found->second.get() : nullptr;
}

void HostCore::Dispatch() {
  if (paused || stopping || waiting.empty()) return;
  if (!reactor() && workers.size() < kCommandInstancesMax &&
      std::none_of(workers.begin(), workers.end(), [](const auto& worker) { return worker->idle(); })) {
    workers.push_back(std::make_unique<Worker>(this));
    workers.back()->Launch();
    return;
  }
  for (const auto& worker : workers) {
    if (reactor() || worker->idle()) {
      worker->Signal();
      if (!reactor()) return;
    }
  }
}

void HostCore::Unpause() {
  paused = false;
  for (const auto& worker : workers) worker->WithdrawStop();
  changed.notify_all();
  if (timer_ || !exchanges.empty()) ArmTimer(Clock::now());
  for (std::size_t i = 0; i < waiting.size() && i < kCommandInstancesMax; ++i) Dispatch();
}

void HostCore::Retire(const std::shared_ptr<Exchange>& exchange) {
  if (exchange->phase == Phase::kEnded || exchange->last_sent) {
    // A finished answer that was sent is kept while it may have to be sent again: until it is acknowledged, its
    // channel is lost and its deadline passes, or many others are kept.
    constexpr std::size_t kAnsweredMax = 512;
    if (exchange->phase == Phase::kEnded || exchanges.size() > kAnsweredMax) exchanges.erase(exchange->request.id);
  }
}

void HostCore::ArmTimer(Clock::time_point when) {
  if (when >= timer_due_) return;
  timer_due_ = when;
  timer_changed_.notify_all();
  if (!timer_ && !stopping) timer_ = WarmThread::Run([this] { TimerMain(); });
}

void HostCore::JoinTimer() {
  {
    const std::lock_guard guard(lock);
    stopping = true;
    timer_changed_.notify_all();
  }
  timer_.reset();
}

void HostCore::TimerMain() {
  std::unique_lock guard(lock);
  const auto cpu_limit = options.service.manifest.limits.cpu_per_request;
  while (!stopping) {
    const auto now = Clock::now();
    auto next = Clock::time_point::max();
    timer_due_ = next;  // Who is failed below is waited for again: ArmTimer.
    std::vector<std::pair<std::shared_ptr<Exchange>, Failure>> over;
    for (const auto& [id, exchange] : exchanges) {
      if (paused && exchange->phase == Phase::kRunning) continue;  // Its frames may be on their way elsewhere.
      const auto deadline = exchange->phase == Phase::kWaiting ? std::min(exchange->request.deadline, exchange->begin_by) : exchange->request.deadline;
      if (deadline <= now) {
        over.emplace_back(exchange, Failure{.status = 504,
                                            .code = ErrorCode::kDeadlineExceeded,
                                            .message = "the request's time is over (limits.request_timeout_ms or its caller's deadline)"});
      } else {
        next = std::min(next, deadline);
      }
    }
    for (const auto& worker : workers) {
      if (paused || worker->running() == nullptr) continue;
      if (worker->running()->phase == Phase::kEnded) {
        if (worker->running()->leave_by <= now) worker->CancelRunning();
        next = std::min(next, std::max(worker->running()->leave_by, now + kCpuCheckInterval));
        continue;
      }
      if (!cpu_limit) continue;
      next = std::min(next, now + kCpuCheckInterval);
      if (worker->RunningCpu() > *cpu_limit) {
        const auto found = exchanges.find(worker->running()->request.id);
        if (found == exchanges.end()) continue;
        over.emplace_back(found->second, Failure{.status = 504,
                                                 .code = ErrorCode::kResourceExhausted,
                                                 .message = fmt::format("the request used more than limits.cpu_ms_per_request ({} ms)",
                                                                        cpu_limit->count())});
      }
    }
    for (auto& [exchange, failure] : over) {
      if (exchange->phase == Phase::kAnswered) {
        exchanges.erase(exchange->request.id);
      } else if (!released) {
        options.environment->Log(asker_, LogLevel::kWarning,
                                 fmt::format("{} {}: {}", exchange->request.method, exchange->request.target, failure.message));
        Fail(*exchange, std::move(failure));
      } else {
        exchanges.erase(exchange->request.id);
      }
    }
    timer_due_ = std::min({timer_due_, next, paused ? now + std::chrono::milliseconds(100) : Clock::time_point::max()});
    if (timer_due_ == Clock::time_point::max()) {
      timer_changed_.wait(guard, [&] { return stopping || timer_due_ != Clock::time_point::max(); });
    } else {
      const auto due = timer_due_;
      timer_changed_.wait_until(guard, due, [&] { return stopping || timer_due_ < due; });
    }
  }
}

Exchange* HostCore::Find(std::uint32_t handle, runtime::Instance& instance, runtime::TaskId task) {
  for (const auto& worker : workers) {
    if (worker->runs(instance)) return worker->Find(handle, task);
  }
  return nullptr;
}

std::shared_ptr<Exchange> HostCore::Share(Exchange* exchange) {
  const auto found = exchanges.find(exchange->request.id);
  return found != exchanges.end() ? found->second : nullptr;
}

}  // namespace godwit::agent
