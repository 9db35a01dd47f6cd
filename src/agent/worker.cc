#include "agent/worker.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

#include <algorithm>

#include <fmt/format.h>

#include "agent/cgi_streams.h"
#include "agent/header.h"
#include "runtime/wasi.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;
using Phase = Exchange::Phase;
using runtime::Outcome;

runtime::Cell CellOf(std::uint32_t value) {
  runtime::Cell cell{};
  for (int i = 0; i < 4; ++i) cell[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(value >> (8 * i));
  return cell;
}

// What `instance` has open outside ends with it.
void CloseConnections(runtime::Instance& instance) {
  if (auto* api = static_cast<GuestApi*>(instance.host(kGuestModule))) api->CloseConnections();
}

// How many more times a call may block in start-up code before it is taken for stuck.
constexpr int kStartupBlocksMax = 10'000;

}  // namespace

Worker::Worker(HostCore* core) : core_(core) {}

Worker::~Worker() {
  wake_->Signal();
  thread_.reset();
}

runtime::Limits Worker::InstanceLimits() const {
  runtime::Limits limits;
  limits.memory_max = core_->manifest().limits.memory;
  // Two at least: with them the runtime puts __stack_pointer back after a call that trapped.
  limits.tasks_max = core_->reactor() ? std::max(2u, core_->concurrency()) : 1;
  return limits;
}

std::vector<std::shared_ptr<runtime::HostModule>> Worker::HostModules(const std::shared_ptr<Exchange>& exchange, Status* status) {
  runtime::WasiOptions options;
  const model::Manifest& manifest = core_->manifest();
  options.args = {manifest.name.value};
  for (const auto& [name, value] : manifest.env) options.env.emplace_back(name, value);
  options.folders_from_snapshot = false;
  if (!manifest.data.empty()) {
    std::set<model::DatasetName> names;
    for (const auto& [name, access] : manifest.data) names.insert(name);
    auto folder = core_->environment().DataFolder(manifest.name, names);
    if (!folder.ok()) {
      *status = folder.error();
      return {};
    }
    if (!folder->empty()) options.preopens.push_back({*folder, "/data", /*read_only=*/true, core_->open_files});
  }
  if (exchange) {
    for (auto& variable : CgiEnvironment(exchange->request, manifest.name.value)) options.env.push_back(std::move(variable));
    options.stdio = {std::make_shared<BodyStream>(core_, exchange), std::make_shared<CgiOutput>(core_, exchange),
                     std::make_shared<LogStream>(core_, LogLevel::kInfo)};
  } else {
    options.stdio = {std::make_shared<runtime::MemoryStream>(), std::make_shared<LogStream>(core_, LogLevel::kInfo),
                     std::make_shared<LogStream>(core_, LogLevel::kInfo)};
  }
  auto wasi = runtime::Wasi::Create(std::move(options));
  if (!wasi.ok()) {
    *status = wasi.error();
    return {};
  }
  return {std::move(wasi).value(), std::make_shared<GuestApi>(core_)};
}

Result<std::unique_ptr<runtime::Instance>> Worker::CreateInstance(const std::shared_ptr<Exchange>& exchange) {
  Status status;
  auto hosts = HostModules(exchange, &status);
  GODWIT_TRY(status);
  return runtime::Instance::Create(core_->options.module, std::move(hosts), InstanceLimits());
}

// Runs start-up code, in which nothing but its own time may block it.
Status Worker::RunToEnd(runtime::Instance& instance, std::uint32_t function) {
  GODWIT_ASSIGN(const auto task, instance.Start(function, {}));
  for (int blocks = 0; blocks < kStartupBlocksMax; ++blocks) {
    const Outcome outcome = instance.Run(task);
    if (std::holds_alternative<runtime::Returned>(outcome)) return {};
    if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) {
      return FailedPrecondition("the service trapped when it started: " + trapped->message);
    }
    if (const auto* exited = std::get_if<runtime::Exited>(&outcome)) {
      return FailedPrecondition(fmt::format("the service exited with {} when it started", exited->code));
    }
    if (const auto* blocked = std::get_if<runtime::Blocked>(&outcome)) {
      auto fds = blocked->fds;
      poll(fds.data(), fds.size(), 10);
    }
  }
  return FailedPrecondition("the service did not finish starting");
}

