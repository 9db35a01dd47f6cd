#include "agent/user_function.h"

#include <poll.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include <fmt/format.h>

#include "agent/guest_api.h"
#include "device/arguments.h"
#include "device/lines.h"
#include "runtime/instance.h"
#include "runtime/wasi.h"
#include "snapshot/snapshot.h"

namespace godwit::agent {
namespace {

using device::Pace;
using device::Part;
using runtime::Cell;
using runtime::Outcome;

// No request is there: what serves requests says "not found".
class NoRequests final : public GuestRequests {
 public:
  NoRequests(const model::Manifest& manifest, Environment& environment) : manifest_(manifest), environment_(environment) {
    asker_.service = manifest.name;
  }
  std::mutex& mutex() override { return mutex_; }
  Exchange* Find(std::uint32_t, runtime::Instance&, runtime::TaskId) override { return nullptr; }
  std::shared_ptr<Exchange> Share(Exchange*) override { return nullptr; }
  const model::Manifest& manifest() const override { return manifest_; }
  const Asker& asker() const override { return asker_; }
  Environment& environment() override { return environment_; }

 private:
  std::mutex mutex_;
  const model::Manifest& manifest_;
  Environment& environment_;
  Asker asker_;
};

// Stops `instance` once `pace` is over, while the guest's code runs and asks nobody.
class Watch {
 public:
  Watch(runtime::Instance& instance, const Pace& pace)
      : thread_([this, &instance, &pace] {
          std::unique_lock lock(mutex_);
          while (!changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return ended_; })) {
            if (pace.Over(0)) return instance.RequestStop();
            if (const auto owed = pace.Owed(); owed.count() > 0) instance.Nap(owed);
          }
        }) {}
  ~Watch() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  std::thread thread_;
};

struct Program {
  std::shared_ptr<const runtime::LoadedModule> module;
  std::string name;
  model::Manifest manifest;
  std::shared_ptr<Environment> environment;
};

// Calls of the guest, in this order; kDone: none is left.
enum class Call : std::uint32_t { kStart = 0, kInitialise = 1, kWindow = 2, kLines = 3, kLast = 4, kDone = 5 };

class UserWork final : public device::Work {
 public:
  struct Position {
    Call call = Call::kStart;
    bool inside = false;         // Of the call: its task is in the snapshot.
    std::uint32_t window = 0;    // Where the guest has its buffer.
    std::optional<std::uint64_t> lines;
  };
  UserWork(std::shared_ptr<const Program> program, ByteView arguments, Part part, Position position, std::optional<Bytes> snapshot)
      : program_(std::move(program)), requests_(program_->manifest, *program_->environment), lines_(part, position.lines), position_(position),
        snapshot_(std::move(snapshot)) {
    io_.arguments.assign(arguments.begin(), arguments.end());
  }

  Result<bool> Run(const device::Source& source, const Pace& pace, Bytes* output) override {
    if (!instance_) GODWIT_TRY(Enter());
    instance_->WithdrawStop();
    const Watch watch(*instance_, pace);
    while (position_.call != Call::kDone) {
      if (!position_.inside) GODWIT_TRY(Begin(source));
      if (position_.call == Call::kDone) break;
      GODWIT_ASSIGN(const std::optional<std::int32_t> result, Continue(pace));
      output->insert(output->end(), io_.output.begin(), io_.output.end());
      io_.output.clear();
      if (!result) return false;
      GODWIT_TRY(End(*result));
      if (position_.call != Call::kDone && pace.Over(output->size())) return false;
    }
    return true;
  }

  Result<Bytes> Save() override {
    // Between calls nobody needs the lines that were in the buffer: zeros do not travel.
    if (!position_.inside && window_used_ != 0) std::memset(runtime::GuestMemory(instance_->context()).Range(position_.window, window_used_), 0, window_used_);
    GODWIT_ASSIGN(const auto captured, instance_->Capture());
    std::string head = nlohmann::json{{"call", static_cast<std::uint32_t>(position_.call)}, {"inside", position_.inside},
                                      {"window", position_.window}, {"lines", lines_.position()}, {"begun", lines_begun_}}
                           .dump();
    head += '\n';
    Bytes state(head.begin(), head.end());
    GODWIT_TRY(snapshot::Encode(captured, [&](ByteView bytes) -> Status {
      state.insert(state.end(), bytes.begin(), bytes.end());
      return state.size() <= device::kDataBytesMax ? Status() : Status(ResourceExhausted(fmt::format(
                 "the function '{}' has more than {} bytes of state, which do not travel with an offload", program_->name, device::kDataBytesMax)));
    }));
    return state;
  }
  std::uint64_t read_bytes() const override { return lines_.read_bytes(); }

