#include "device/engine.h"

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/wire.h"

namespace godwit::device {
namespace {

using nlohmann::json;
using std::chrono::microseconds;

std::uint64_t MicrosecondsSince(std::chrono::steady_clock::time_point begin) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<microseconds>(std::chrono::steady_clock::now() - begin).count());
}

std::uint64_t CpuNs(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

Bytes ToBytes(const json& document) {
  const std::string text = document.dump();
  return {text.begin(), text.end()};
}

Status NeedRanges(const Request& request, std::size_t count) {
  if (request.ranges.size() == count) return {};
  return InvalidArgument(fmt::format("this command takes {} ranges, not {}", count, request.ranges.size()));
}

// What is touched by commands that run on the submitter's thread.
constexpr std::uint64_t kAtOnceBytes = 64 << 10;
constexpr std::uint64_t kUnusedForMaxUs = 24ull * 3600 * 1'000'000;

// May a command take so long that the submitter, an event loop perhaps, must not wait for it? Programs are fetched, storage
// blocks, and large memory is slow to touch.
bool TakesTime(const Request& request) {
  switch (request.opcode) {
    case Opcode::kExecute:
    case Opcode::kBatch:
    case Opcode::kLoad:
    case Opcode::kStorageRead:
    case Opcode::kStorageWrite: return true;
    case Opcode::kAllocate: return request.bytes > kAtOnceBytes;
    case Opcode::kCopy: return !request.ranges.empty() && request.ranges[0].bytes > kAtOnceBytes;
    default: return false;
  }
}

}  // namespace

struct Engine::Job {
  Request request;
  Done done;
  Clock::time_point arrived = Clock::now(), begun{};
  std::atomic<bool> aborted{false};
  bool registered = false;  // In under_way_.
  bool brief = false;       // It has no turn: it runs at once, on its submitter's thread.
  std::shared_ptr<const Function> function;
  std::shared_ptr<const Job> batch;  // That this is a step of.
  std::uint64_t start_us = 0;        // Its tag in turns_.

  bool ended() const { return aborted.load(std::memory_order_relaxed) || (batch && batch->aborted.load(std::memory_order_relaxed)); }
  bool late() const { return request.deadline.count() > 0 && Clock::now() - arrived >= request.deadline; }
};

struct Engine::Parked {
  Request request;  // Its state is the one that the work gave.
  std::shared_ptr<const Function> function;
  std::shared_ptr<const Source> source;
  std::unique_ptr<Work> work;
  Clock::time_point since{};
};

struct Engine::BatchRun {
  std::shared_ptr<Job> job;
  std::vector<bool> started, ended;
  bool finished = false;
  Completion completion;
  std::size_t left = 0;
};

// Where work runs that goes behind the foreground.
struct Engine::Core {
  Foreground& foreground;
  YieldingThread thread;
  Debt debt;  // Of the thread.
};

class Engine::JobPace final : public Pace {
 public:
  // On the worker's thread. Brief work is not asked for its processor time: that would take as long as the work.
  JobPace(const Engine& engine, const Job& job, Core* core) : engine_(engine), job_(job), profile_(engine.options_.profile), core_(core) {
    if (job.brief) return;
    pthread_getcpuclockid(pthread_self(), &worker_clock_);
    began_ns_ = used_ns_ = CpuNs(worker_clock_);
    if (core_ != nullptr) core_->foreground.WorkBegins();
  }
  ~JobPace() {
    if (core_ == nullptr) return;
    Account(Clock::now());
    core_->foreground.Worked(unaccounted_);
    core_->foreground.WorkEnds();
  }
  bool Over(std::size_t output_bytes) const override {
    if (std::this_thread::get_id() == worker_) {
      if (const microseconds owed = Owed(); owed.count() > 0) std::this_thread::sleep_for(owed);
    }
    if (output_bytes >= kOutputBytes || job_.ended()) return true;
    const auto& request = job_.request;
    const std::uint64_t busy = MicrosecondsSince(job_.begun);
    if (!past_slice && request.slice.count() > 0 && busy >= static_cast<std::uint64_t>(request.slice.count())) return true;
    return (!past_slice && TurnOver(busy)) || job_.late() ||
           (request.energy_uj > 0 && EnergyUj(profile_, busy) > request.energy_uj);
  }

