#include "doctor_probes.h"

#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "compiler_process.h"
#include "sandbox/sandbox.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kWriteProtectAsync = 1 << 15;  // UFFD_FEATURE_WP_ASYNC, Linux 6.7

std::string ErrnoText() { return std::strerror(errno); }

int OpenUserfaultfd() {
  constexpr int kUserModeOnly = 1;
  int fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | kUserModeOnly));
  if (fd < 0 && errno == EINVAL) fd = static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK));
  return fd;
}

Probe ProbeUserfaultfd() {
  Probe probe{"userfaultfd", false, "", "post-copy migration", "stop-and-copy and pre-copy only"};
  const int fd = OpenUserfaultfd();
  if (fd < 0) {
    probe.detail = ErrnoText();
    return probe;
  }
  uffdio_api api{};
  api.api = UFFD_API;
  probe.available = ioctl(fd, UFFDIO_API, &api) == 0;
  probe.detail = probe.available ? "missing faults in user mode" : ErrnoText();
  close(fd);
  return probe;
}

Probe ProbeWriteProtectAsync() {
  Probe probe{"userfaultfd WP_ASYNC", false, "", "finding dirty pages while the guest runs", "mprotect and SIGSEGV"};
  const int fd = OpenUserfaultfd();
  if (fd < 0) {
    probe.detail = "no userfaultfd: " + ErrnoText();
    return probe;
  }
  uffdio_api api{};
  api.api = UFFD_API;
  api.features = kWriteProtectAsync;
  probe.available = ioctl(fd, UFFDIO_API, &api) == 0;
  probe.detail = probe.available ? "accepted" : "not offered: " + ErrnoText();
  close(fd);
  return probe;
}

// As in Linux' include/uapi/linux/fs.h since 6.7; older headers lack it.
struct PagemapScanArgument {
  std::uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
  std::uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
};

Probe ProbePagemapScan() {
  Probe probe{"PAGEMAP_SCAN", false, "", "reading and re-protecting dirty pages in one call", "reading /proc/self/pagemap"};
  const int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  PagemapScanArgument argument{};
  argument.size = sizeof argument;
  argument.start = reinterpret_cast<std::uintptr_t>(memory);
  argument.end = argument.start + page;
  probe.available = fd >= 0 && memory != MAP_FAILED && ioctl(fd, _IOWR('f', 16, PagemapScanArgument), &argument) >= 0;
  probe.detail = probe.available ? "accepted" : ErrnoText();
  if (memory != MAP_FAILED) munmap(memory, page);
  if (fd >= 0) close(fd);
  return probe;
}

