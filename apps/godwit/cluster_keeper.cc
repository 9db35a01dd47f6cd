#include "cluster_keeper.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <optional>

#include "cluster_links.h"
#include "cluster_record.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kControllerPort = 7070;
constexpr int kHttpPort = 8080;
constexpr int kChannelPort = 8081;
constexpr std::chrono::seconds kControllerStart{15};
constexpr int kQuotaPeriodUs = 100'000;

// A folder of the processor controller that limits whoever is in it; nothing where this machine has none to
// write to.
std::optional<std::string> CreateQuota(const std::string& name, double cores) {
  const auto put = [](const std::string& path, const std::string& text) {
    std::ofstream out(path);
    out << text;
    out.flush();
    return out.good();
  };
  const long quota = std::lround(cores * kQuotaPeriodUs);
  const std::string v1 = "/sys/fs/cgroup/cpu/" + name;
  if (access("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", F_OK) == 0 ||
      access("/sys/fs/cgroup/cpu/tasks", F_OK) == 0) {
    if (mkdir(v1.c_str(), 0755) == 0) {
      if (put(v1 + "/cpu.cfs_period_us", std::to_string(kQuotaPeriodUs)) &&
          put(v1 + "/cpu.cfs_quota_us", std::to_string(quota)))
        return v1;
      rmdir(v1.c_str());
    }
    return std::nullopt;
  }
  const std::string v2 = "/sys/fs/cgroup/" + name;
  if (access("/sys/fs/cgroup/cgroup.controllers", F_OK) == 0 && mkdir(v2.c_str(), 0755) == 0) {
    put("/sys/fs/cgroup/cgroup.subtree_control", "+cpu");
    if (put(v2 + "/cpu.max", fmt::format("{} {}", quota, kQuotaPeriodUs))) return v2;
    rmdir(v2.c_str());
  }
  return std::nullopt;
}

std::string FormatCores(double cores) { return fmt::format("{:g} {}", cores, cores == 1 ? "core" : "cores"); }

class Keeper {
 public:
  explicit Keeper(const KeeperOptions& options) : options_(options) {}

  void Run() {
    sigset_t signals;
    sigemptyset(&signals);
    for (int signal : {SIGTERM, SIGINT, SIGHUP, SIGCHLD}) sigaddset(&signals, signal);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signals_ = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    record_.keeper = {"keeper", getpid(), StartTicks(getpid()).value_or(0)};
    if (Status status = Start(); !status.ok()) {
      Report(kReportFailed, status.error().message);
    } else {
      Report(kReportStarted, record_.server);
      Watch();
    }
    Erase(options_.state_folder, record_);
    Reap();
  }

 private:
  void Report(char kind, const std::string& text) const {
    const std::string line = kind + text + "\n";
    (void)!write(options_.reports, line.data(), line.size());
  }

  Status Start() {
    GODWIT_ASSIGN(network_, PickNetwork());
    const auto why_not = WhyNoNamespaces();
    isolated_ = !why_not;
    if (why_not) Report(kReportProgress, "devices share this machine's network, unshaped: " + *why_not);
    GODWIT_TRY(Plan());
    GODWIT_TRY(SaveRecord(options_.state_folder, record_));
    // Links first: the controller listens on an address of one of them.
    for (Device& device : devices_) GODWIT_TRY(Launch(device));
    return StartAll();
  }

  struct Device {
    PlannedDevice plan;
    std::optional<LinkPlan> link;  // Where it has a namespace of its own.
    std::string address;
    std::string data;
    std::vector<std::string> emulated;
    std::optional<std::string> cgroup;
    bool shaped = false;  // The kernel slows its link; otherwise its own process does.
    pid_t pid = 0;
    int go = -1;  // Closing it lets the process begin.
  };