  // Asked for again and again.
  microseconds Owed() const override {
    if (core_ == nullptr) return microseconds(0);
    const std::unique_lock lock(resting_, std::try_to_lock);
    const auto now = Clock::now();
    if (!lock.owns_lock() || now - looked_ < kOwedEvery) return microseconds(0);  // Of two that ask at once one rests.
    looked_ = now;
    Account(now);
    if (unaccounted_ >= kAccountEvery) core_->foreground.Worked(std::exchange(unaccounted_, {}));
    return core_->debt.Owed(now);
  }

  // What the worker has worked so far.
  std::uint64_t cpu_us() const { return job_.brief ? MicrosecondsSince(job_.begun) : (CpuNs(worker_clock_) - began_ns_) / 1000; }

  bool past_slice = false;  // It goes on all the same.

 private:
  static constexpr microseconds kOwedEvery{100}, kAccountEvery{5000};
  static constexpr std::uint64_t kLookEveryUs = 500;

  bool TurnOver(std::uint64_t busy) const {
    if (engine_.waiting_count_.load(std::memory_order_relaxed) == 0 || busy < looked_us_.load(std::memory_order_relaxed) + kLookEveryUs) return false;
    looked_us_.store(busy, std::memory_order_relaxed);
    return engine_.OtherIsDue(job_, busy);
  }

  void Account(Clock::time_point now) const {
    const std::uint64_t used = CpuNs(worker_clock_);
    const std::chrono::nanoseconds ran(used - std::exchange(used_ns_, used));
    unaccounted_ += ran;
    core_->debt.Ran(ran, core_->foreground.share(now), core_->foreground.credit(now), now);
  }

  const Engine& engine_;
  mutable std::atomic<std::uint64_t> looked_us_{0};
  const Job& job_;
  const Profile& profile_;
  Core* const core_;
  const std::thread::id worker_ = std::this_thread::get_id();
  clockid_t worker_clock_{};
  std::uint64_t began_ns_ = 0;
  mutable std::mutex resting_;  // For what is below, and the core's debt.
  mutable std::uint64_t used_ns_ = 0;                   // The worker's processor time when it was looked last,
  mutable std::chrono::nanoseconds unaccounted_{0};     // and what of it the foreground does not know yet.
  mutable Clock::time_point looked_{};
};

Engine::Engine(Options options)
    : options_(std::move(options)), memory_(options_.profile.memory, options_.profile.tenant_memory) {
  cores_ = options_.profile.cores;
  queue_max_ = options_.profile.queue_max;
  for (const auto& function : options_.built_in) functions_[next_function_++] = {function, "", {}, true, true};
  for (std::uint32_t i = 0; i < options_.profile.cores; ++i) threads_.emplace_back([this] { CoreMain(); });
}

Engine::~Engine() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    for (const auto& [key, job] : under_way_) job->aborted = true;
    changed_.notify_all();
  }
  for (std::thread& thread : threads_) thread.join();
}

// --- Coming in

void Engine::Submit(Request request, Done done) {
  const auto job = std::make_shared<Job>();
  job->request = std::move(request);
  job->done = std::move(done);
  const Request& in = job->request;
  Completion refused;
  refused.id = in.id;
  refused.status = CheckLimits(in);
  const bool runs = TakesTime(in);
  {
    const std::lock_guard lock(mutex_);
    ++requests_;
    if (refused.status.ok() && ending_) refused.status = Unavailable("the device is ending");
    if (refused.status.ok() && runs) {
      const auto key = std::pair(in.tenant, in.id);
      if (under_way_.count(key) != 0) {
        refused.status = InvalidArgument(fmt::format("request {} of '{}' is under way already", in.id, in.tenant));
      } else if (of_tenant_[in.tenant] >= kUnderWayPerTenantMax) {
        refused.status = ResourceExhausted(fmt::format("'{}' has {} requests under way", in.tenant, kUnderWayPerTenantMax));
      } else if (waiting_count_ >= queue_max_) {
        refused.status = ResourceExhausted(fmt::format("the device is saturated: {} requests wait", waiting_count_.load()));
        refused.pushed_back = true;
        ++pushed_back_;
      } else if (in.opcode == Opcode::kExecute && options_.foreground && options_.foreground->full()) {
        refused.status = ResourceExhausted("the device's own reads and writes take longer than they may");
        refused.pushed_back = true;
        ++pushed_back_;
      } else {
        under_way_[key] = job;
        ++of_tenant_[in.tenant];
        job->registered = true;
      }
    }
  }
  if (!refused.status.ok()) return Finish(job, std::move(refused));
  if (!runs) return Finish(job, Fast(in));
  if (in.opcode == Opcode::kBatch) return RunBatch(job);
  if (in.opcode == Opcode::kExecute) {
    const std::lock_guard lock(mutex_);
    const auto found = functions_.find(in.function);
    // Over function memory alone: storage may block.
    job->brief = found != functions_.end() && in.name.empty() && waiting_count_ == 0 &&
                 found->second.function->brief(in.data, {0, in.ranges.empty() ? 0 : in.ranges[0].bytes});
  }
  job->brief ? Run(job) : Enqueue({job}, false);
}