void Worker::Rehearse() {
  if (core_->reactor()) static_cast<void>(CreateInstance(nullptr).ok());
}

Status Worker::Initialise() {
  GODWIT_ASSIGN(instance_, CreateInstance(nullptr));
  if (const auto start = instance_->start_function()) GODWIT_TRY(RunToEnd(*instance_, *start));
  if (const auto initialise = instance_->FindFunction("_initialize"); initialise.ok()) {
    GODWIT_TRY(RunToEnd(*instance_, *initialise));
  }
  GODWIT_ASSIGN(handler_, instance_->FindFunction("godwit_handle"));
  memory_bytes_ = instance_->context()->memory_bytes;
  return {};
}

Status Worker::Restore(const snapshot::Snapshot& snapshot, std::vector<std::shared_ptr<Exchange>> serving,
                       std::unique_ptr<runtime::ArrivingMemory> memory) {
  if (!core_->reactor() && serving.size() != 1) return Corrupt("host bundle: a command's instance serves one request");
  Status status;
  auto hosts = HostModules(core_->reactor() ? nullptr : serving.front(), &status);
  GODWIT_TRY(status);
  GODWIT_ASSIGN(instance_, runtime::Instance::Restore(core_->options.module, std::move(hosts), InstanceLimits(), snapshot, std::move(memory)));
  if (core_->reactor()) {
    GODWIT_ASSIGN(handler_, instance_->FindFunction("godwit_handle"));
  }
  const auto tasks = instance_->tasks();
  for (auto& exchange : serving) {
    if (std::find(tasks.begin(), tasks.end(), exchange->task) == tasks.end()) {
      return Corrupt("host bundle: a request whose call is not in its instance");
    }
    exchange->worker = wake_;
    calls_.push_back({exchange->task, std::move(exchange), std::nullopt, true});
  }
  for (const runtime::TaskId task : tasks) {
    if (std::any_of(calls_.begin(), calls_.end(), [&](const GuestCall& call) { return call.task == task; })) continue;
    auto ended = std::make_shared<Exchange>();  // Of a request that ended while its guest ran.
    ended->phase = Phase::kEnded;
    ended->task = task;
    ended->worker = wake_;
    ended->leave_by = Clock::now() + HostCore::kLeaveTime;
    calls_.push_back({task, std::move(ended), std::nullopt, true});
  }
  memory_bytes_ = instance_->context()->memory_bytes;
  captured_idle_ = true;
  return {};
}

void Worker::Launch() {
  if (!thread_) thread_ = WarmThread::Run([this] { Main(); });
}

void Worker::RequestStop() {
  if (instance_) instance_->RequestStop();
  wake_->Signal();
}

void Worker::WithdrawStop() {
  parked_ = false;
  captured_idle_ = false;
  captured_.reset();
  if (instance_) instance_->WithdrawStop();
  wake_->Signal();
}

void Worker::CancelRunning() {
  if (running_ != nullptr) instance_->Cancel();
  wake_->Signal();
}

void Worker::Drop(Exchange* exchange) {
  if (running_ == exchange && !core_->reactor()) instance_->Cancel();
}

Exchange* Worker::Find(std::uint32_t handle, runtime::TaskId task) const {
  for (const GuestCall& call : calls_) {
    if (handle == 0 ? call.task == task : call.exchange->handle == handle) {
      return call.exchange->phase == Phase::kRunning ? call.exchange.get() : nullptr;
    }
  }
  return nullptr;
}

std::uint64_t Worker::ThreadCpuNs() const {
  timespec time{};
  if (!cpu_clock_ || clock_gettime(*cpu_clock_, &time) != 0) return 0;
  return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
}

std::chrono::nanoseconds Worker::RunningCpu() const {
  if (running_ == nullptr) return {};
  return std::chrono::nanoseconds(running_->cpu_ns + ThreadCpuNs() - running_since_cpu_ns_);
}

std::chrono::nanoseconds Worker::Pace(double share, Clock::duration credit, Clock::time_point now) {
  const std::uint64_t used = ThreadCpuNs();
  const std::chrono::nanoseconds ran(used - std::exchange(paced_cpu_ns_, used));
  debt_.Ran(ran, share, credit, now);
  if (const auto owed = debt_.Owed(now); owed.count() > 0) Nap(owed);
  return ran;
}

