#include "cluster_record.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "cluster_links.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using std::chrono::milliseconds;

constexpr milliseconds kTermGrace{5000};  // From SIGTERM to SIGKILL.
constexpr milliseconds kKillGrace{5000};  // From SIGKILL until we give up waiting.
constexpr milliseconds kPollInterval{20};

std::string Home() {
  const char* home = std::getenv("HOME");
  return home != nullptr && *home != 0 ? home : "/";
}

std::string UserFolder(const char* variable, const char* fallback) {
  const char* value = std::getenv(variable);
  return value != nullptr && *value != 0 ? value : Home() + fallback;
}

Status WriteFile(const std::string& path, const std::string& content, mode_t mode) {
  const std::string temporary = path + ".new";
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  if (fd < 0) return ErrnoError("cannot write " + temporary);
  const bool written = write(fd, content.data(), content.size()) == static_cast<ssize_t>(content.size());
  close(fd);
  if (!written || rename(temporary.c_str(), path.c_str()) != 0) {
    const Error error = ErrnoError("cannot write " + path);
    unlink(temporary.c_str());
    return error;
  }
  return {};
}

json ToJson(const ProcessRecord& process) {
  return {{"name", process.name}, {"pid", process.pid}, {"start_ticks", process.start_ticks}};
}

ProcessRecord ProcessFrom(const json& value) {
  return {value.at("name").get<std::string>(), value.at("pid").get<pid_t>(),
          value.at("start_ticks").get<std::uint64_t>()};
}

// Waits until none of them runs; false when `limit` passed first.
bool WaitGone(const std::vector<ProcessRecord>& processes, milliseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  for (const auto& process : processes) {
    while (IsRunning(process)) {
      if (std::chrono::steady_clock::now() >= end) return false;
      poll(nullptr, 0, static_cast<int>(kPollInterval.count()));
    }
  }
  return true;
}

void Signal(const std::vector<ProcessRecord>& processes, int signal) {
  for (const auto& process : processes) {
    if (IsRunning(process)) kill(process.pid, signal);
  }
}

// A group can be removed only when the last process in it has been reaped.
void RemoveCgroup(const std::string& folder) {
  for (int attempt = 0; attempt < 100 && rmdir(folder.c_str()) != 0 && errno == EBUSY; ++attempt) {
    poll(nullptr, 0, static_cast<int>(kPollInterval.count()));
  }
}

}  // namespace

std::string DefaultStateFolder() { return UserFolder("XDG_STATE_HOME", "/.local/state") + "/godwit/cluster"; }
std::string ContextFile() { return UserFolder("XDG_CONFIG_HOME", "/.config") + "/godwit/context.json"; }

Result<ClusterRecord> LoadRecord(const std::string& state_folder) {
  const std::string path = state_folder + "/cluster.json";
  std::ifstream in(path);
  if (!in) return NotFound("no cluster runs in " + state_folder);
  try {
    const json value = json::parse(in);
    ClusterRecord record;
    record.server = value.at("server").get<std::string>();
    record.token_file = value.at("token_file").get<std::string>();
    record.keeper = ProcessFrom(value.at("keeper"));
    for (const json& daemon : value.at("daemons")) record.daemons.push_back(ProcessFrom(daemon));
    for (const json& link : value.at("links")) {
      record.links.push_back({link.at("device").get<std::string>(), link.at("interface").get<std::string>()});
    }
    record.cgroups = value.at("cgroups").get<std::vector<std::string>>();
    return record;
  } catch (const json::exception& error) {
    return Corrupt(
        fmt::format("{}: {}; remove the folder {} when no godwitd runs", path, error.what(), state_folder));
  }
}

Status SaveRecord(const std::string& state_folder, const ClusterRecord& record) {
  json daemons = json::array(), links = json::array();
  for (const auto& daemon : record.daemons) daemons.push_back(ToJson(daemon));
  for (const auto& link : record.links)
    links.push_back({{"device", link.device}, {"interface", link.interface}});
  const json value = {{"server", record.server},
                      {"token_file", record.token_file},
                      {"keeper", ToJson(record.keeper)},
                      {"daemons", daemons},
                      {"links", links},
                      {"cgroups", record.cgroups}};
  return WriteFile(state_folder + "/cluster.json", value.dump(2) + "\n", 0600);
}

std::optional<std::uint64_t> StartTicks(pid_t pid) {
  std::ifstream in(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (pid <= 0 || !std::getline(in, line)) return std::nullopt;
  // The name, in parentheses, may hold anything: fields are counted from behind its last ')'.
  const auto close = line.rfind(')');
  if (close == std::string::npos) return std::nullopt;
  std::istringstream fields(line.substr(close + 1));
  std::string field;
  for (int number = 3; number <= 22 && fields >> field; ++number) {
    if (number == 3 && (field == "Z" || field == "X")) return std::nullopt;
  }
  return std::strtoull(field.c_str(), nullptr, 10);
}

bool IsRunning(const ProcessRecord& process) { return StartTicks(process.pid) == process.start_ticks; }

void Erase(const std::string& state_folder, const ClusterRecord& record) {
  std::vector<ProcessRecord> processes = record.daemons;
  if (record.keeper.pid != getpid()) {
    // Killed first, so that it does not do this very work at the same time.
    Signal({record.keeper}, SIGKILL);
    WaitGone({record.keeper}, kKillGrace);
  }
  Signal(processes, SIGTERM);
  if (!WaitGone(processes, kTermGrace)) {
    Signal(processes, SIGKILL);
    WaitGone(processes, kKillGrace);
  }
  for (const auto& link : record.links) RemoveLink(link.interface);
  for (const auto& cgroup : record.cgroups) RemoveCgroup(cgroup);
  if (!record.links.empty()) ReleaseForwarding();
  RemoveContext(record.server);
  std::error_code ignored;
  fs::remove_all(state_folder, ignored);
}

Status WriteContext(const std::string& server, const std::string& token, const std::string& state_folder) {
  const std::string path = ContextFile();
  std::error_code error;
  fs::create_directories(fs::path(path).parent_path(), error);
  if (error)
    return Internal(
        fmt::format("cannot create {}: {}", fs::path(path).parent_path().string(), error.message()));
  return WriteFile(path, json({{"server", server}, {"token", token}, {"state", state_folder}}).dump(2) + "\n",
                   0600);
}

void RemoveContext(const std::string& server) {
  std::ifstream in(ContextFile());
  const json value = json::parse(in, nullptr, false);
  if (value.is_object() && value.value("server", "") == server) unlink(ContextFile().c_str());
}

}  // namespace godwit::cli