void Engine::Finish(const std::shared_ptr<Job>& job, Completion completion) {
  completion.id = job->request.id;
  {
    const std::lock_guard lock(mutex_);
    if (!completion.status.ok()) ++failed_;
    if (job->registered) {
      under_way_.erase({job->request.tenant, job->request.id});
      if (--of_tenant_[job->request.tenant] == 0) of_tenant_.erase(job->request.tenant);
    }
  }
  if (const auto done = std::exchange(job->done, nullptr)) done(std::move(completion));
}

// --- Commands that take no time

Completion Engine::Fast(const Request& request) {
  Completion completion;
  completion.id = request.id;
  switch (request.opcode) {
    case Opcode::kDiscover: {
      const std::string text = Describe();
      completion.data.assign(text.begin(), text.end());
      break;
    }
    case Opcode::kHealth: completion.data = ToBytes({{"state", "ok"}, {"uptime_us", MicrosecondsSince(started_)}}); break;
    case Opcode::kStatistics: {
      const std::string text = Statistics();
      completion.data.assign(text.begin(), text.end());
      break;
    }
    case Opcode::kConfigure: completion.status = Configure(request); break;
    case Opcode::kLoad:
    case Opcode::kActivate:
    case Opcode::kDeactivate:
    case Opcode::kUnload: completion.status = Functions(request, &completion); break;
    case Opcode::kStorageRead:
    case Opcode::kStorageWrite: completion.status = StorageIo(request, &completion); break;
    case Opcode::kAbort: {
      const auto found = Abort(request);
      completion.status = found.ok() ? Status() : Status(found.error());
      break;
    }
    default: completion.status = Memory(request, &completion);
  }
  if (completion.data.size() > kDataBytesMax) {
    completion.data.clear();
    completion.status = ResourceExhausted("the answer is larger than a completion may be");
  }
  return completion;
}

Status Engine::Configure(const Request& request) {
  if (!request.tenant.empty()) return PermissionDenied("only the device's owner configures it");
  const json settings = json::parse(request.data.begin(), request.data.end(), nullptr, false);
  if (!settings.is_object()) return InvalidArgument("settings are a JSON object");
  for (const auto& [key, value] : settings.items()) {
    if (key != "cores" && key != "queue_max") return InvalidArgument("no setting is called '" + key + "'; there are cores and queue_max");
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > (key == "cores" ? options_.profile.cores : 65536u)) {
      return InvalidArgument(fmt::format("{} must be a number up to {}", key, key == "cores" ? options_.profile.cores : 65536u));
    }
  }
  const std::lock_guard lock(mutex_);
  cores_ = settings.value("cores", cores_);  // 0: what is queued waits.
  queue_max_ = settings.value("queue_max", queue_max_);
  changed_.notify_all();
  return {};
}

