#include "subprocess.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <sstream>

namespace godwit::cli {
namespace {

std::string FindProgram(const std::string& name) {
  if (name.find('/') != std::string::npos) return access(name.c_str(), X_OK) == 0 ? name : std::string();
  const char* path = std::getenv("PATH");
  std::istringstream folders(std::string(path != nullptr ? path : "") + ":/usr/bin:/bin:/usr/sbin:/sbin");
  for (std::string folder; std::getline(folders, folder, ':');) {
    const std::string candidate = folder + "/" + name;
    if (!folder.empty() && access(candidate.c_str(), X_OK) == 0) return candidate;
  }
  return {};
}

}  // namespace

Result<Finished> RunProcess(const std::vector<std::string>& command, Complaints complaints) {
  const std::string program = FindProgram(command[0]);
  if (program.empty()) return NotFound(command[0] + " is not installed");
  std::array<int, 2> said;
  if (pipe2(said.data(), O_CLOEXEC) != 0) return ErrnoError("pipe");
  const pid_t pid = fork();
  if (pid < 0) {
    close(said[0]);
    close(said[1]);
    return ErrnoError("fork");
  }
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    dup2(said[1], STDOUT_FILENO);
    if (complaints == Complaints::kCollect) dup2(said[1], STDERR_FILENO);
    if (complaints == Complaints::kDrop) dup2(open("/dev/null", O_WRONLY | O_CLOEXEC), STDERR_FILENO);
    std::vector<char*> arguments;
    for (const auto& word : command) arguments.push_back(const_cast<char*>(word.c_str()));
    arguments.push_back(nullptr);
    execv(program.c_str(), arguments.data());
    _exit(127);
  }
  close(said[1]);
  Finished finished;
  std::array<char, 4096> part;
  for (ssize_t n; (n = read(said[0], part.data(), part.size())) > 0 || (n < 0 && errno == EINTR);) {
    if (n > 0 && finished.output.size() < kProcessOutputMax)
      finished.output.append(part.data(), static_cast<std::size_t>(n));
  }
  close(said[0]);
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  finished.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return finished;
}

Status RunOrFail(const std::vector<std::string>& command) {
  GODWIT_ASSIGN(Finished finished, RunProcess(command, Complaints::kCollect));
  if (finished.code == 0) return {};
  std::string& text = finished.output;
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return Internal(fmt::format("'{}' failed with code {}: {}", fmt::join(command, " "), finished.code, text));
}

std::string OwnPath() {
  std::error_code error;
  const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
  return error ? "/proc/self/exe" : path.string();
}

}  // namespace godwit::cli