std::vector<const Exchange*> Worker::serving() const {
  std::vector<const Exchange*> exchanges;
  for (const GuestCall& call : calls_) exchanges.push_back(call.exchange.get());
  return exchanges;
}

Result<snapshot::Snapshot> Worker::TakeSnapshot() {
  GODWIT_CHECK(captured_.has_value(), "a snapshot was taken of a worker that has not parked");
  Result<snapshot::Snapshot> snapshot = std::move(*captured_);
  captured_.reset();
  return snapshot;
}

// --- The thread ---

void Worker::Main() {
  clockid_t clock;
  Lock lock(core_->lock);
  if (pthread_getcpuclockid(pthread_self(), &clock) == 0) cpu_clock_ = clock;
  paced_cpu_ns_ = ThreadCpuNs();
  while (!core_->stopping) {
    if (core_->paused) {
      Park(lock);
      continue;
    }
    if (!core_->running_since) core_->running_since = Clock::now();
    if (DropEnded(lock)) continue;
    if (renew_ && calls_.empty()) Renew(lock);
    if (TakeWork(lock)) continue;
    std::size_t chosen = calls_.size();
    for (std::size_t i = 0; i < calls_.size(); ++i) {
      const std::size_t index = (next_call_ + i) % calls_.size();
      if (calls_[index].ready || calls_[index].exchange->wake.load()) {
        chosen = index;
        break;
      }
    }
    if (chosen < calls_.size()) {
      next_call_ = chosen + 1;
      RunOne(lock, chosen);
    } else {
      Wait(lock);
    }
  }
  running_ = nullptr;
  std::vector<GuestCall> calls = std::move(calls_);
  calls_.clear();
  std::unique_ptr<runtime::Instance> instance = std::move(instance_);
  lock.unlock();  // An instance's end may take long, and its host modules may log.
}

Result<snapshot::Snapshot> Worker::Capture(Lock& lock) {
  const auto memory = instance_->memory();
  const auto& elsewhere = core_->copied_elsewhere;
  const bool left_out = memory && std::find(elsewhere.begin(), elsewhere.end(), memory->base()) != elsewhere.end();
  lock.unlock();
  auto captured = instance_->Capture(left_out ? runtime::Instance::Pages::kElsewhere : runtime::Instance::Pages::kChanged);
  lock.lock();
  return captured;
}

bool Worker::CaptureIdle(Lock& lock) {
  if (!sleeping_ || !core_->reactor() || !instance_ || !calls_.empty() || renew_) return false;
  captured_idle_ = true;  // Should this worker wake up meanwhile, it parks and leaves the instance alone.
  auto captured = Capture(lock);
  if (!captured_idle_) return false;
  captured_.emplace(std::move(captured));
  parked_ = true;
  return true;
}

// Brings every call to a safepoint, captures, and waits until the host goes on.
void Worker::Park(Lock& lock) {
  if (captured_idle_) {
    core_->changed.wait(lock, [&] { return !captured_idle_ || core_->stopping; });
    return;
  }
  if (instance_) {
    instance_->RequestStop();
    for (;;) {
      DropEnded(lock);
      const auto waiting = std::find_if(calls_.begin(), calls_.end(), [](const GuestCall& call) { return call.blocked.has_value(); });
      if (waiting == calls_.end() || core_->stopping || !core_->paused || !instance_) break;
      RunOne(lock, static_cast<std::size_t>(waiting - calls_.begin()));
    }
  }
  if (core_->stopping) return;
  if (instance_ && core_->paused) {
    auto captured = Capture(lock);
    captured_.emplace(std::move(captured));
  }
  if (!core_->paused || core_->stopping) {
    captured_.reset();
    return;
  }
  parked_ = true;
  const std::uint64_t pause = core_->pauses;
  core_->changed.notify_all();
  core_->changed.wait(lock, [&] { return !core_->paused || core_->stopping || core_->pauses != pause; });
  parked_ = false;
  captured_.reset();
  if (instance_) instance_->WithdrawStop();
}