Status Engine::Functions(const Request& request, Completion* completion) {
  if (request.opcode == Opcode::kLoad) {
    if (options_.programs == nullptr) return Unsupported("this device loads no programs");
    {
      const std::lock_guard lock(mutex_);
      for (const auto& [number, loaded] : functions_) {
        if (loaded.built_in || loaded.tenant != request.tenant || loaded.function->name() != request.name || loaded.program != request.data) continue;
        completion->value = number;  // It is here already.
        return {};
      }
      const auto own = std::count_if(functions_.begin(), functions_.end(),
                                     [&](const auto& entry) { return !entry.second.built_in && entry.second.tenant == request.tenant; });
      if (static_cast<std::size_t>(own) >= kLoadedPerTenantMax) {
        return ResourceExhausted(fmt::format("'{}' has {} functions loaded: unload one", request.tenant, own));
      }
    }
    GODWIT_ASSIGN(auto function, options_.programs->Load(request.tenant, request.name, request.data));
    const std::lock_guard lock(mutex_);
    completion->value = next_function_;
    functions_[next_function_++] = {std::move(function), request.tenant, request.data};
    return {};
  }
  const std::lock_guard lock(mutex_);
  const auto found = functions_.find(request.function);
  if (found == functions_.end() || (!found->second.built_in && found->second.tenant != request.tenant)) {
    return NotFound(fmt::format("no function {} of '{}' is loaded", request.function, request.tenant));
  }
  Loaded& loaded = found->second;
  if (loaded.built_in && !request.tenant.empty()) return PermissionDenied("built-in functions are the device's owner's");
  if (request.opcode == Opcode::kActivate) {
    loaded.active = true;
    return {};
  }
  if (loaded.running > 0) return FailedPrecondition(fmt::format("function {} runs for {} requests", request.function, loaded.running));
  if (request.opcode == Opcode::kDeactivate) {
    loaded.active = false;
    return {};
  }
  if (loaded.built_in) return FailedPrecondition("a built-in function cannot be unloaded");
  if (loaded.active) return FailedPrecondition(fmt::format("function {} is active: deactivate it first", request.function));
  std::erase_if(parked_, [&](const auto& one) { return one->request.function == request.function; });
  functions_.erase(found);
  return {};
}

Status Engine::Memory(const Request& request, Completion* completion) {
  switch (request.opcode) {
    case Opcode::kAllocate: {
      GODWIT_ASSIGN(completion->capability, memory_.Allocate(request.tenant, request.bytes, microseconds(std::min(request.value, kUnusedForMaxUs))));
      return {};
    }
    case Opcode::kFree: {
      GODWIT_TRY(NeedRanges(request, 1));
      return memory_.Free(request.ranges[0].capability);
    }
    case Opcode::kGrant: {
      GODWIT_TRY(NeedRanges(request, 1));
      GODWIT_ASSIGN(completion->capability, memory_.Grant(request.ranges[0], request.rights));
      return {};
    }
    case Opcode::kWrite: {
      GODWIT_TRY(NeedRanges(request, 1));
      GODWIT_ASSIGN(const auto to, memory_.Resolve(request.ranges[0], Rights::kWrite));
      if (to.bytes.size() != request.data.size()) return InvalidArgument("the range and the data differ in size");
      std::copy(request.data.begin(), request.data.end(), to.bytes.begin());
      return {};
    }
    case Opcode::kRead: {
      GODWIT_TRY(NeedRanges(request, 1));
      GODWIT_ASSIGN(const auto from, memory_.Resolve(request.ranges[0], Rights::kRead));
      if (from.bytes.size() > kDataBytesMax) return InvalidArgument(fmt::format("one read gives at most {} bytes", kDataBytesMax));
      completion->data.assign(from.bytes.begin(), from.bytes.end());
      return {};
    }
    case Opcode::kCopy: {
      GODWIT_TRY(NeedRanges(request, 2));
      GODWIT_ASSIGN(const auto from, memory_.Resolve(request.ranges[0], Rights::kRead));
      GODWIT_ASSIGN(const auto to, memory_.Resolve(request.ranges[1], Rights::kWrite));
      if (from.bytes.size() != to.bytes.size()) return InvalidArgument("the ranges differ in size");
      std::memmove(to.bytes.data(), from.bytes.data(), from.bytes.size());
      return {};
    }
    default: return Unsupported(fmt::format("no command has the number {}", static_cast<int>(request.opcode)));
  }
}

