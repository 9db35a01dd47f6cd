#include "sandbox/sandbox.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <functional>
#include <thread>

namespace godwit::sandbox {
namespace {

constexpr int kNoFilters = 99;

// The wait status of a child that enters `role` and then runs `work`, whose result is its exit code.
int StatusOf(Role role, const std::function<int()>& work) {
  const pid_t child = fork();
  if (child == 0) {
    const auto entered = Enter(role);
    _exit(!entered.ok() ? 98 : *entered ? work() : kNoFilters);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return status;
}

class SandboxTest : public ::testing::TestWithParam<Role> {
 protected:
  void SetUp() override {
    if (!HasFilters()) GTEST_SKIP() << "this system has no filters of system calls";
  }
  // The errno of `work` inside, 0 if it succeeds.
  int ErrnoOf(Role role, const std::function<bool()>& work) {
    const int status = StatusOf(role, [&] { return work() ? 0 : errno; });
    EXPECT_TRUE(WIFEXITED(status)) << "ended by signal " << WTERMSIG(status);
    return WEXITSTATUS(status);
  }
};

TEST_P(SandboxTest, RunningAnotherProgramEndsTheProcess) {
  const int status = StatusOf(GetParam(), [] { return execl("/bin/true", "true", nullptr); });
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(WTERMSIG(status), SIGSYS);
}

TEST_P(SandboxTest, ThreadsStartAndProcessesDoNot) {
  EXPECT_EQ(ErrnoOf(GetParam(), [] {
              bool ran = false;
              std::thread([&] { ran = true; }).join();
              return ran;
            }), 0);
  EXPECT_EQ(ErrnoOf(GetParam(), [] { return fork() >= 0; }), EPERM);
}

TEST_P(SandboxTest, MemoryIsWritableOrExecutableNeverBoth) {
  const auto map = [](int protection) { return mmap(nullptr, 4096, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); };
  EXPECT_EQ(ErrnoOf(GetParam(), [&] { return map(PROT_READ | PROT_EXEC) != MAP_FAILED; }), 0);
  EXPECT_EQ(ErrnoOf(GetParam(), [&] { return map(PROT_READ | PROT_WRITE) != MAP_FAILED; }), 0);
  EXPECT_EQ(ErrnoOf(GetParam(), [&] { return map(PROT_READ | PROT_WRITE | PROT_EXEC) != MAP_FAILED; }), EPERM);
  EXPECT_EQ(ErrnoOf(GetParam(), [&] { return mprotect(map(PROT_READ), 4096, PROT_WRITE | PROT_EXEC) == 0; }), EPERM);
}

TEST_P(SandboxTest, OnlyDaemonsMakeSockets) {
  const int expected = GetParam() == Role::kDaemon ? 0 : EPERM;
  EXPECT_EQ(ErrnoOf(GetParam(), [] { return socket(AF_INET, SOCK_STREAM, 0) >= 0; }), expected);
}

TEST_P(SandboxTest, NoCallIsBothAllowedAndFatal) {
  const auto allowed = AllowedCalls(GetParam()), fatal = FatalCalls();
  for (const std::string_view name : fatal) EXPECT_FALSE(std::binary_search(allowed.begin(), allowed.end(), name)) << name;
  EXPECT_TRUE(std::binary_search(allowed.begin(), allowed.end(), "read"));
}

INSTANTIATE_TEST_SUITE_P(Roles, SandboxTest, ::testing::Values(Role::kRunner, Role::kDaemon, Role::kCompiler));

TEST(LimitCompilerTest, BoundsWhatAModuleCanMakeTheCompilerUse) {
  const pid_t parent = getpid(), child = fork();
  if (child == 0) {
    if (!LimitCompiler().ok() || getppid() != parent) _exit(1);
    rlimit memory{}, core{};
    getrlimit(RLIMIT_AS, &memory);
    getrlimit(RLIMIT_CORE, &core);
    const bool bounded = memory.rlim_max <= kCompilerAddressSpaceMax.value && core.rlim_max == 0;
    void* const too_much = mmap(nullptr, kCompilerAddressSpaceMax.value, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    _exit(bounded && too_much == MAP_FAILED ? 0 : 2);
  }
  int status = 0;
  waitpid(child, &status, 0);
  EXPECT_EQ(status, 0);
}

}  // namespace
}  // namespace godwit::sandbox