  Status Plan() {
    int index = 0;
    for (const PlannedDevice& plan : options_.plan.devices) {
      Device device{.plan = plan};
      device.data = options_.state_folder + "/" + plan.name;
      std::error_code error;
      fs::create_directories(device.data, error);
      if (error) return Internal(fmt::format("cannot create {}: {}", device.data, error.message()));
      if (isolated_ && plan.link_mbps != 0) {
        device.link = PlanLink(network_, index, plan.link_mbps);
        device.address = device.link->device_address;
        record_.links.push_back({plan.name, device.link->interface});
        if (host_address_.empty()) host_address_ = device.link->host_address;
      } else {
        device.address = fmt::format("127.231.{}.{}", network_, index + 2);
      }
      devices_.push_back(std::move(device));
      ++index;
    }
    if (host_address_.empty()) host_address_ = fmt::format("127.231.{}.1", network_);
    for (Device& device : devices_) {
      if (device.plan.link_mbps == 0) device.address = host_address_;
    }
    record_.server = fmt::format("http://{}:{}", host_address_, kControllerPort);
    record_.token_file = options_.token_file;
    if (isolated_) HoldForwarding();
    return {};
  }

  // Creates the device's process, which waits inside its namespace, and everything around it.
  Status Launch(Device& device) {
    const PlannedDevice& plan = device.plan;
    Report(kReportProgress, "preparing " + plan.name);
    const bool is_host = plan.link_mbps == 0;
    if (!is_host)
      device.emulated.push_back(
          fmt::format("a process on this machine in place of a {} device", plan.device_class));
    if (plan.aarch64 && !options_.qemu.empty()) device.emulated.push_back("AArch64 by qemu-user");
    if (plan.cores < static_cast<double>(sysconf(_SC_NPROCESSORS_ONLN))) {
      device.cgroup = CreateQuota(fmt::format("godwit-{}-{}", getpid(), plan.name), plan.cores);
      device.emulated.push_back(device.cgroup ? FormatCores(plan.cores) + " by a cgroup quota"
                                              : FormatCores(plan.cores) +
                                                    " claimed, not enforced (no cgroup to write to)");
      if (device.cgroup) record_.cgroups.push_back(*device.cgroup);
    }
    GODWIT_TRY(SaveRecord(options_.state_folder, record_));

    std::array<int, 2> ready, go;
    if (pipe2(ready.data(), O_CLOEXEC) != 0 || pipe2(go.data(), O_CLOEXEC) != 0) return ErrnoError("pipe");
    const pid_t pid = fork();
    if (pid < 0) return ErrnoError("fork");
    if (pid == 0) {
      close(ready[0]);
      close(go[1]);
      RunDevice(device, ready[1], go[0]);
    }
    close(ready[1]);
    close(go[0]);
    device.pid = pid;
    device.go = go[1];
    GODWIT_TRY(Remember(plan.name, pid));
    char byte = 0;
    const bool in_namespace = read(ready[0], &byte, 1) == 1;
    close(ready[0]);
    if (!in_namespace)
      return Internal(fmt::format("{} did not get its namespace: {}", plan.name, LastLogLines(plan.name)));
    if (device.cgroup) {
      std::ofstream out(*device.cgroup + "/cgroup.procs");
      out << pid;
    }
    if (device.link) {
      GODWIT_TRY(CreateLink(*device.link, pid));
      device.shaped = Shape(device.link->interface, plan.link_mbps).ok();
    }
    if (!is_host) {
      device.emulated.push_back(
          device.shaped
              ? fmt::format("link of {} Mbit/s by tc tbf", plan.link_mbps)
              : fmt::format("link of {} Mbit/s, of what it sends, by its own process", plan.link_mbps));
    }
    return {};
  }

