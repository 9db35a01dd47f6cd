// godwit up: starts a whole cluster on this machine and waits until its devices are ready.
#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cluster_keeper.h"
#include "cluster_plan.h"
#include "cluster_record.h"
#include "commands.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kReadyPollMs = 100;
constexpr const char* kDemoServices[] = {"hello", "store", "scan", "crunch"};

struct UpOptions {
  std::string file;
  std::string state;
  std::string daemon_aarch64;
  bool demo = false;
  bool detach = false;
};

fs::path OwnFolder() { return fs::path(OwnPath()).parent_path(); }

bool NativeIsAarch64() {
#if defined(__aarch64__)
  return true;
#else
  return false;
#endif
}

Result<ClusterPlan> ReadPlan(const std::string& file) {
  if (file.empty()) return DefaultPlan();
  std::ifstream in(file);
  if (!in) return NotFound("cannot read " + file);
  std::stringstream text;
  text << in.rdbuf();
  return ParsePlan(text.str(), file);
}

// Fills in the programs the keeper needs.
Status FindPrograms(const UpOptions& options, KeeperOptions& keeper) {
  keeper.daemon = (OwnFolder() / "godwitd").string();
  if (access(keeper.daemon.c_str(), X_OK) != 0)
    return FailedPrecondition(keeper.daemon + " is missing; run './dev build'");
  for (const PlannedDevice& device : keeper.plan.devices) {
    if (!device.aarch64) continue;
    if (NativeIsAarch64()) {
      keeper.daemon_aarch64 = keeper.daemon;
      return {};
    }
    keeper.daemon_aarch64 =
        options.daemon_aarch64.empty()
            ? (OwnFolder() / "../../build-aarch64/bin/godwitd").lexically_normal().string()
            : options.daemon_aarch64;
    if (access(keeper.daemon_aarch64.c_str(), X_OK) != 0) {
      return FailedPrecondition(
          fmt::format("{} is an AArch64 device and {} is missing; run './dev build-aarch64', or name another "
                      "file with --aarch64-godwitd",
                      device.name, keeper.daemon_aarch64));
    }
    for (const char* path :
         {"/usr/bin/qemu-aarch64-static", "/usr/local/bin/qemu-aarch64-static", "/usr/bin/qemu-aarch64"}) {
      if (keeper.qemu.empty() && access(path, X_OK) == 0) keeper.qemu = path;
    }
    if (keeper.qemu.empty()) {
      return FailedPrecondition(
          device.name +
          " is an AArch64 device and qemu-aarch64-static is missing; apt-get install qemu-user-static");
    }
    return {};
  }
  return {};
}

// An empty state folder with a fresh token in it, after clearing away what a cluster that died left there.
Result<std::string> PrepareState(const std::string& state) {
  if (const auto record = LoadRecord(state); record.ok()) {
    if (IsRunning(record->keeper))
      return FailedPrecondition("a cluster runs already (" + record->server + "); end it with 'godwit down'");
    Erase(state, *record);
  } else if (record.error().code != ErrorCode::kNotFound) {
    return record.error();
  }
  std::error_code error;
  if (fs::exists(state, error) && !fs::is_empty(state, error)) {
    return FailedPrecondition(
        state + " is not empty and holds no cluster; remove it, or choose another folder with --state");
  }
  fs::create_directories(state, error);
  if (error) return Internal(fmt::format("cannot create {}: {}", state, error.message()));
  fs::permissions(state, fs::perms::owner_all, error);
  std::array<unsigned char, 32> random;
  if (getrandom(random.data(), random.size(), 0) != static_cast<ssize_t>(random.size()))
    return ErrnoError("getrandom");
  const std::string token = fmt::format("{:02x}", fmt::join(random, ""));
  const std::string file = state + "/token";
  const int fd = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) return ErrnoError("cannot write " + file);
  const bool written = dprintf(fd, "%s\n", token.c_str()) > 0;
  close(fd);
  if (!written) return ErrnoError("cannot write " + file);
  return token;
}

// The side of `godwit up` itself: follows the keeper, waits for the devices, stays in the foreground.
class Foreground {
 public:
  Foreground(Session& session, const UpOptions& options, std::string token, std::size_t devices, int lifeline,
             int reports)
      : session_(session),
        options_(options),
        token_(std::move(token)),
        devices_(devices),
        lifeline_(lifeline),
        reports_(reports) {}