Status Engine::StorageIo(const Request& request, Completion* completion) {
  if (options_.storage == nullptr) return Unsupported("this device has no storage");
  GODWIT_TRY(NeedRanges(request, 1));
  if (request.opcode == Opcode::kStorageWrite) {
    GODWIT_ASSIGN(const auto from, memory_.Resolve(request.ranges[0], Rights::kRead));
    GODWIT_TRY(options_.storage->Create(request.tenant, request.name, from.bytes));
    const std::lock_guard lock(mutex_);
    storage_written_ += from.bytes.size();
    return {};
  }
  GODWIT_ASSIGN(const auto to, memory_.Resolve(request.ranges[0], Rights::kWrite));
  GODWIT_ASSIGN(const auto object, options_.storage->Open(request.tenant, request.name));
  Bytes scratch;
  std::size_t read = 0;
  while (read < to.bytes.size()) {
    GODWIT_ASSIGN(const ByteView window, object->Window(request.offset + read, std::min<std::size_t>(to.bytes.size() - read, 1 << 20), scratch));
    if (window.empty()) break;
    std::copy(window.begin(), window.end(), to.bytes.begin() + static_cast<std::ptrdiff_t>(read));
    read += window.size();
  }
  completion->value = read;
  const std::lock_guard lock(mutex_);
  storage_read_ += read;
  return {};
}

Result<bool> Engine::Abort(const Request& request) {
  std::shared_ptr<Job> job;
  bool waited = false;
  {
    const std::lock_guard lock(mutex_);
    const auto found = under_way_.find({request.tenant, request.value});
    if (found == under_way_.end()) return NotFound(fmt::format("no request {} of '{}' is under way", request.value, request.tenant));
    job = found->second;
    job->aborted = true;
    ++aborted_;
    const auto queue = waiting_.find(request.tenant);
    if (queue != waiting_.end()) {
      waited = std::erase(queue->second, job) > 0;
      if (waited) --waiting_count_;
      if (queue->second.empty()) waiting_.erase(queue);
    }
  }
  if (waited) {
    Completion never;
    never.status = Aborted("aborted before it was begun");
    Finish(job, std::move(never));
  }
  return true;
}

// --- What the device says of itself

std::string Engine::Describe() const {
  const Profile& profile = options_.profile;
  const std::lock_guard lock(mutex_);
  json functions = json::array();
  for (const auto& [number, loaded] : functions_) {
    functions.push_back({{"number", number}, {"name", loaded.function->name()}, {"built_in", loaded.built_in},
                         {"state", loaded.running > 0 ? "running" : loaded.active ? "active" : "loaded"}});
  }
  return json{{"name", profile.name}, {"class", profile.device_class}, {"cores", profile.cores}, {"speed", profile.speed},
              {"memory_bytes", profile.memory.value}, {"tenant_memory_bytes", profile.tenant_memory.value},
              {"queue_max", profile.queue_max}, {"core_watts", profile.core_watts}, {"energy", "model"},
              {"storage", options_.storage != nullptr}, {"programs", options_.programs != nullptr}, {"functions", std::move(functions)}}
      .dump();
}

std::string Engine::Statistics() const {
  json foreground;
  if (options_.foreground) {
    const auto figures = options_.foreground->figures();
    foreground = {{"per_second", figures.per_second}, {"p50_us", figures.p50_us}, {"p99_us", figures.p99_us}, {"share", figures.share}};
  }
  const std::lock_guard lock(mutex_);
  json functions = json::array();
  for (const auto& [number, loaded] : functions_) {
    if (loaded.executions == 0) continue;
    functions.push_back({{"number", number}, {"name", loaded.function->name()}, {"executions", loaded.executions},
                         {"busy_us", loaded.busy_us}, {"cpu_us", loaded.cpu_us}, {"least_us", loaded.least_us}, {"most_us", loaded.most_us},
                         {"mean_us", loaded.busy_us / loaded.executions}});
  }
  return json{{"uptime_us", MicrosecondsSince(started_)}, {"requests", requests_}, {"failed", failed_}, {"aborted", aborted_},
              {"pushed_back", pushed_back_}, {"waiting", waiting_count_.load()}, {"running", running_}, {"busy_us", busy_us_},
              {"energy_uj", energy_uj_}, {"memory_used_bytes", memory_.used().value}, {"allocations", memory_.allocations()},
              {"storage_read_bytes", storage_read_}, {"storage_written_bytes", storage_written_}, {"functions", std::move(functions)},
              {"foreground", std::move(foreground)}}
      .dump();
}

