#include "bench_cluster.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "cluster_record.h"
#include "subprocess.h"

extern char** environ;

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr double kReadySeconds = 60;

std::string Beside(const char* program) { return (fs::path(OwnPath()).parent_path() / program).string(); }

// A port of the loopback interface that nobody used a moment ago.
Result<int> FreePort() {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), size) == 0 &&
                     getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (fd >= 0) close(fd);
  if (!bound) return ErrnoError("looking for a free port");
  return ntohs(address.sin_port);
}

// Daemons of this process's own, on the loopback interface.
class LoopbackCluster final : public BenchCluster {
 public:
  Status Begin(const fs::path& folder, const Plan& plan) {
    folder_ = folder;
    if (plan.there_aarch64) emulated_ = {"AArch64 by qemu-user"};
    GODWIT_ASSIGN(const int port, FreePort());
    const std::string url = fmt::format("http://127.0.0.1:{}", port);
    const std::vector<std::string> native = {Beside("godwitd")}, aarch64 = {"qemu-aarch64-static", Beside("../../build-aarch64/bin/godwitd")};
    if (plan.there_aarch64 && !fs::exists(aarch64.back())) return FailedPrecondition(aarch64.back() + " is missing; run './dev build-aarch64'");
    GODWIT_TRY(Spawn("controller", native, {"controller", "--listen", fmt::format("127.0.0.1:{}", port)}));
    for (const std::string name : {"here", "there"}) {
      GODWIT_TRY(Spawn(name, plan.there_aarch64 && name == "there" ? aarch64 : native,
                       {"agent", "--name", name, "--join", url, "--memory", std::to_string(plan.memory.value)}));
    }
    return Connect(url);
  }
  ~LoopbackCluster() override {
    for (auto pid = pids_.rbegin(); pid != pids_.rend(); ++pid) {
      kill(*pid, SIGTERM);
      waitpid(*pid, nullptr, 0);
    }
  }

 private:
  Status Spawn(const std::string& name, const std::vector<std::string>& program, std::vector<std::string> words) {
    words.insert(words.begin(), program.begin(), program.end());
    words.insert(words.end(), {"--data", (folder_ / name).string(), "--die-with-parent"});
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, (folder_ / (name + ".log")).c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    pid_t pid = 0;
    const int failed = posix_spawnp(&pid, pointers[0], &actions, nullptr, pointers.data(), environ);
    posix_spawn_file_actions_destroy(&actions);
    if (failed != 0) return NotFound("cannot start " + words[0]);
    pids_.push_back(pid);
    return {};
  }

  fs::path folder_;
  std::vector<pid_t> pids_;
};

// A cluster of `godwit up`.
class LinkedCluster final : public BenchCluster {
 public:
  Status Begin(const fs::path& folder, const Plan& plan) {
    folder_ = folder;
    std::ofstream(folder / "cluster.toml") << fmt::format(
        "[[device]]\nname = \"here\"\nmemory = \"{0}\"\ncores = 64\ndata_cache = \"{3}\"\n[[device]]\nname = \"there\"\nmemory = \"{0}\"\ncores = {2}\nlink_mbps = {1}\nisa = \"{4}\"\n",
        plan.memory.value, plan.mbps, plan.there_cores, plan.data_cache.value, plan.there_aarch64 ? "aarch64" : "native");
    emulated_ = {fmt::format("link of {} Mbit/s between network namespaces, by tc tbf", plan.mbps)};
    if (plan.there_aarch64) emulated_.push_back("AArch64 by qemu-user");
    cpu_set_t all, others;
    if (sched_getaffinity(0, sizeof all, &all) != 0) return ErrnoError("asking for this process's processors");
    const bool apart = plan.there_apart && plan.there_cores <= 1 && CPU_COUNT(&all) >= 2;
    int last = CPU_SETSIZE - 1;
    while (!CPU_ISSET(last, &all)) --last;
    others = all;
    CPU_CLR(last, &others);
    if (apart && sched_setaffinity(0, sizeof others, &others) != 0) return ErrnoError("leaving a processor alone");
    GODWIT_TRY(Run({"up", "-f", (folder / "cluster.toml").string(), "--detach", "-q"}));
    up_ = true;
    GODWIT_TRY(Connect((folder / "config/godwit/context.json").string()));
    if (apart) GODWIT_TRY(MoveThereTo(last));
    return {};
  }
  ~LinkedCluster() override {
    if (up_) (void)Run({"down", "-q"}).ok();
  }

