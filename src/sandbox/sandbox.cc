#include "sandbox/sandbox.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <span>

#include "sandbox/system_calls.h"

namespace godwit::sandbox {
namespace {

#if defined(__x86_64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_X86_64;
constexpr std::uint32_t kNumbersEnd = 0x40000000;  // From here on the calls are those of the x32 ABI.
#elif defined(__aarch64__)
constexpr std::uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
constexpr std::uint32_t kNumbersEnd = 0x40000000;
#endif

// Offset of the low half of a call's argument; both ISAs are little-endian.
constexpr std::uint32_t Argument(unsigned index) {
  return static_cast<std::uint32_t>(offsetof(seccomp_data, args)) + index * 8;
}

// A program of the kernel's classic packet filter, which looks at one system call.
class Filter {
 public:
  explicit Filter(Role role) {
    Load(offsetof(seccomp_data, arch));
    Unless(kArchitecture, BPF_JEQ, SECCOMP_RET_KILL_PROCESS);
    Load(offsetof(seccomp_data, nr));
    If(kNumbersEnd, BPF_JGE, SECCOMP_RET_KILL_PROCESS);
    ForbidBits(__NR_mmap, 2, PROT_WRITE | PROT_EXEC);
    ForbidBits(__NR_mprotect, 2, PROT_WRITE | PROT_EXEC);
    // Threads, no processes. Of clone3, whose flags are in memory, glibc falls back to clone.
    If(__NR_clone3, BPF_JEQ, SECCOMP_RET_ERRNO | ENOSYS);
    Skip(__NR_clone, 3);
    Load(Argument(0));
    If(CLONE_THREAD, BPF_JSET, SECCOMP_RET_ALLOW);
    Return(SECCOMP_RET_ERRNO | EPERM);
    for (const std::string_view name : AllowedCalls(role)) If(Number(name), BPF_JEQ, SECCOMP_RET_ALLOW);
    for (const NamedCall& call : kFatalCalls) If(static_cast<std::uint32_t>(call.number), BPF_JEQ, SECCOMP_RET_KILL_PROCESS);
    Return(SECCOMP_RET_ERRNO | EPERM);
  }

  sock_fprog program() { return {static_cast<unsigned short>(code_.size()), code_.data()}; }

 private:
  static std::uint32_t Number(std::string_view name) {
    for (const auto list : {std::span<const NamedCall>(kCommonCalls), std::span<const NamedCall>(kSocketCalls), std::span<const NamedCall>(kDaemonCalls)}) {
      for (const NamedCall& call : list) {
        if (call.name == name) return static_cast<std::uint32_t>(call.number);
      }
    }
    return kNumbersEnd;  // Never reached: names come from these lists.
  }
  void Load(std::size_t offset) { code_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<std::uint32_t>(offset))); }
  void Return(std::uint32_t action) { code_.push_back(BPF_STMT(BPF_RET | BPF_K, action)); }
  void If(std::uint32_t value, unsigned short comparison, std::uint32_t action) {
    code_.push_back(BPF_JUMP(static_cast<unsigned short>(BPF_JMP | comparison | BPF_K), value, 0, 1));
    Return(action);
  }
  void Unless(std::uint32_t value, unsigned short comparison, std::uint32_t action) {
    code_.push_back(BPF_JUMP(static_cast<unsigned short>(BPF_JMP | comparison | BPF_K), value, 1, 0));
    Return(action);
  }
  // Passes over `count` further instructions unless the call is `number`.
  void Skip(std::uint32_t number, std::uint8_t count) {
    code_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, static_cast<std::uint8_t>(count + 1)));
  }
  // EPERM if the argument has all of `bits`, else allowed.
  void ForbidBits(std::uint32_t number, unsigned argument, std::uint32_t bits) {
    Skip(number, 4);
    Load(Argument(argument));
    code_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits));
    If(bits, BPF_JEQ, SECCOMP_RET_ERRNO | EPERM);
    Return(SECCOMP_RET_ALLOW);
  }

  std::vector<sock_filter> code_;
};

std::vector<std::string_view> Names(std::initializer_list<std::span<const NamedCall>> lists) {
  std::vector<std::string_view> names;
  for (const auto list : lists) {
    for (const NamedCall& call : list) names.push_back(call.name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

Status Limit(int resource, std::uint64_t value, const char* what) {
  rlimit limit{};
  if (getrlimit(static_cast<__rlimit_resource_t>(resource), &limit) != 0) return ErrnoError(what);
  limit.rlim_max = std::min<rlim_t>(limit.rlim_max, value);
  limit.rlim_cur = std::min<rlim_t>(limit.rlim_cur, limit.rlim_max);
  return setrlimit(static_cast<__rlimit_resource_t>(resource), &limit) == 0 ? Status() : ErrnoError(what);
}

}  // namespace

std::vector<std::string_view> AllowedCalls(Role role) {
  switch (role) {
    case Role::kCompiler: return Names({kCommonCalls});
    case Role::kRunner: return Names({kCommonCalls, kSocketCalls});
    case Role::kDaemon: return Names({kCommonCalls, kSocketCalls, kDaemonCalls});
  }
  return {};
}

std::vector<std::string_view> FatalCalls() { return Names({kFatalCalls}); }

bool HasFilters() { return prctl(PR_GET_SECCOMP) >= 0 && (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, nullptr) == 0 || errno == EFAULT); }

Result<bool> Enter(Role role) {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return ErrnoError("giving up new privileges");
  if (!HasFilters()) return false;
  Filter filter(role);
  sock_fprog program = filter.program();
  if (syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
    return ErrnoError("setting the filter of system calls");
  }
  return true;
}

Status LimitCompiler() {
  GODWIT_TRY(Limit(RLIMIT_AS, kCompilerAddressSpaceMax.value, "limiting the compiler's memory"));
  GODWIT_TRY(Limit(RLIMIT_CPU, kCompilerProcessorSecondsMax, "limiting the compiler's processor time"));
  GODWIT_TRY(Limit(RLIMIT_FSIZE, kCompilerFileMax.value, "limiting the compiler's files"));
  GODWIT_TRY(Limit(RLIMIT_CORE, 0, "leaving out core dumps"));
  const pid_t parent = getppid();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ErrnoError("ending with the parent");
  return getppid() == parent ? Status() : Aborted("the parent has ended already");
}

}  // namespace godwit::sandbox
