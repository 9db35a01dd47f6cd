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
#include "runtime/file_window.h"
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

// Stops `instance` once the pace is over, while the guest's code runs and asks nobody. Its thread looks every millisecond, and sleeps where
// nothing ran for a while: a piece of work neither wakes it nor waits for it.
class Watch {
 public:
  explicit Watch(runtime::Instance& instance) : instance_(instance), thread_([this] { Main(); }) {}
  ~Watch() {
    Set(nullptr, true);
    thread_.join();
  }
  void Begin(const Pace& pace) { Set(&pace, false); }
  // The pace is not asked any more.
  void End() { Set(nullptr, false); }

 private:
  static constexpr int kIdleLooks = 4;

  void Set(const Pace* pace, bool ending) {
    const std::lock_guard lock(mutex_);
    pace_ = pace;
    stopped_ = false;
    ending_ = ending;
    if (asleep_ || ending) changed_.notify_one();
  }
  void Main() {
    std::unique_lock lock(mutex_);
    for (int idle = 0; !ending_;) {
      asleep_ = pace_ == nullptr && ++idle > kIdleLooks;
      if (asleep_) changed_.wait(lock, [this] { return pace_ != nullptr || ending_; });
      asleep_ = false;
      changed_.wait_for(lock, std::chrono::milliseconds(1), [this] { return ending_; });
      if (pace_ == nullptr || ending_) continue;
      idle = 0;
      if (stopped_) continue;
      if (pace_->Over(0)) {
        stopped_ = true;
        instance_.RequestStop();
      } else if (const auto owed = pace_->Owed(); owed.count() > 0) {
        instance_.Nap(owed);
      }
    }
  }

  runtime::Instance& instance_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const Pace* pace_ = nullptr;  // Null: nothing runs.
  bool stopped_ = false;        // What runs was told to stop.
  bool asleep_ = false, ending_ = false;
  std::thread thread_;
};

// The buffer that a guest is asked for where its data is a file: of the guest's memory a part of the file takes the place of a copy.
constexpr std::uint32_t kShownBytes = 8 << 20, kShownRoom = kShownBytes + runtime::FileWindow::kAlignment;
constexpr std::uint64_t kShownFrom = 1 << 20;  // Of data: less is copied.
constexpr std::size_t kShownRunBytes = 4 * device::kRunBytes;
constexpr std::chrono::microseconds kShownRunTime{200};
static_assert(kShownBytes >= runtime::FileWindow::kAlignment + std::max(kShownRunBytes, device::kLineBytesMax));