Probe ProbeSoftDirty() {
  Probe probe{"soft-dirty bits", false, "", "finding dirty pages without WP_ASYNC", "mprotect and SIGSEGV"};
  const std::size_t page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  auto* memory = static_cast<volatile char*>(
      mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  const int clear = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
  const int pagemap = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
  auto dirty = [&] {
    std::uint64_t entry = 0;
    const auto at = static_cast<off_t>(reinterpret_cast<std::uintptr_t>(memory) / page * 8);
    return pread(pagemap, &entry, 8, at) == 8 && (entry >> 55 & 1) != 0;
  };
  if (memory != MAP_FAILED && clear >= 0 && pagemap >= 0) {
    memory[0] = 1;
    const bool cleared = write(clear, "4", 1) == 1;
    const bool before = dirty();
    memory[0] = 2;
    probe.available = cleared && !before && dirty();
    probe.detail = probe.available ? "seen to change" : "the kernel keeps none";
  } else {
    probe.detail = ErrnoText();
  }
  if (clear >= 0) close(clear);
  if (pagemap >= 0) close(pagemap);
  if (memory != MAP_FAILED) munmap(const_cast<char*>(memory), page);
  return probe;
}

Probe ProbeIoUring() {
  Probe probe{"io_uring", false, "", "device I/O without a system call each", "pread and pwrite on threads"};
  io_uring_params params{};
  const int fd = static_cast<int>(syscall(SYS_io_uring_setup, 4, &params));
  probe.available = fd >= 0;
  probe.detail = fd >= 0 ? "a ring could be made" : ErrnoText();
  if (fd >= 0) close(fd);
  return probe;
}

// Runs `attempt` in a child, so that its effect ends with it; 0 or the errno.
template <typename Attempt>
int InChild(Attempt attempt) {
  const pid_t child = fork();
  if (child == 0) _exit(attempt() ? 0 : (errno & 0xff));
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return EIO;
  return WEXITSTATUS(status);
}

std::string FindInPath(const std::string& program) {
  const char* path = std::getenv("PATH");
  std::stringstream folders(std::string(path ? path : "") + ":/usr/sbin:/sbin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + "/" + program;
    if (!folder.empty() && access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return "";
}

Probe ProbeNetworkNamespaces() {
  Probe probe{"network namespaces", false, "", "one network per device in 'godwit up'", "loopback, links slowed in the process"};
  const int error = InChild([] { return unshare(CLONE_NEWNET) == 0; });
  const std::string ip = FindInPath("ip");
  probe.available = error == 0 && !ip.empty();
  probe.detail = error != 0 ? std::strerror(error) : ip.empty() ? "no program 'ip' (Debian: iproute2)" : "one could be made";
  return probe;
}

Probe ProbeTrafficControl() {
  Probe probe{"tc tbf", false, "", "link speeds in 'godwit up'", "links slowed in the process"};
  const std::string tc = FindInPath("tc");
  if (tc.empty()) {
    probe.detail = "no program 'tc' (Debian: iproute2)";
    return probe;
  }
  const int error = InChild([&] {
    if (unshare(CLONE_NEWNET) != 0) return false;
    const pid_t child = fork();
    if (child == 0) {
      const int null = open("/dev/null", O_RDWR);
      dup2(null, 1);
      dup2(null, 2);
      execl(tc.c_str(), "tc", "qdisc", "add", "dev", "lo", "root", "tbf", "rate", "1mbit", "burst", "32kbit",
            "latency", "400ms", static_cast<char*>(nullptr));
      _exit(127);
    }
    int status = 0;
    waitpid(child, &status, 0);
    errno = EOPNOTSUPP;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
  });
  probe.available = error == 0;
  probe.detail = error == 0 ? "a queue of its own could be set" : std::strerror(error);
  return probe;
}

Probe ProbeCgroup() {
  Probe probe{"cgroup cpu quota", false, "", "cores of emulated devices", "none: devices run at full speed, and say so"};
  for (const char* folder : {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"}) {
    if (access((std::string(folder) + "/cpu.cfs_quota_us").c_str(), F_OK) == 0 ||
        access((std::string(folder) + "/cgroup.procs").c_str(), F_OK) == 0) {
      probe.available = access(folder, W_OK) == 0;
      probe.detail = std::string("version 1, ") + (probe.available ? "writable" : "read-only");
      return probe;
    }
  }
  std::ifstream controllers("/sys/fs/cgroup/cgroup.controllers");
  for (std::string name; controllers >> name;) {
    if (name != "cpu") continue;
    probe.available = access("/sys/fs/cgroup/cgroup.subtree_control", W_OK) == 0;
    probe.detail = std::string("version 2, ") + (probe.available ? "writable" : "read-only");
    return probe;
  }
  probe.detail = "no cpu controller";
  return probe;
}

Probe ProbeRapl() {
  Probe probe{"RAPL", false, "", "measured energy", "the device's power model"};
  std::ifstream energy("/sys/class/powercap/intel-rapl:0/energy_uj");
  std::uint64_t value = 0;
  probe.available = static_cast<bool>(energy >> value);
  probe.detail = probe.available ? "readable" : "no readable /sys/class/powercap/intel-rapl:0/energy_uj";
  return probe;
}

Probe ProbeRdma() {
  Probe probe{"RDMA", false, "", "migration and data over InfiniBand or RoCE", "TCP"};
  std::error_code error;
  for (const auto& entry : fs::directory_iterator("/sys/class/infiniband", error)) {
    probe.available = true;
    probe.detail += (probe.detail.empty() ? "" : " ") + entry.path().filename().string();
  }
  if (!probe.available) probe.detail = "no device in /sys/class/infiniband";
  return probe;
}

Probe ProbeQemu() {
  Probe probe{"qemu-user", false, "", "AArch64 devices on another ISA", "no AArch64 device in 'godwit up'"};
#if defined(__aarch64__)
  probe.available = true;
  probe.detail = "not needed: this machine is AArch64";
#else
  for (const char* program : {"qemu-aarch64-static", "qemu-aarch64"}) {
    if (probe.available) break;
    probe.detail = FindInPath(program);
    probe.available = !probe.detail.empty();
  }
  if (!probe.available) probe.detail = "no qemu-aarch64-static (Debian: qemu-user-static)";
#endif
  return probe;
}

Probe ProbeCompiler() {
  Probe probe{"compiler", false, "", "running and deploying Wasm directly", "packages built elsewhere"};
  const Result<std::string> identity = CompilerFileIdentity();
  probe.available = identity.ok();
  probe.detail = identity.ok() ? "beside this program" : "not beside this program";
  return probe;
}

Probe ProbeSeccomp() {
  Probe probe{"seccomp", sandbox::HasFilters(), "", "keeping processes that run or compile strangers' code from other system calls",
              "no new privileges, and nothing else"};
  probe.detail = probe.available ? "filters" : "no filters (as under emulation)";
  return probe;
}

}  // namespace

std::vector<Probe> ProbeMachine() {
  return {ProbeUserfaultfd(),       ProbeWriteProtectAsync(), ProbePagemapScan(), ProbeSoftDirty(),
          ProbeIoUring(),           ProbeNetworkNamespaces(), ProbeTrafficControl(), ProbeCgroup(),
          ProbeRapl(),              ProbeRdma(),              ProbeQemu(),          ProbeCompiler(),
          ProbeSeccomp()};
}

}  // namespace godwit::cli