// --- Work

void Engine::Enqueue(const std::vector<std::shared_ptr<Job>>& jobs, bool first) {
  if (jobs.empty()) return;
  const std::lock_guard lock(mutex_);
  auto& queue = waiting_[jobs[0]->request.tenant];
  queue.insert(first ? queue.begin() : queue.end(), jobs.begin(), jobs.end());
  waiting_count_ += jobs.size();
  changed_.notify_all();
}

void Engine::CoreMain() {
  const std::unique_ptr<Core> core(options_.foreground ? new Core{*options_.foreground, {}, {}} : nullptr);
  Lock lock(mutex_);
  for (;;) {
    const auto wanted = [&] { return ending_ || (waiting_count_ > 0 && running_ < cores_); };
    if (parked_.empty()) {
      changed_.wait(lock, wanted);
    } else if (!changed_.wait_until(lock, parked_.front()->since + options_.parked_for, wanted)) {
      if (parked_.empty() || Clock::now() - parked_.front()->since < options_.parked_for) continue;
      auto late = std::move(parked_.front());
      parked_.pop_front();
      lock.unlock();
      late.reset();
      lock.lock();
      continue;
    }
    if (waiting_count_ == 0) return;  // Ending.
    const std::shared_ptr<Job> job = Next();
    ++running_;
    lock.unlock();
    Run(job, core.get());
    lock.lock();
    if (core) changed_.wait_for(lock, core->debt.Owed(Clock::now()), [this] { return ending_; });  // Rather than that the next one pays for it.
    --running_;
    if (waiting_count_ > 0) changed_.notify_all();  // One alone might be one that rests.
  }
}

std::shared_ptr<Engine::Job> Engine::Next() {
  const auto turn = std::ranges::min_element(waiting_, {}, [&](const auto& entry) { return turns_.StartOf(entry.first); });
  std::shared_ptr<Job> job = turn->second.front();
  turn->second.pop_front();
  job->start_us = turns_.Begin(turn->first);
  if (turn->second.empty()) waiting_.erase(turn);
  --waiting_count_;
  return job;
}

bool Engine::OtherIsDue(const Job& job, std::uint64_t ran_us) const {
  const std::lock_guard lock(mutex_);
  return std::ranges::any_of(waiting_, [&](const auto& entry) { return entry.first != job.request.tenant && turns_.StartOf(entry.first) + kAheadUs <= job.start_us + ran_us; });
}

void Engine::Run(const std::shared_ptr<Job>& job, Core* core) {
  job->begun = Clock::now();
  Completion completion;
  completion.queued_us = static_cast<std::uint64_t>(std::chrono::duration_cast<microseconds>(job->begun - job->arrived).count());
  const std::uint64_t queued = completion.queued_us;
  if (job->ended()) {
    completion.status = Aborted("aborted before it was begun");
  } else if (job->late()) {
    completion.status = DeadlineExceeded("its deadline passed while it waited");
  } else {
    completion = job->request.opcode == Opcode::kExecute ? Execute(*job, core) : Fast(job->request);
    completion.queued_us = queued;
  }
  if (!job->brief) {
    // Before its completion, upon which the tenant may want its next turn.
    const std::lock_guard lock(mutex_);
    turns_.End(job->request.tenant, job->start_us, MicrosecondsSince(job->begun));
  }
  Finish(job, std::move(completion));
}

std::unique_ptr<Engine::Parked> Engine::TakeParked(const Request& request) {
  const std::lock_guard lock(mutex_);
  const auto found = std::ranges::find_if(parked_, [&](const auto& one) {
    const Request& of = one->request;
    return of.function == request.function && of.tenant == request.tenant && of.name == request.name && of.offset == request.offset &&
           of.bytes == request.bytes && of.data == request.data && of.state == request.state;
  });
  if (found == parked_.end()) return nullptr;
  auto taken = std::move(*found);
  parked_.erase(found);
  return taken;
}

void Engine::Park(std::unique_ptr<Parked> parked) {
  std::unique_ptr<Parked> oldest;  // Goes without the lock.
  const std::lock_guard lock(mutex_);
  parked->since = Clock::now();
  parked_.push_back(std::move(parked));
  if (parked_.size() <= kParkedMax) return;
  oldest = std::move(parked_.front());
  parked_.pop_front();
}