// Abandons the calls of requests that have ended. A reactor's get the time to return by themselves: what they have locked,
// allocated or begun to change is shared with the requests to come.
bool Worker::DropEnded(Lock& lock) {
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (calls_[i].exchange->phase != Phase::kEnded) continue;
    if (core_->reactor() && Clock::now() < calls_[i].exchange->leave_by) continue;
    GuestCall call = std::move(calls_[i]);
    calls_.erase(calls_.begin() + static_cast<std::ptrdiff_t>(i));
    std::unique_ptr<runtime::Instance> ended;
    if (core_->reactor()) {
      instance_->Abandon(call.task);
    } else {
      ended = std::move(instance_);
    }
    lock.unlock();
    if (ended) CloseConnections(*ended);
    ended.reset();
    call = {};
    lock.lock();
    return true;
  }
  return false;
}

// Begins the first waiting request if there is room.
bool Worker::TakeWork(Lock& lock) {
  const std::size_t room = core_->reactor() ? core_->concurrency() : 1;
  if (core_->waiting.empty() || calls_.size() >= room || renew_) return false;
  const std::shared_ptr<Exchange> exchange = core_->waiting.front();
  core_->waiting.pop_front();
  exchange->phase = Phase::kRunning;
  exchange->worker = wake_;
  exchange->begun = Clock::now();
  if (!core_->reactor()) {
    creating_ = true;
    lock.unlock();
    auto created = CreateInstance(exchange);
    Result<std::uint32_t> entry = created.ok() ? (*created)->FindFunction("_start") : Result<std::uint32_t>(created.error());
    lock.lock();
    creating_ = false;
    if (exchange->phase == Phase::kEnded) return true;
    if (!entry.ok()) {
      core_->environment().Log(core_->asker(), LogLevel::kError, entry.error().message);
      core_->Fail(*exchange, {.status = 503, .code = entry.error().code, .message = entry.error().message});
      return true;
    }
    instance_ = std::move(created).value();
    memory_bytes_ = instance_->context()->memory_bytes;
    handler_ = *entry;
  }
  std::vector<runtime::Cell> arguments;
  if (core_->reactor()) arguments.push_back(CellOf(exchange->handle));
  const auto task = instance_->Start(*handler_, arguments);
  if (!task.ok()) {
    core_->environment().Log(core_->asker(), LogLevel::kError, task.error().message);
    core_->Fail(*exchange, {.status = 503, .code = task.error().code, .message = task.error().message, .retry_after_ms = 1000});
    return true;
  }
  exchange->task = *task;
  calls_.push_back({*task, exchange, std::nullopt, true});
  return true;
}

void Worker::RunOne(Lock& lock, std::size_t index) {
  GuestCall& call = calls_[index];
  const runtime::TaskId task = call.task;
  call.ready = false;
  call.blocked.reset();
  call.exchange->wake.store(false);
  running_ = call.exchange.get();
  running_since_cpu_ns_ = ThreadCpuNs();
  if (core_->manifest().limits.cpu_per_request) core_->ArmTimer(Clock::now() + HostCore::kCpuCheckInterval);
  lock.unlock();
  Outcome outcome = instance_->Run(task);
  lock.lock();
  call.exchange->cpu_ns += ThreadCpuNs() - running_since_cpu_ns_;
  running_ = nullptr;
  memory_bytes_ = instance_->context()->memory_bytes;
  if (auto* blocked = std::get_if<runtime::Blocked>(&outcome)) {
    call.blocked = std::move(*blocked);
    call.exchange->Flush();
  } else if (std::holds_alternative<runtime::Captured>(outcome)) {
    call.ready = true;
    call.exchange->Flush();
  } else {
    GuestCall ended = std::move(call);
    calls_.erase(calls_.begin() + static_cast<std::ptrdiff_t>(index));
    End(lock, std::move(ended), std::move(outcome));
  }
}

void Worker::FailTrapped(Exchange& exchange, const std::string& function, const std::string& message) {
  ++core_->traps_total;
  core_->environment().Log(core_->asker(), LogLevel::kError,
                           fmt::format("{} {}: {}", exchange.request.method, exchange.request.target, message));
  core_->Fail(exchange, {.status = 500,
                         .code = ErrorCode::kInternal,
                         .message = message,
                         .problem = ProblemJson(500, "The service failed", message, core_->asker().service.value, function)});
}

