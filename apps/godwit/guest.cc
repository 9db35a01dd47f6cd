#include "guest.h"

#include <poll.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "commands.h"
#include "runtime/instance.h"
#include "runtime/wasi.h"
#include "package/signature.h"
#include "sandbox/sandbox.h"
#include "snapshot_file.h"

namespace godwit::cli {
namespace {

using runtime::Instance;
using runtime::LoadedModule;
using runtime::Wasi;

Result<std::vector<runtime::Preopen>> ParseFolders(const std::vector<std::string>& folders) {
  std::vector<runtime::Preopen> preopens;
  for (const std::string& folder : folders) {
    const std::size_t colon = folder.rfind(':');
    runtime::Preopen preopen;
    preopen.host = colon == std::string::npos ? folder : folder.substr(0, colon);
    preopen.guest = colon == std::string::npos ? folder : folder.substr(colon + 1);
    if (preopen.host.empty() || preopen.guest.empty()) return InvalidArgument("--dir wants HOST or HOST:GUEST");
    preopens.push_back(std::move(preopen));
  }
  return preopens;
}

std::vector<std::pair<std::string, std::string>> ParseEnvironment(const std::vector<std::string>& settings) {
  std::vector<std::pair<std::string, std::string>> environment;
  for (const std::string& setting : settings) {
    const std::size_t equals = setting.find('=');
    if (equals != std::string::npos) {
      environment.emplace_back(setting.substr(0, equals), setting.substr(equals + 1));
    } else if (const char* own = std::getenv(setting.c_str())) {
      environment.emplace_back(setting, own);
    }
  }
  return environment;
}

// Asks an instance to stop once, after a time. The instance may be replaced meanwhile.
class StopTimer {
 public:
  explicit StopTimer(std::optional<std::uint64_t> after_ms) : after_ms_(after_ms) {}
  ~StopTimer() {
    {
      const std::lock_guard lock(mutex_);
      done_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }
  // The clock starts with the first instance. Null while there is none.
  void Watch(Instance* instance) {
    const std::lock_guard lock(mutex_);
    instance_ = instance;
    if (due_ && instance_) instance_->RequestStop();
    if (!after_ms_ || thread_.joinable() || due_) return;
    if (*after_ms_ == 0) {
      due_ = true;
      instance_->RequestStop();
      return;
    }
    thread_ = std::thread([this, deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(*after_ms_)] {
      std::unique_lock lock(mutex_);
      if (changed_.wait_until(lock, deadline, [&] { return done_; })) return;
      due_ = true;
      if (instance_) instance_->RequestStop();
    });
  }
  bool due() {
    const std::lock_guard lock(mutex_);
    return due_;
  }

 private:
  const std::optional<std::uint64_t> after_ms_;
  std::mutex mutex_;  // Guards the rest.
  std::condition_variable changed_;
  Instance* instance_ = nullptr;
  bool due_ = false, done_ = false;
  std::thread thread_;
};

// Waits until the host function that blocked may go on, or somebody woke the instance.
void WaitFor(const runtime::Blocked& blocked, Instance& instance) {
  std::vector<pollfd> fds = blocked.fds;
  fds.push_back({instance.wake_fd(), POLLIN, 0});
  timespec timeout{};
  if (blocked.deadline) {
    const auto left = std::max(*blocked.deadline - std::chrono::steady_clock::now(), std::chrono::nanoseconds(0));
    const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(left).count();
    timeout = {static_cast<time_t>(ns / 1'000'000'000), static_cast<long>(ns % 1'000'000'000)};
  }
  ppoll(fds.data(), fds.size(), blocked.deadline ? &timeout : nullptr, nullptr);
}

class Guest {
 public:
  Guest(std::shared_ptr<const LoadedModule> module, const RunOptions& options)
      : module_(std::move(module)), options_(options), timer_(options.stop_after_ms) {}

  // Before Begin or Restore.
  Status Listen() {
    for (const std::string& address : options_.listen) {
      GODWIT_TRY(sockets_->Listen(address));
      std::fprintf(stderr, "listening at %s\n", sockets_->address(sockets_->listeners() - 1).c_str());
    }
    return {};
  }

  Status Begin() {
    GODWIT_ASSIGN(auto hosts, MakeHosts());
    GODWIT_ASSIGN(instance_, Instance::Create(module_, std::move(hosts), runtime::Limits()));
    if (const auto start = instance_->start_function()) {
      GODWIT_ASSIGN(task_, instance_->Start(*start, {}));
      in_start_function_ = true;
      return {};
    }
    return BeginMain();
  }

  Status Restore(const snapshot::Snapshot& from) {
    GODWIT_ASSIGN(auto hosts, MakeHosts());
    GODWIT_ASSIGN(instance_, Instance::Restore(module_, std::move(hosts), runtime::Limits(), from));
    if (instance_->tasks().size() != 1) return FailedPrecondition("the snapshot is not of a program taken by 'run'");
    task_ = instance_->tasks().front();
    const fbs::Module& module = module_->module();
    in_start_function_ = module.has_start() && !from.stacks.empty() && from.stacks[0].function == module.start();
    return {};
  }