 private:
  Status Enter() {
    runtime::WasiOptions options;
    options.args = {program_->manifest.name.value};
    for (const auto& [name, value] : program_->manifest.env) options.env.emplace_back(name, value);
    options.folders_from_snapshot = false;
    for (auto& stream : options.stdio) stream = std::make_shared<runtime::MemoryStream>();
    GODWIT_ASSIGN(auto wasi, runtime::Wasi::Create(std::move(options)));
    std::vector<std::shared_ptr<runtime::HostModule>> hosts = {std::move(wasi), std::make_shared<GuestApi>(&requests_, &io_)};
    runtime::Limits limits;
    limits.memory_max = program_->manifest.limits.memory;
    limits.tasks_max = 2;  // As a reactor's: the runtime then puts __stack_pointer back after a call.
    if (!snapshot_) {
      GODWIT_ASSIGN(instance_, runtime::Instance::Create(program_->module, std::move(hosts), limits));
      return {};
    }
    GODWIT_ASSIGN(const auto decoded, snapshot::Decode(*snapshot_));
    GODWIT_ASSIGN(instance_, runtime::Instance::Restore(program_->module, std::move(hosts), limits, decoded));
    const auto tasks = instance_->tasks();
    if (tasks.size() != (position_.inside ? 1u : 0u)) return Corrupt("the state of a user function: its calls do not fit its position");
    if (position_.inside) task_ = tasks[0];
    return {};
  }

  // Starts the call whose turn it is; those that the module does not have are skipped.
  Status Begin(const device::Source& source) {
    std::vector<Cell> arguments;
    const auto add = [&](std::uint32_t value) {
      Cell cell{};
      std::memcpy(cell.data(), &value, sizeof value);
      arguments.push_back(cell);
    };
    std::optional<std::uint32_t> function;
    if (position_.call == Call::kStart) {
      function = instance_->start_function();
      if (!function) position_.call = Call::kInitialise;
    }
    if (position_.call == Call::kInitialise) {
      const auto found = instance_->FindFunction("_initialize");
      if (found.ok()) function = *found;
      else position_.call = Call::kWindow;
    }
    if (position_.call == Call::kWindow) {
      GODWIT_ASSIGN(function, instance_->FindFunction("godwit_window"));
      add(device::kLineBytesMax);
    }
    if (position_.call == Call::kLines || position_.call == Call::kLast) {
      GODWIT_ASSIGN(function, instance_->FindFunction(program_->name));
      std::string_view run;
      if (position_.call == Call::kLines) {
        GODWIT_ASSIGN(run, lines_.Next(source));
        lines_begun_ = true;
        if (run.empty()) position_.call = Call::kLast;
      }
      std::uint8_t* window = runtime::GuestMemory(instance_->context()).Range(position_.window, run.size());
      if (window == nullptr) return FailedPrecondition("godwit_window gave a buffer that is not in memory");
      if (!run.empty()) std::memcpy(window, run.data(), run.size());
      window_used_ = std::max(window_used_, run.size());
      add(position_.window);
      add(static_cast<std::uint32_t>(run.size()));
      add(position_.call == Call::kLast);
    }
    GODWIT_ASSIGN(task_, instance_->Start(*function, arguments));
    position_.inside = true;
    return {};
  }