Status Engine::RunPiece(const Job& job, JobPace& pace, std::shared_ptr<const Source> source, Completion* completion, Result<Bytes>* state) {
  const Request& request = job.request;
  std::unique_ptr<Work> work;
  if (!request.state.empty()) {
    if (const auto parked = TakeParked(request)) {
      work = std::move(parked->work);
      source = std::move(parked->source);
    }
  }
  if (!work) {
    const std::uint64_t size = source->size();
    Part part{std::min(request.offset, size), size};
    if (request.bytes != 0) part.end = part.begin + std::min(request.bytes, size - part.begin);
    GODWIT_ASSIGN(work, job.function->Begin(request.data, request.state, part));
  }
  const std::uint64_t read_before = work->read_bytes();
  GODWIT_ASSIGN(bool finished, work->Run(*source, pace, &completion->data));
  *state = finished ? Result<Bytes>(Bytes()) : work->Save();
  // More state than travels: it goes on here past its slice.
  while (!finished && !state->ok() && state->error().code == ErrorCode::kResourceExhausted && !pace.past_slice) {
    pace.past_slice = true;
    if (pace.Over(completion->data.size())) break;
    GODWIT_ASSIGN(finished, work->Run(*source, pace, &completion->data));
    *state = finished ? Result<Bytes>(Bytes()) : work->Save();
  }
  completion->read_bytes = work->read_bytes() - read_before;
  completion->more = !finished;
  if (!finished && state->ok() && source->file()) {
    auto parked = std::make_unique<Parked>(Parked{request, job.function, std::move(source), std::move(work)});
    parked->request.state = **state;
    Park(std::move(parked));
  }
  return {};
}

Completion Engine::Execute(Job& job, Core* core) {
  const Request& request = job.request;
  Completion completion;
  const auto run = [&]() -> Status {
    std::shared_ptr<const Source> source;
    if (!request.name.empty()) {
      if (options_.storage == nullptr) return Unsupported("this device has no storage");
      GODWIT_ASSIGN(source, options_.storage->Open(request.tenant, request.name));
    } else if (!request.ranges.empty()) {
      GODWIT_ASSIGN(auto piece, memory_.Resolve(request.ranges[0], Rights::kRead));
      source = std::make_shared<BytesSource>(piece.bytes, piece.memory);
    } else {
      source = std::make_shared<BytesSource>(ByteView());
    }
    {
      const std::lock_guard lock(mutex_);
      const auto found = functions_.find(request.function);
      if (found == functions_.end() || (!found->second.built_in && found->second.tenant != request.tenant)) {
        return NotFound(fmt::format("no function {} of '{}' is loaded", request.function, request.tenant));
      }
      if (!found->second.active) return FailedPrecondition(fmt::format("function {} is not active", request.function));
      job.function = found->second.function;
      ++found->second.running;
    }
    Result<Bytes> state = Bytes();
    Status worked;
    const auto work = [&] {
      JobPace pace(*this, job, core);  // Of what begins the work, too: a guest that is made may take longer than it runs.
      worked = RunPiece(job, pace, std::move(source), &completion, &state);
      completion.cpu_us = pace.cpu_us();
    };
    core != nullptr ? core->thread.Run(work) : work();
    GODWIT_TRY(worked);
    const std::size_t output = request.name.empty() ? 1 : 0;
    if (request.ranges.size() > output) {
      GODWIT_ASSIGN(const auto to, memory_.Resolve(request.ranges[output], Rights::kWrite));
      if (completion.data.size() > to.bytes.size()) {
        return ResourceExhausted(fmt::format("its output of {} bytes does not fit the range of {}", completion.data.size(), to.bytes.size()));
      }
      std::copy(completion.data.begin(), completion.data.end(), to.bytes.begin());
      completion.value = completion.data.size();
      completion.data.clear();
    }
    if (!completion.more) return {};
    if (job.late()) return DeadlineExceeded("its deadline passed while it ran");
    if (request.energy_uj > 0 && EnergyUj(options_.profile, MicrosecondsSince(job.begun)) > request.energy_uj) {
      return ResourceExhausted("its energy budget is used up, by the device's model");
    }
    GODWIT_ASSIGN(completion.state, std::move(state));
    return {};
  };
  completion.status = run();
  if (completion.status.ok() && completion.data.size() > kDataBytesMax) {
    completion.status = ResourceExhausted(fmt::format("one small step of the function gave {} bytes; a completion holds {}", completion.data.size(), kDataBytesMax));
  }
  if (!completion.status.ok()) {
    completion.data.clear();
    completion.state.clear();
    completion.more = false;
  }
  completion.busy_us = MicrosecondsSince(job.begun);
  completion.energy_uj = EnergyUj(options_.profile, completion.busy_us);
  const std::lock_guard lock(mutex_);
  busy_us_ += completion.busy_us;
  energy_uj_ += completion.energy_uj;
  if (!request.name.empty()) storage_read_ += completion.read_bytes;
  if (job.function) {
    const auto found = functions_.find(request.function);  // Not unloaded while it ran.
    Loaded& loaded = found->second;
    --loaded.running;
    ++loaded.executions;
    loaded.busy_us += completion.busy_us;
    loaded.cpu_us += completion.cpu_us;
    loaded.least_us = std::min(loaded.least_us, completion.busy_us);
    loaded.most_us = std::max(loaded.most_us, completion.busy_us);
  }
  return completion;
}