  Result<int> Run() {
    instance_->StopEvery(options_.stress_every);
    timer_.Watch(instance_.get());
    for (;;) {
      const runtime::Outcome outcome = instance_->Run(task_);
      if (const auto* blocked = std::get_if<runtime::Blocked>(&outcome)) {
        WaitFor(*blocked, *instance_);
      } else if (std::holds_alternative<runtime::Captured>(outcome)) {
        if (timer_.due()) return Stop();
        if (options_.stress_every != 0) GODWIT_TRY(Reincarnate());
      } else if (std::holds_alternative<runtime::Returned>(outcome)) {
        if (!in_start_function_) return kExitDone;
        in_start_function_ = false;
        GODWIT_TRY(BeginMain());
      } else if (const auto* exited = std::get_if<runtime::Exited>(&outcome)) {
        return static_cast<int>(exited->code & 0xff);
      } else {
        const auto& trapped = std::get<runtime::Trapped>(outcome);
        std::fprintf(stderr, "trap: %s\n", trapped.message.c_str());
        return kExitTrapped;
      }
    }
  }

 private:
  Status BeginMain() {
    const Result<std::uint32_t> main = instance_->FindFunction("_start");
    if (!main.ok()) return InvalidArgument("the module exports no _start: it is not a WASI command");
    GODWIT_ASSIGN(task_, instance_->Start(*main, {}));
    return {};
  }

  Result<std::vector<std::shared_ptr<runtime::HostModule>>> MakeHosts() {
    runtime::WasiOptions wasi;
    wasi.args = options_.arguments;
    wasi.env = ParseEnvironment(options_.environment);
    GODWIT_ASSIGN(wasi.preopens, ParseFolders(options_.folders));
    wasi.sockets = sockets_;
    wasi.stdio = {runtime::FdStream::Borrow(0), runtime::FdStream::Borrow(1), runtime::FdStream::Borrow(2)};
    GODWIT_ASSIGN(auto module, Wasi::Create(std::move(wasi)));
    return std::vector<std::shared_ptr<runtime::HostModule>>{std::move(module)};
  }

  // The program stands still: writes its snapshot.
  Result<int> Stop() {
    GODWIT_ASSIGN(snapshot::Snapshot snapshot, instance_->Capture());
    if (options_.carry_package) CarryPackage(snapshot, module_->package());
    GODWIT_TRY(WriteSnapshotFile(options_.snapshot, snapshot));
    return kExitStopped;
  }

  // Everything but the module is made anew from the encoded snapshot.
  Status Reincarnate() {
    GODWIT_ASSIGN(const snapshot::Snapshot before, instance_->Capture());
    GODWIT_ASSIGN(const Bytes encoded, snapshot::EncodeToBytes(before));
    timer_.Watch(nullptr);
    instance_.reset();
    GODWIT_ASSIGN(const snapshot::Snapshot after, snapshot::Decode(encoded));
    GODWIT_TRY(Restore(after));
    instance_->StopEvery(options_.stress_every);
    timer_.Watch(instance_.get());
    return {};
  }

  std::shared_ptr<const LoadedModule> module_;
  const RunOptions& options_;
  // Outlives instances: connections stay while the program is stopped and resumed here.
  std::shared_ptr<runtime::Sockets> sockets_ = std::make_shared<runtime::Sockets>();
  std::unique_ptr<Instance> instance_;
  runtime::TaskId task_ = 0;
  bool in_start_function_ = false;
  StopTimer timer_;  // After the instance: its thread ends before the instance does.
};

}  // namespace

void AddRunFlags(CLI::App& command, RunOptions& options, bool& no_package) {
  command.add_option("--dir", options.folders, "Folder the program may use, as HOST or HOST:GUEST")
      ->expected(1)->take_all()->allow_extra_args(false)->type_name("HOST[:GUEST]");
  command.add_option("--tcplisten", options.listen, "Listening TCP socket for the program, behind its folders' descriptors")
      ->expected(1)->take_all()->allow_extra_args(false)->type_name("ADDRESS:PORT");
  command.add_option("--stop-after", options.stop_after_ms, "Stop after this much run time and write --snapshot")
      ->type_name("MS");
  command.add_option("--snapshot", options.snapshot, "File for the snapshot of --stop-after")->type_name("FILE");
  command.add_option("--trust-keys", options.trust_keys, "PEM file of public keys: refuse a package that none of them signed")
      ->type_name("FILE");
  command.add_flag("--no-package", no_package, "Leave the package out of the snapshot");
}

Status CheckRunOptions(const RunOptions& options) {
  if (options.stop_after_ms.has_value() != !options.snapshot.empty()) {
    return InvalidArgument("--stop-after and --snapshot belong together");
  }
  return {};
}

Result<int> RunProgram(std::shared_ptr<const package::Package> package, const snapshot::Snapshot* from,
                       const RunOptions& options) {
  if ((options.stop_after_ms || options.stress_every != 0) && !package->module().safepoints_enabled()) {
    return FailedPrecondition("the package was built with --no-safepoints: it cannot be stopped");
  }
  if (!options.trust_keys.empty()) {
    GODWIT_ASSIGN(const auto trusted, package::TrustedKeys::Load(options.trust_keys));
    GODWIT_TRY(trusted.Check(*package));
  }
  std::signal(SIGPIPE, SIG_IGN);  // The guest gets EPIPE.
  GODWIT_ASSIGN(std::shared_ptr<const LoadedModule> module, LoadedModule::Load(std::move(package)));
  Guest guest(std::move(module), options);
  GODWIT_TRY(guest.Listen());
  GODWIT_TRY(from ? guest.Restore(*from) : guest.Begin());
  // Before the guest's first instruction, and after listening sockets of the snapshot were made.
  if (const auto entered = sandbox::Enter(sandbox::Role::kRunner); !entered.ok()) return entered.error();
  return guest.Run();
}

}  // namespace godwit::cli