 private:
  // All threads of the agent "there" to one processor; those that it makes later follow.
  Status MoveThereTo(int processor) {
    GODWIT_ASSIGN(const ClusterRecord record, LoadRecord((folder_ / "state/godwit/cluster").string()));
    const auto there = std::find_if(record.daemons.begin(), record.daemons.end(), [](const ProcessRecord& daemon) { return daemon.name == "there"; });
    if (there == record.daemons.end()) return NotFound("the agent 'there' is not in the cluster's record");
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    for (const auto& thread : fs::directory_iterator(fmt::format("/proc/{}/task", there->pid))) {
      if (sched_setaffinity(std::stoi(thread.path().filename().string()), sizeof one, &one) != 0) return ErrnoError("moving 'there' to a processor of its own");
    }
    emulated_.push_back("device on a processor of its own, everything else on the others");
    return {};
  }
  Status Run(std::vector<std::string> words) const {
    const std::vector<std::string> start = {"env", "XDG_CONFIG_HOME=" + (folder_ / "config").string(), "XDG_STATE_HOME=" + (folder_ / "state").string(), OwnPath()};
    words.insert(words.begin(), start.begin(), start.end());
    return RunOrFail(words);
  }

  fs::path folder_;
  bool up_ = false;
};

}  // namespace

Status BuildServices(const fs::path& source, const fs::path& to) { return RunOrFail({(source / "../services/build.sh").string(), to.string()}); }

Result<std::unique_ptr<BenchCluster>> BenchCluster::Start(const fs::path& folder, const Plan& plan) {
  if (plan.mbps == 0) {
    auto cluster = std::make_unique<LoopbackCluster>();
    GODWIT_TRY(cluster->Begin(folder, plan));
    return std::unique_ptr<BenchCluster>(std::move(cluster));
  }
  auto cluster = std::make_unique<LinkedCluster>();
  GODWIT_TRY(cluster->Begin(folder, plan));
  return std::unique_ptr<BenchCluster>(std::move(cluster));
}

Status BenchCluster::ApplyReader(const std::string& service, const fs::path& wasm, const fs::path& folder, const std::string& device) const {
  const fs::path manifest = folder / (service + ".toml");
  std::ofstream(manifest) << fmt::format(
      "[service]\nname = \"{0}\"\nkind = \"reactor\"\nstate = \"stateful\"\nsource = \"{1}\"\n[[trigger.http]]\nroute = \"/{0}\"\n"
      "[limits]\nmemory = \"16Mi\"\nrequest_timeout_ms = 300000\n[data]\ntable = \"read\"\n[placement]\nprefer = {{ device = \"{2}\" }}\n",
      service, (wasm / (service + ".wasm")).string(), device);
  return Godwit({"apply", "-q", "-o", "name", "-f", manifest.string()});
}

Status BenchCluster::Connect(const std::string& context) {
  session_.context = context;
  GODWIT_ASSIGN(client_, ClusterClient::Connect(session_));
  const auto ready = [&]() -> Result<bool> {
    const auto devices = client_->Get("/v1/devices");
    if (!devices.ok()) {
      if (devices.error().code == ErrorCode::kUnavailable) return false;
      return devices.error();
    }
    std::size_t count = 0;
    for (const json& device : (*devices)["items"]) {
      count += device.value("state", "") == "ready";
      if (device.value("name", "") == "here") gateway_ = device.value("url", "");
    }
    return count == 2 && !gateway_.empty();
  };
  GODWIT_ASSIGN(const bool both, WaitUntil(kReadySeconds, ready));
  if (!both) return Unavailable("the benchmark's devices did not get ready");
  return {};
}

Status BenchCluster::Godwit(std::vector<std::string> words) const {
  const std::vector<std::string> start = {OwnPath(), "--context", session_.context};
  words.insert(words.begin(), start.begin(), start.end());
  return RunOrFail(words);
}

}  // namespace godwit::cli