  Result<int> Run() {
    sigset_t signals;
    sigemptyset(&signals);
    for (int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    signals_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    Status status = UntilReady();
    if (status.ok() && options_.demo) status = DeployDemo();
    if (!status.ok()) {
      End();
      if (interrupted_) return kExitFailed;
      if (status.error().code == ErrorCode::kDeadlineExceeded) {
        std::fprintf(stderr, "godwit: %s\n", status.error().message.c_str());
        return kExitNotConverged;
      }
      return status.error();
    }
    Announce();
    if (options_.detach) {
      const char farewell = kFarewell;
      (void)!write(lifeline_, &farewell, 1);
      return kExitDone;
    }
    while (WaitReport(-1)) {
    }
    Note("ending the cluster");
    End();
    return interrupted_ ? kExitDone : kExitFailed;
  }

 private:
  void Note(const std::string& text) const {
    if (!session_.quiet) std::fprintf(stderr, "%s\n", text.c_str());
  }

  // Handles what the keeper says for at most `timeout_ms`; false once the cluster is to end.
  bool WaitReport(int timeout_ms) {
    std::array<pollfd, 2> waits = {pollfd{reports_, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
    if (poll(waits.data(), waits.size(), timeout_ms) <= 0) return true;
    if (waits[1].revents != 0) {
      interrupted_ = true;
      return false;
    }
    std::array<char, 4096> part;
    const ssize_t n = read(reports_, part.data(), part.size());
    if (n <= 0) {
      gone_ = true;
      return false;
    }
    pending_.append(part.data(), static_cast<std::size_t>(n));
    for (std::size_t end; (end = pending_.find('\n')) != std::string::npos; pending_.erase(0, end + 1)) {
      const char kind = pending_[0];
      const std::string text = pending_.substr(1, end - 1);
      if (kind == kReportStarted) server_ = text;
      if (kind == kReportFailed) failure_ = text;
      if (kind == kReportExit) exits_ += (exits_.empty() ? "" : "; ") + text;
      if (kind == kReportProgress || kind == kReportExit) Note("  " + text);
    }
    return failure_.empty();
  }

  Status UntilReady() {
    const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(session_.timeout_s);
    std::string seen;
    bool context_written = false;
    while (std::chrono::steady_clock::now() < end) {
      if (!WaitReport(kReadyPollMs)) {
        return Internal(interrupted_       ? "interrupted"
                        : failure_.empty() ? "the cluster's keeper ended"
                                           : failure_);
      }
      if (server_.empty()) continue;
      if (!exits_.empty()) return Internal("the cluster did not start: " + exits_);
      if (!context_written) {
        GODWIT_TRY(WriteContext(server_, token_, options_.state));
        context_written = true;
      }
      const std::string ready = ReadyDevices();
      if (ready != seen) Note("  ready: " + ready);
      seen = ready;
      if (ready_ == devices_) return {};
    }
    return DeadlineExceeded(fmt::format("{} of {} devices were ready after {:g} s (--timeout)", ready_,
                                        devices_, session_.timeout_s));
  }

  // The names of the devices that `godwit get devices` shows as ready; counts them in ready_.
  std::string ReadyDevices() {
    const auto shown = RunProcess({OwnPath(), "get", "devices", "-o", "json"}, Complaints::kDrop);
    if (!shown.ok() || shown->code != 0) return {};
    const json list = json::parse(shown->output, nullptr, false);
    std::string names;
    ready_ = 0;
    if (!list.is_object() || !list.contains("items")) return {};
    for (const json& device : list["items"]) {
      if (device.value("state", "") != "ready") continue;
      names += (names.empty() ? "" : " ") + device.value("name", "?");
      ++ready_;
    }
    return names;
  }

  Status DeployDemo() {
    const fs::path services = (OwnFolder() / "../../services").lexically_normal();
    for (const char* name : kDemoServices) {
      const fs::path manifest = services / (std::string(name) + ".toml");
      if (!fs::exists(manifest))
        return NotFound(manifest.string() +
                        " is missing: --demo needs the source tree, built by './dev demo'");
      Note(fmt::format("  deploying {}", name));
      GODWIT_TRY(RunOrFail({OwnPath(), "apply", "-f", manifest.string()}));
    }
    return {};
  }

  void Announce() const {
    const auto devices =
        RunProcess({OwnPath(), "get", "devices", "-o", session_.output}, Complaints::kPassOn);
    if (devices.ok() && !session_.quiet) std::fputs(devices->output.c_str(), stdout);
    std::fflush(stdout);
    Note(
        fmt::format("\nThe cluster is ready: {}\n"
                    "  godwit deploy hello.wasm --name hello --route /hello\n"
                    "  godwit invoke hello\n"
                    "  godwit migrate hello --to csd1\n"
                    "{}",
                    server_, options_.detach ? "End it with: godwit down" : "End it with Ctrl-C."));
  }

  // Cuts the lifeline and waits until the keeper has removed everything.
  void End() {
    close(lifeline_);
    std::array<char, 4096> part;
    while (!gone_) {
      const ssize_t n = read(reports_, part.data(), part.size());
      if (n == 0 || (n < 0 && errno != EINTR)) break;
    }
  }

  Session& session_;
  const UpOptions& options_;
  std::string token_;
  std::size_t devices_;
  int lifeline_;
  int reports_;
  int signals_ = -1;
  std::string pending_, server_, failure_, exits_;
  std::size_t ready_ = 0;
  bool interrupted_ = false;
  bool gone_ = false;
};

Result<int> Up(Session& session, UpOptions options) {
  std::error_code error;
  options.state = fs::absolute(options.state.empty() ? DefaultStateFolder() : options.state, error).string();
  KeeperOptions keeper;
  GODWIT_ASSIGN(keeper.plan, ReadPlan(options.file));
  GODWIT_TRY(FindPrograms(options, keeper));
  GODWIT_ASSIGN(const std::string token, PrepareState(options.state));
  keeper.state_folder = options.state;
  keeper.token_file = options.state + "/token";
  std::array<int, 2> lifeline, reports;
  if (pipe2(lifeline.data(), O_CLOEXEC) != 0 || pipe2(reports.data(), O_CLOEXEC) != 0)
    return ErrnoError("pipe");
  const pid_t pid = fork();
  if (pid < 0) return ErrnoError("fork");
  if (pid == 0) {
    setsid();  // Ctrl-C is for the foreground; the keeper sees its lifeline cut.
    close(lifeline[1]);
    close(reports[0]);
    // Not the caller's terminal or pipes: whoever reads them must see their end when `up --detach` returns.
    const int null = open("/dev/null", O_RDWR);
    for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(null, fd);
    if (null > STDERR_FILENO) close(null);
    keeper.lifeline = lifeline[0];
    keeper.reports = reports[1];
    KeepCluster(keeper);
    _exit(0);
  }
  close(lifeline[0]);
  close(reports[1]);
  return Foreground(session, options, token, keeper.plan.devices.size(), lifeline[1], reports[0]).Run();
}

}  // namespace

void AddUpCommand(CLI::App& app, Session& session) {
  auto* command =
      app.add_subcommand("up", "Start a whole cluster on this machine: a controller and four devices");
  auto options = std::make_shared<UpOptions>();
  command
      ->add_option("-f,--file", options->file,
                   "Devices to start (TOML); default: host0, csd0, csd1 (AArch64), cpm0")
      ->check(CLI::ExistingFile);
  command->add_flag("--demo", options->demo, "Also deploy the sample services");
  command->add_flag("--detach", options->detach, "Return when it is ready; 'godwit down' ends it");
  command->add_option("--state", options->state, "Folder for its data and logs");
  command->add_option("--aarch64-godwitd", options->daemon_aarch64,
                      "The AArch64 godwitd, if not ../../build-aarch64/bin/godwitd");
  command->footer(
      "Examples:\n"
      "  godwit up                 stay in the foreground; Ctrl-C ends the cluster\n"
      "  godwit up --detach        return when the devices are ready\n"
      "  godwit up -f cluster.toml the devices that it lists (docs/formats/cluster.md)");
  command->callback(
      [&session, options] { session.action = [&session, options] { return Up(session, *options); }; });
}

}  // namespace godwit::cli