  Status StartAll() {
    Report(kReportProgress, "starting the controller on " + record_.server);
    const pid_t pid = fork();
    if (pid < 0) return ErrnoError("fork");
    if (pid == 0) {
      Become("controller");
      Execute({options_.daemon, "controller", "--listen",
               fmt::format("{}:{}", host_address_, kControllerPort), "--data",
               options_.state_folder + "/controller", "--metadata", "sqlite:", "--token-file",
               options_.token_file});
    }
    GODWIT_TRY(Remember("controller", pid));
    GODWIT_TRY(WaitListening(pid));
    for (Device& device : devices_) {
      Report(kReportProgress, fmt::format("starting {} on {}", device.plan.name, device.address));
      // The labels are known only now: the process reads them, one a line, until the end.
      std::string labels;
      for (const auto& label : device.emulated) labels += label + "\n";
      (void)!write(device.go, labels.data(), labels.size());
      close(device.go);
      device.go = -1;
    }
    return {};
  }

  // Until the controller accepts connections.
  Status WaitListening(pid_t controller) const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(kControllerPort);
    inet_pton(AF_INET, host_address_.c_str(), &address.sin_addr);
    const auto end = std::chrono::steady_clock::now() + kControllerStart;
    while (std::chrono::steady_clock::now() < end && StartTicks(controller)) {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      const bool connected =
          fd >= 0 && connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
      if (fd >= 0) close(fd);
      if (connected) return {};
      poll(nullptr, 0, 20);
    }
    return Unavailable("the controller did not start: " + LastLogLines("controller"));
  }

  // In the device's process: enters its namespaces, waits for the word to go, becomes godwitd.
  [[noreturn]] void RunDevice(Device& device, int ready, int go) {
    Become(device.plan.name);
    if (device.link && unshare(CLONE_NEWNET) != 0) Die("unshare(CLONE_NEWNET)");
    (void)!write(ready, "r", 1);
    close(ready);
    std::string labels;
    std::array<char, 256> part;
    for (ssize_t n; (n = read(go, part.data(), part.size())) > 0;)
      labels.append(part.data(), static_cast<std::size_t>(n));
    bool shaped = false;
    if (device.link) {
      if (Status status = ConfigureInside(*device.link); !status.ok()) Die(status.error().message);
      shaped = Shape(device.link->peer, device.link->mbps).ok();
      if (Status status = HideOtherDevices(options_.state_folder, device.data, options_.token_file);
          !status.ok()) {
        Die(status.error().message);
      }
    }
    const PlannedDevice& plan = device.plan;
    if (!device.link && !plan.trust_domain.empty()) {  // It has an interface for each device, where a machine has one for all.
      std::string interfaces;
      for (const Device& other : devices_) {
        if (other.link) interfaces += (interfaces.empty() ? "" : ",") + other.link->interface;
      }
      if (!interfaces.empty()) setenv("UCX_NET_DEVICES", interfaces.c_str(), 0);
    }
    std::vector<std::string> command;
    if (plan.aarch64) {
      if (!options_.qemu.empty()) command.push_back(options_.qemu);
      command.push_back(options_.daemon_aarch64);
    } else {
      command.push_back(options_.daemon);
    }
    for (const std::string& word : {std::string("agent"),
                                    std::string("--name"),
                                    plan.name,
                                    std::string("--class"),
                                    plan.device_class,
                                    std::string("--join"),
                                    record_.server,
                                    std::string("--listen-http"),
                                    fmt::format("{}:{}", device.address, kHttpPort),
                                    std::string("--listen-channel"),
                                    fmt::format("{}:{}", device.address, kChannelPort),
                                    std::string("--advertise"),
                                    device.address,
                                    std::string("--data"),
                                    device.data,
                                    std::string("--token-file"),
                                    options_.token_file,
                                    std::string("--cores"),
                                    std::to_string(std::max(1L, std::lround(std::ceil(plan.cores)))),
                                    std::string("--memory"),
                                    std::to_string(plan.memory.value),
                                    std::string("--data-cache"),
                                    std::to_string(plan.data_cache.value),
                                    fmt::format("--speed={}", plan.speed),
                                    fmt::format("--core-watts={}", plan.core_watts),
                                    fmt::format("--power-cap-watts={}", plan.power_cap_watts),
                                    fmt::format("--foreground-p99-us={:.0f}", plan.foreground_p99_us)}) {
      command.push_back(word);
    }
    if (!plan.trust_domain.empty()) command.push_back("--trust-domain=" + plan.trust_domain);
    if (plan.link_mbps != 0 && !shaped) {
      command.push_back("--link-bytes-per-second");
      command.push_back(std::to_string(plan.link_mbps * 1'000'000 / 8));
    }
    for (std::size_t begin = 0, end; (end = labels.find('\n', begin)) != std::string::npos; begin = end + 1) {
      command.push_back("--emulated");
      command.push_back(labels.substr(begin, end - begin));
    }
    Execute(command);
  }

  // In a new child: ends with the keeper, writes to its log, holds none of the keeper's files and signals.
  void Become(const std::string& name) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != record_.keeper.pid) _exit(1);
    prctl(PR_SET_NAME, name.c_str());
    const int null = open("/dev/null", O_RDONLY);
    const int log = open(LogFile(name).c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    dup2(null, STDIN_FILENO);
    dup2(log, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    close(null);
    close(log);
    close(options_.lifeline);
    close(options_.reports);
    for (const Device& device : devices_) {
      if (device.go >= 0) close(device.go);  // Else its process would wait for us, too.
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
  }

  [[noreturn]] static void Die(const std::string& what) {
    dprintf(STDERR_FILENO, "godwit up: %s\n", what.c_str());
    _exit(127);
  }

  [[noreturn]] static void Execute(const std::vector<std::string>& command) {
    std::vector<char*> arguments;
    for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(arguments[0], arguments.data());
    Die(fmt::format("cannot execute {}: {}", command[0], ErrnoError("execv").message));
  }

  Status Remember(const std::string& name, pid_t pid) {
    record_.daemons.push_back({name, pid, StartTicks(pid).value_or(0)});
    return SaveRecord(options_.state_folder, record_);
  }

  std::string LogFile(const std::string& name) const { return options_.state_folder + "/" + name + ".log"; }

  std::string LastLogLines(const std::string& name) const {
    std::ifstream in(LogFile(name));
    std::string line, last;
    while (std::getline(in, line)) {
      if (!line.empty()) last = line;
    }
    return last.empty() ? "it said nothing" : last;
  }

  // Until the lifeline is cut or someone asks us to end.
  void Watch() {
    std::array<pollfd, 2> waits = {pollfd{options_.lifeline, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
    while (true) {
      if (poll(waits.data(), waits.size(), -1) < 0 && errno != EINTR) return;
      if (waits[1].revents != 0) {
        signalfd_siginfo info;
        while (read(signals_, &info, sizeof info) == sizeof info) {
          if (info.ssi_signo != SIGCHLD) return;
        }
        Reap();
      }
      if (waits[0].revents != 0) {
        char byte = 0;
        if (read(options_.lifeline, &byte, 1) != 1 || byte != kFarewell) return;
        waits[0].fd = -1;
      }
    }
  }

  void Reap() {
    int status = 0;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
      for (const ProcessRecord& daemon : record_.daemons) {
        if (daemon.pid != pid) continue;
        const std::string how = WIFEXITED(status) ? fmt::format("exit code {}", WEXITSTATUS(status))
                                                  : fmt::format("signal {}", WTERMSIG(status));
        Report(kReportExit, fmt::format("{} ended with {}: {}", daemon.name, how, LastLogLines(daemon.name)));
      }
    }
  }

  const KeeperOptions& options_;
  ClusterRecord record_;
  std::vector<Device> devices_;
  std::string host_address_;
  int network_ = 0;
  bool isolated_ = false;
  int signals_ = -1;
};

}  // namespace

void KeepCluster(const KeeperOptions& options) { Keeper(options).Run(); }

}  // namespace godwit::cli
