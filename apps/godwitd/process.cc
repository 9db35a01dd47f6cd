#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <charconv>
#include <fstream>

#include <spdlog/spdlog.h>

#include "commands.h"
#include "sandbox/sandbox.h"

namespace godwit::daemon {
namespace {

sigset_t EndSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGHUP);
  return signals;
}

}  // namespace

Result<Endpoint> ParseEndpoint(const std::string& text) {
  const std::size_t colon = text.rfind(':');
  Endpoint endpoint;
  if (colon == std::string::npos || colon == 0) return InvalidArgument("'" + text + "' is not ADDRESS:PORT");
  endpoint.address = text.substr(0, colon);
  if (endpoint.address.front() == '[' && endpoint.address.back() == ']') {
    endpoint.address = endpoint.address.substr(1, endpoint.address.size() - 2);
  }
  const char* end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data() + colon + 1, end, endpoint.port);
  if (error != std::errc() || at != end) return InvalidArgument("'" + text + "' has no port from 0 to 65535");
  return endpoint;
}

Result<std::string> ReadToken(const std::string& path) {
  std::ifstream file(path);
  std::string token;
  if (!file) return ErrnoError(path);
  std::getline(file, token);
  while (!token.empty() && (token.back() == '\r' || token.back() == ' ')) token.pop_back();
  if (token.empty() || token.size() > 4096) return InvalidArgument(path + ": a token is a line of 1 to 4096 characters");
  return token;
}

Status BlockSignals(bool die_with_parent) {
  signal(SIGPIPE, SIG_IGN);
  const sigset_t signals = EndSignals();
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  if (!die_with_parent) return {};
  const pid_t parent = getppid();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return ErrnoError("--die-with-parent");
  if (getppid() != parent) return Aborted("the parent has ended already");
  return {};
}

Status EnterSandbox() {
  GODWIT_ASSIGN(const bool filtered, sandbox::Enter(sandbox::Role::kDaemon));
  if (filtered) spdlog::info("system calls are filtered");
  else spdlog::warn("this system has no filters of system calls: the process goes on without");
  return {};
}

int WaitForSignal() {
  const sigset_t signals = EndSignals();
  int number = 0;
  while (sigwait(&signals, &number) != 0) {
  }
  return number;
}

bool EndSignalWithin(std::chrono::milliseconds time) {
  const sigset_t signals = EndSignals();
  const timespec wait{time.count() / 1000, time.count() % 1000 * 1'000'000};
  return sigtimedwait(&signals, nullptr, &wait) > 0;
}

}  // namespace godwit::daemon