  // The call's result (0 where it has none); nullopt: it was stopped.
  Result<std::optional<std::int32_t>> Continue(const Pace& pace) {
    for (;;) {
      Outcome outcome = instance_->Run(task_);
      if (auto* returned = std::get_if<runtime::Returned>(&outcome)) {
        std::int32_t value = 0;
        if (!returned->results.empty()) std::memcpy(&value, returned->results[0].data(), sizeof value);
        return std::optional(value);
      }
      if (std::holds_alternative<runtime::Captured>(outcome)) return std::optional<std::int32_t>();
      if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) {
        return FailedPrecondition(fmt::format("the function '{}' trapped: {}", program_->name, trapped->message));
      }
      if (const auto* exited = std::get_if<runtime::Exited>(&outcome)) {
        return FailedPrecondition(fmt::format("the function '{}' exited with {}", program_->name, exited->code));
      }
      auto fds = std::get<runtime::Blocked>(outcome).fds;
      poll(fds.data(), fds.size(), 1);
      if (pace.Over(0)) instance_->RequestStop();
    }
  }

  Status End(std::int32_t result) {
    position_.inside = false;
    switch (position_.call) {
      case Call::kStart: position_.call = Call::kInitialise; return {};
      case Call::kInitialise: position_.call = Call::kWindow; return {};
      case Call::kWindow:
        position_.window = static_cast<std::uint32_t>(result);
        position_.call = Call::kLines;
        return {};
      default: break;
    }
    if (result < 0) return FailedPrecondition(fmt::format("the function '{}' gave up with {}", program_->name, result));
    if (position_.call == Call::kLast) position_.call = Call::kDone;
    return {};
  }

  const std::shared_ptr<const Program> program_;
  FunctionIo io_;
  NoRequests requests_;
  device::Lines lines_;
  Position position_;
  bool lines_begun_ = position_.lines.has_value();
  std::size_t window_used_ = 0;  // Of the guest's buffer, by this object.
  const std::optional<Bytes> snapshot_;
  std::unique_ptr<runtime::Instance> instance_;
  runtime::TaskId task_ = 0;
};

class UserFunction final : public device::Function {
 public:
  explicit UserFunction(std::shared_ptr<const Program> program) : program_(std::move(program)) {}
  std::string_view name() const override { return program_->name; }
  Result<std::unique_ptr<device::Work>> Begin(ByteView arguments, ByteView state, Part part) const override {
    UserWork::Position position;
    std::optional<Bytes> snapshot;
    if (!state.empty()) {
      const std::size_t end = std::min(AsText(state).find('\n'), state.size());
      device::Arguments saved("the state of a user function", state.first(end));
      position.call = static_cast<Call>(saved.Number("call", 0, 0, static_cast<std::uint64_t>(Call::kLast)));
      position.inside = saved.Flag("inside", false);
      position.window = static_cast<std::uint32_t>(saved.Number("window", 0, 0, ~0u));
      const std::uint64_t lines = saved.Number("lines", part.begin, part.begin, ~0ull);
      if (saved.Flag("begun", false)) position.lines = lines;
      if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
      const ByteView bytes = state.subspan(std::min(end + 1, state.size()));
      snapshot.emplace(bytes.begin(), bytes.end());
    }
    return std::unique_ptr<device::Work>(std::make_unique<UserWork>(program_, arguments, part, position, std::move(snapshot)));
  }
  bool brief(ByteView, Part) const override { return false; }

 private:
  const std::shared_ptr<const Program> program_;
};

}  // namespace

Result<std::shared_ptr<const device::Function>> MakeUserFunction(std::shared_ptr<const runtime::LoadedModule> module, const std::string& name,
                                                                 const model::Manifest& manifest, std::shared_ptr<Environment> environment) {
  const auto exports = [&](std::string_view wanted) {
    const auto* list = module->module().exports();
    for (unsigned i = 0; list != nullptr && i < list->size(); ++i) {
      const auto& one = *list->Get(i);
      if (one.kind() == godwit::fbs::ExternKind::function && one.name() != nullptr && one.name()->string_view() == wanted) return true;
    }
    return false;
  };
  for (const std::string_view wanted : {std::string_view(name), std::string_view("godwit_window")}) {
    if (!exports(wanted)) return NotFound(fmt::format("service '{}' exports no function '{}'", manifest.name.value, wanted));
  }
  auto program = std::make_shared<const Program>(Program{std::move(module), name, manifest, std::move(environment)});
  return std::shared_ptr<const device::Function>(std::make_shared<UserFunction>(std::move(program)));
}

Result<std::shared_ptr<const device::Function>> UserPrograms::Load(const std::string& tenant, const std::string& name, ByteView program) {
  const auto service = service_(tenant);
  if (!service) return NotFound("no service '" + tenant + "' is known here (yet)");
  if (AsText(program) != service->package) return PermissionDenied(fmt::format("'{}' is not the package of service '{}'", AsText(program), tenant));
  GODWIT_ASSIGN(auto module, packages_.Load(service->package));
  return MakeUserFunction(std::move(module), name, service->manifest, environment_);
}

}  // namespace godwit::agent
