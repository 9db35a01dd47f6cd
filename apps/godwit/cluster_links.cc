#include "cluster_links.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <set>

#include "base/descriptor.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

constexpr const char* kForwardingFile = "/proc/sys/net/ipv4/ip_forward";
// There while forwarding is on only because of us.
constexpr const char* kForwardingMarker = "/run/godwit-forwarding";
constexpr int kNetworksMax = 200;
// A bucket must hold what comes between two ticks of the slowest usual kernel clock (250 Hz), and one 64 KiB
// packet.
constexpr std::uint64_t kTicksPerSecond = 250;
constexpr std::uint64_t kBurstMin = 128 * 1024;

}  // namespace

std::optional<std::string> WhyNoNamespaces() {
  if (geteuid() != 0) return "not root";
  for (const char* tool : {"ip", "tc"}) {
    if (!RunProcess({tool, "-V"}, Complaints::kCollect).ok())
      return std::string(tool) + " is not installed (Debian: iproute2)";
  }
  const pid_t pid = fork();
  if (pid == 0) {
    const bool works =
        unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 &&
        RunOrFail({"ip", "link", "add", "probe0", "type", "veth", "peer", "name", "probe1"}).ok();
    _exit(works ? 0 : 1);
  }
  int status = 1;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
    return "the kernel refuses network namespaces or veth here";
  return std::nullopt;
}

Result<int> PickNetwork() {
  std::set<int> taken;
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return ErrnoError("getifaddrs");
  for (const ifaddrs* entry = list; entry != nullptr; entry = entry->ifa_next) {
    if (entry->ifa_addr == nullptr || entry->ifa_addr->sa_family != AF_INET) continue;
    const std::uint32_t address =
        ntohl(reinterpret_cast<const sockaddr_in*>(entry->ifa_addr)->sin_addr.s_addr);
    if ((address >> 16) == ((10u << 8) | 231u)) taken.insert(static_cast<int>((address >> 8) & 0xff));
  }
  freeifaddrs(list);
  for (int network = 0; network < kNetworksMax; ++network) {
    if (taken.contains(network)) continue;
    // Loopback addresses belong to nobody until someone listens: try to be that one.
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(7070);
    inet_pton(AF_INET, fmt::format("127.231.{}.1", network).c_str(), &address.sin_addr);
    const bool free = fd >= 0 && bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    if (fd >= 0) close(fd);
    if (free) return network;
  }
  return ResourceExhausted(
      "all networks 10.231.0.0/24 to 10.231.199.0/24 are in use; end other clusters with 'godwit down "
      "--state'");
}

LinkPlan PlanLink(int network, int index, std::uint64_t mbps) {
  return {fmt::format("gw{}h{}", network, index), fmt::format("gw{}d{}", network, index),
          fmt::format("10.231.{}.{}", network, 4 * index + 1),
          fmt::format("10.231.{}.{}", network, 4 * index + 2), mbps};
}

Status CreateLink(const LinkPlan& link, pid_t process) {
  GODWIT_TRY(RunOrFail({"ip", "link", "add", link.interface, "type", "veth", "peer", "name", link.peer}));
  const std::vector<std::vector<std::string>> steps = {
      {"ip", "link", "set", link.peer, "netns", std::to_string(process)},
      {"ip", "addr", "add", link.host_address + "/30", "dev", link.interface},
      {"ip", "link", "set", link.interface, "up"},
  };
  for (const auto& step : steps) {
    if (Status status = RunOrFail(step); !status.ok()) {
      RemoveLink(link.interface);
      return status;
    }
  }
  return {};
}

Status ConfigureInside(const LinkPlan& link) {
  GODWIT_TRY(RunOrFail({"ip", "link", "set", "lo", "up"}));
  GODWIT_TRY(RunOrFail({"ip", "addr", "add", link.device_address + "/30", "dev", link.peer}));
  GODWIT_TRY(RunOrFail({"ip", "link", "set", link.peer, "up"}));
  return RunOrFail({"ip", "route", "add", "default", "via", link.host_address});
}

Status Shape(const std::string& interface, std::uint64_t mbps) {
  const std::uint64_t burst = std::max(kBurstMin, mbps * 1'000'000 / 8 / kTicksPerSecond * 2);
  if (Status status =
          RunOrFail({"tc", "qdisc", "add", "dev", interface, "root", "tbf", "rate",
                     fmt::format("{}mbit", mbps), "burst", std::to_string(burst), "latency", "50ms"});
      !status.ok()) {
    return Unsupported(status.error().message);
  }
  return {};
}

void RemoveLink(const std::string& interface) {
  if (if_nametoindex(interface.c_str()) != 0) (void)RunOrFail({"ip", "link", "del", interface});
}

void HoldForwarding() {
  std::ifstream in(kForwardingFile);
  if (in.get() == '1') return;
  std::ofstream(kForwardingMarker).flush();
  std::ofstream(kForwardingFile) << "1";
}

void ReleaseForwarding() {
  if (access(kForwardingMarker, F_OK) != 0) return;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/sys/class/net", error)) {
    int network = 0, index = 0;
    if (std::sscanf(entry.path().filename().c_str(), "gw%dh%d", &network, &index) == 2) return;
  }
  std::ofstream(kForwardingFile) << "0";
  unlink(kForwardingMarker);
}

Status HideOtherDevices(const std::string& state_folder, const std::string& own_folder,
                        const std::string& token_file) {
  if (unshare(CLONE_NEWNS) != 0) return ErrnoError("unshare(CLONE_NEWNS)");
  if (mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return ErrnoError("mount / private");
  // What stays is reached through descriptors once the empty file system covers the folder.
  struct Kept {
    std::string path;
    bool folder;
    int fd;
  };
  std::array<Kept, 2> kept = {Kept{own_folder, true, -1}, Kept{token_file, false, -1}};
  for (Kept& one : kept) {
    one.fd = open(one.path.c_str(), O_PATH | O_CLOEXEC);
    if (one.fd < 0) return ErrnoError("cannot open " + one.path);
  }
  if (mount("none", state_folder.c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=700") != 0) {
    return ErrnoError("cannot cover " + state_folder);
  }
  for (const Kept& one : kept) {
    if (one.folder ? mkdir(one.path.c_str(), 0700) != 0 : mknod(one.path.c_str(), S_IFREG | 0600, 0) != 0) {
      return ErrnoError("cannot create " + one.path);
    }
    if (mount(fmt::format("/proc/self/fd/{}", one.fd).c_str(), one.path.c_str(), nullptr, MS_BIND, nullptr) !=
        0) {
      return ErrnoError("cannot bind " + one.path);
    }
    close(one.fd);
  }
  const Descriptor groups(open("/sys/fs/cgroup", O_PATH | O_CLOEXEC));
  if (groups.get() >= 0 && mount("none", "/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, nullptr) == 0 &&
      mount(fmt::format("/proc/self/fd/{}", groups.get()).c_str(), "/sys/fs/cgroup", nullptr, MS_BIND | MS_REC, nullptr) != 0) {
    return ErrnoError("cannot bind /sys/fs/cgroup");
  }
  return {};
}

}  // namespace godwit::cli