// A file's bytes where the guest sees them.
class ShownSource final : public device::Source {
 public:
  ShownSource(const device::Source& source, runtime::FileWindow& window) : source_(source), window_(window) {}
  std::uint64_t size() const override { return source_.size(); }
  Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes&) const override {
    bytes = std::min<std::uint64_t>(bytes, size() - std::min(size(), offset));
    if (offset < begin_ || offset + bytes > begin_ + shown_.size()) {
      begin_ = offset / runtime::FileWindow::kAlignment * runtime::FileWindow::kAlignment;
      GODWIT_ASSIGN(shown_, window_.Show(*source_.file(), begin_, size()));
      checked_ = 0;
    }
    const std::uint64_t from = offset - begin_;
    checked_ = std::max(checked_, from / kCheckedBytes * kCheckedBytes);
    if (from + bytes > checked_) {
      const std::uint64_t to = std::min<std::uint64_t>((from + bytes + kCheckedBytes - 1) / kCheckedBytes * kCheckedBytes, shown_.size());
      GODWIT_TRY(CheckShown(checked_, to));
      checked_ = to;
    }
    return ByteView(shown_).subspan(from, bytes);
  }

 private:
  Status CheckShown(std::uint64_t from, std::uint64_t to) const {
    const Status checked = source_.Check(begin_ + from, ByteView(shown_).subspan(from, to - from));
    if (checked.ok()) return {};
    Bytes scratch;  // The guest may write to what it sees.
    GODWIT_TRY(source_.Window(begin_ + from, to - from, scratch));
    return FailedPrecondition("the function wrote to its window beyond the lines that it was given");
  }

  const device::Source& source_;
  runtime::FileWindow& window_;
  mutable std::uint64_t begin_ = 0;
  mutable std::span<std::uint8_t> shown_;
  mutable std::uint64_t checked_ = 0;  // Of shown_, from some earlier offset on.
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
    std::uint32_t window = 0, window_bytes = 0;  // Where the guest has its buffer.
    std::optional<std::uint64_t> lines;
  };
  UserWork(std::shared_ptr<const Program> program, ByteView arguments, Part part, Position position, std::optional<Bytes> snapshot)
      : program_(std::move(program)), requests_(program_->manifest, *program_->environment), lines_(part, position.lines), position_(position),
        snapshot_(std::move(snapshot)) {
    io_.arguments.assign(arguments.begin(), arguments.end());
  }

  Result<bool> Run(const device::Source& source, const Pace& pace, Bytes* output) override {
    if (!instance_) GODWIT_TRY(Enter());
    if (!watch_) watch_.emplace(*instance_);
    instance_->WithdrawStop();
    watch_->Begin(pace);
    auto finished = Go(source, pace, output);
    watch_->End();
    return finished;
  }

  Result<Bytes> Save() override {
    // Between calls nobody needs the lines that were in the buffer: zeros do not travel. A call's own lines do.
    if (!position_.inside && copied_ != 0) std::memset(runtime::GuestMemory(instance_->context()).Range(position_.window, copied_), 0, copied_);
    if (file_window_ && position_.inside) {
      const Bytes kept(shown_run_.begin(), shown_run_.end());
      shown_.reset();
      file_window_->Clear();
      std::copy(kept.begin(), kept.end(), shown_run_.begin());
    }
    GODWIT_ASSIGN(const auto captured, instance_->Capture(runtime::Instance::Pages::kChanged, file_window_ ? file_window_->shown() : std::span<const std::uint8_t>()));
    std::uint64_t in_pages = 0;  // To encode them first may take as long as many pieces.
    for (const auto& memory : captured.memories) {
      for (const auto& run : memory.runs) in_pages += run.bytes.size();
    }
    if (in_pages > device::kDataBytesMax) return TooMuchState();
    std::string head = nlohmann::json{{"call", static_cast<std::uint32_t>(position_.call)}, {"inside", position_.inside},
                                      {"window", position_.window}, {"window_bytes", position_.window_bytes}, {"lines", lines_.position()}, {"begun", lines_begun_}}
                           .dump();
    head += '\n';
    Bytes state(head.begin(), head.end());
    GODWIT_TRY(snapshot::Encode(captured, [&](ByteView bytes) -> Status {
      state.insert(state.end(), bytes.begin(), bytes.end());
      return state.size() <= device::kDataBytesMax ? Status() : Status(TooMuchState());
    }));
    return state;
  }
  std::uint64_t read_bytes() const override { return lines_.read_bytes(); }

 private:
  Error TooMuchState() const {
    return ResourceExhausted(fmt::format("the function '{}' has more than {} bytes of state, which do not travel with an offload", program_->name, device::kDataBytesMax));
  }

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
    limits.huge_pages = false;
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

  Result<bool> Go(const device::Source& source, const Pace& pace, Bytes* output) {
    while (position_.call != Call::kDone) {
      if (!shown_ && ShowsFile(source)) shown_.emplace(source, *file_window_);
      if (!position_.inside) GODWIT_TRY(Begin(shown_ ? *shown_ : source));
      if (position_.call == Call::kDone) break;
      const auto begin = std::chrono::steady_clock::now();
      GODWIT_ASSIGN(const std::optional<std::int32_t> result, Continue(pace));
      if (position_.call == Call::kLines) ChooseRunBytes(std::chrono::steady_clock::now() - begin);
      output->insert(output->end(), io_.output.begin(), io_.output.end());
      io_.output.clear();
      if (!result) return false;
      GODWIT_TRY(End(*result));
      if (position_.call != Call::kDone && pace.Over(output->size())) return false;
    }
    return true;
  }

  // Longer runs of lines where they take no time, since the lines of a call that is stopped in its middle travel, and where little comes of them,
  // since that is to fit a piece.
  void ChooseRunBytes(std::chrono::nanoseconds took) {
    const bool quick = took < kShownRunTime / (kShownRunBytes / run_bytes_), little = io_.output.size() < device::kRunBytes / 4;
    run_bytes_ = shown_ && quick && little ? kShownRunBytes : device::kRunBytes;
  }

  // May the guest be shown the file that it is to read? Its buffer is known by then.
  bool ShowsFile(const device::Source& source) {
    if (position_.call < Call::kLines || position_.window_bytes < kShownRoom || !source.file() || source.size() < kShownFrom) return false;
    std::uint8_t* room = runtime::GuestMemory(instance_->context()).Range(position_.window, position_.window_bytes);
    if (room != nullptr && !file_window_) file_window_.emplace(std::span(room, position_.window_bytes));
    return file_window_ && file_window_->bytes() >= kShownBytes;
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
      const bool large = position_.window_bytes == 0 && source.file() && source.size() >= kShownFrom;
      position_.window_bytes = large ? kShownRoom : device::kLineBytesMax;
      add(position_.window_bytes);
    }
    if (position_.call == Call::kLines || position_.call == Call::kLast) {
      GODWIT_ASSIGN(function, instance_->FindFunction(program_->name));
      std::string_view run;
      if (position_.call == Call::kLines) {
        GODWIT_ASSIGN(run, lines_.Next(source, run_bytes_));
        lines_begun_ = true;
        if (run.empty()) position_.call = Call::kLast;
      }
      std::uint8_t* window = runtime::GuestMemory(instance_->context()).Range(position_.window, std::max<std::size_t>(run.size(), position_.window_bytes));
      if (window == nullptr) return FailedPrecondition("godwit_window gave a buffer that is not in memory");
      const auto* from = reinterpret_cast<const std::uint8_t*>(run.data());
      const bool there = from >= window && from < window + position_.window_bytes;
      if (there) {
        shown_run_ = {window + (from - window), run.size()};
      } else if (!run.empty()) {
        std::memcpy(window, run.data(), run.size());
        copied_ = std::max(copied_, run.size());
      }
      add(position_.window + static_cast<std::uint32_t>(there ? from - window : 0));
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
    shown_run_ = {};
    switch (position_.call) {
      case Call::kStart: position_.call = Call::kInitialise; return {};
      case Call::kInitialise: position_.call = Call::kWindow; return {};
      case Call::kWindow:
        if (result == 0 && position_.window_bytes > device::kLineBytesMax) return {};  // Too much for its memory: it is asked for less.
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
  std::size_t copied_ = 0;  // Into the guest's buffer, by this object.
  const std::optional<Bytes> snapshot_;
  std::unique_ptr<runtime::Instance> instance_;
  std::optional<runtime::FileWindow> file_window_;  // Goes before the instance.
  std::optional<ShownSource> shown_;
  std::size_t run_bytes_ = device::kRunBytes;
  std::span<std::uint8_t> shown_run_;               // There, of the call that is under way.
  std::optional<Watch> watch_;
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
      position.window_bytes = static_cast<std::uint32_t>(saved.Number("window_bytes", device::kLineBytesMax, 0, kShownRoom));
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