// --- Batches

void Engine::RunBatch(const std::shared_ptr<Job>& job) {
  auto batch = std::make_shared<BatchRun>();
  batch->job = job;
  batch->left = job->request.steps.size();
  batch->completion.steps.resize(batch->left);
  batch->started.resize(batch->left);
  batch->ended.resize(batch->left);
  for (std::size_t i = 0; i < batch->left; ++i) batch->completion.steps[i].status = Aborted("not begun");
  if (batch->left == 0) return Finish(job, std::move(batch->completion));
  StartReady(batch);
}

// Starts the steps whose turn it is, and fails those whose turn will never come; finishes the batch after the last one.
void Engine::StartReady(const std::shared_ptr<BatchRun>& batch) {
  const std::vector<Request>& steps = batch->job->request.steps;
  std::vector<std::size_t> ready;
  bool over = false;
  {
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < steps.size(); ++i) {
      if (batch->started[i]) continue;
      bool waits = false, never = batch->job->aborted || batch->job->late();
      for (const std::uint32_t before : steps[i].after) {
        if (!batch->ended[before]) waits = true;
        else if (!batch->completion.steps[before].status.ok()) never = true;
      }
      if (never) {
        batch->started[i] = batch->ended[i] = true;
        batch->completion.steps[i].id = steps[i].id;
        batch->completion.steps[i].status = Aborted("a step before it failed, or the batch was ended");
        --batch->left;
      } else if (!waits) {
        batch->started[i] = true;
        ready.push_back(i);
      }
    }
    over = batch->left == 0 && !batch->finished;
    batch->finished = batch->left == 0;
  }
  if (over) {
    Completion completion = std::move(batch->completion);
    for (const Completion& step : completion.steps) {
      completion.busy_us += step.busy_us;
      completion.cpu_us += step.cpu_us;
      completion.energy_uj += step.energy_uj;
      completion.read_bytes += step.read_bytes;
      if (!step.status.ok() && completion.status.ok()) completion.status = step.status.error().Within("a step of the batch");
    }
    return Finish(batch->job, std::move(completion));
  }
  std::vector<std::shared_ptr<Job>> jobs;
  for (const std::size_t i : ready) {
    auto step = std::make_shared<Job>();
    step->request = steps[i];
    step->request.tenant = batch->job->request.tenant;
    if (step->request.deadline.count() == 0) step->request.deadline = batch->job->request.deadline;
    step->arrived = batch->job->arrived;
    step->batch = batch->job;
    step->done = [this, batch, i](Completion completion) {
      {
        const std::lock_guard lock(mutex_);
        batch->completion.steps[i] = std::move(completion);
        batch->ended[i] = true;
        --batch->left;
      }
      StartReady(batch);
    };
    jobs.push_back(std::move(step));
  }
  Enqueue(jobs, true);  // They have waited with their batch.
}

}  // namespace godwit::device