void Worker::End(Lock& lock, GuestCall call, Outcome outcome) {
  const std::shared_ptr<Exchange> exchange = call.exchange;
  std::unique_ptr<runtime::Instance> ended;
  if (!core_->reactor()) ended = std::move(instance_);
  if (exchange->phase == Phase::kRunning) {
    if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) {
      FailTrapped(*exchange, trapped->function, trapped->message);
    } else if (const auto* exited = std::get_if<runtime::Exited>(&outcome); exited != nullptr && core_->reactor()) {
      FailTrapped(*exchange, "proc_exit", fmt::format("a reactor must not exit, and it did, with {}", exited->code));
    } else {
      if (!core_->reactor()) FinishCgi(*exchange);
      if (exited != nullptr && exited->code != 0) {
        core_->environment().Log(core_->asker(), LogLevel::kWarning, fmt::format("the program exited with {}", exited->code));
        if (exchange->out_end() == 0 && !exchange->head_committed) {
          FailTrapped(*exchange, "_start", fmt::format("the program exited with {} and answered nothing", exited->code));
        }
      }
      if (exchange->phase == Phase::kRunning) exchange->Finish();
      if (!IsWebSocket(exchange->request)) {
        core_->recent.Add(Clock::now(), Clock::now() - exchange->opened, std::chrono::nanoseconds(exchange->cpu_ns));
      }
    }
  }
  const bool broken = !std::holds_alternative<runtime::Returned>(outcome);
  if (core_->reactor() && broken && exchange->phase == Phase::kEnded) {
    core_->environment().Log(core_->asker(), LogLevel::kWarning,
                             fmt::format("a request that had ended did not return within {} ms and was stopped where it was",
                                         HostCore::kLeaveTime.count()));
  }
  if (core_->reactor() && broken && core_->manifest().state == model::StateClass::kStateless) renew_ = true;
  core_->Retire(exchange);
  if (ended) {
    memory_bytes_ = 0;
    lock.unlock();
    CloseConnections(*ended);
    ended.reset();
    lock.lock();
  }
}

// A stateless reactor that trapped gets a fresh instance.
void Worker::Renew(Lock& lock) {
  renew_ = false;
  creating_ = true;
  std::unique_ptr<runtime::Instance> old = std::move(instance_);
  lock.unlock();
  auto created = CreateInstance(nullptr);
  Status status = created.ok() ? Status() : Status(created.error());
  if (status.ok()) {
    if (const auto start = (*created)->start_function()) status = RunToEnd(**created, *start);
    const auto initialise = (*created)->FindFunction("_initialize");
    if (status.ok() && initialise.ok()) status = RunToEnd(**created, *initialise);
  }
  if (status.ok()) {
    CloseConnections(*old);
    old.reset();
  }
  lock.lock();
  creating_ = false;
  if (status.ok()) {
    instance_ = std::move(created).value();
  } else {
    core_->environment().Log(core_->asker(), LogLevel::kError, "no fresh instance after a trap: " + status.error().message);
    instance_ = std::move(old);
  }
  memory_bytes_ = instance_->context()->memory_bytes;
}

void Worker::Wait(Lock& lock) {
  std::vector<pollfd> fds = {{wake_->fd(), POLLIN, 0}};
  std::vector<std::pair<std::size_t, std::size_t>> owners;  // Index in fds, call.
  auto deadline = Clock::time_point::max();
  for (std::size_t i = 0; i < calls_.size(); ++i) {
    if (!calls_[i].blocked) continue;
    for (const pollfd& fd : calls_[i].blocked->fds) {
      owners.emplace_back(fds.size(), i);
      fds.push_back(fd);
    }
    if (calls_[i].blocked->deadline) deadline = std::min(deadline, *calls_[i].blocked->deadline);
    if (calls_[i].exchange->phase == Phase::kEnded) deadline = std::min(deadline, calls_[i].exchange->leave_by);
  }
  int timeout = -1;
  if (deadline != Clock::time_point::max()) {
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(deadline - Clock::now()).count();
    timeout = static_cast<int>(std::clamp<std::int64_t>(left, 0, 60'000));
  }
  sleeping_ = true;
  lock.unlock();
  poll(fds.data(), fds.size(), timeout);
  wake_->Drain();
  lock.lock();
  sleeping_ = false;
  // Only this thread changes calls_.
  for (const auto& [fd, call] : owners) {
    if (fds[fd].revents != 0) calls_[call].ready = true;
  }
  const auto now = Clock::now();
  for (GuestCall& call : calls_) {
    if (call.blocked && call.blocked->deadline && *call.blocked->deadline <= now) call.ready = true;
  }
}

}  // namespace godwit::agent
