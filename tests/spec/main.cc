// Runs the specification's test scripts on the engine, each in a process of its own, and counts their assertions.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "engine.h"

namespace {

namespace fs = std::filesystem;
using godwit::spec::Report;

// A script that takes longer has hung.
constexpr unsigned kScriptSeconds = 300;
constexpr std::size_t kFailuresShown = 10;  // A script.

// Proposals that the engine does not have, by folder. Their scripts' assertions are counted and not run.
const std::map<std::string, std::string> kNotYet{
    {"memory64", "proposal memory64"}, {"multi-memory", "proposal multi-memory"},
    {"relaxed-simd", "proposal relaxed-simd"}, {"threads", "proposal threads"}};

struct Running {
  std::size_t script;
  int output;
};

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

Report RunOne(const fs::path& path, const godwit::spec::Settings& settings) {
  const std::string source = ReadAll(path);
  const auto not_yet = kNotYet.find(path.parent_path().filename().string());
  if (not_yet == kNotYet.end()) return godwit::spec::RunScript(source, settings);
  Report report;
  auto commands = godwit::spec::ParseScript(source);
  if (!commands.ok()) return report;
  for (const auto& command : *commands) report.not_runnable[not_yet->second] += command.assertion;
  return report;
}

void WriteReport(const Report& report, int output) {
  const nlohmann::json json{{"passed", report.passed}, {"failures", report.failures}, {"stops", report.stops},
                            {"not_runnable", report.not_runnable}};
  const std::string text = json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (write(output, text.data(), text.size()) != static_cast<ssize_t>(text.size())) _exit(3);
}

Report Collect(int output, int status) {
  Report report;
  std::string text(static_cast<std::size_t>(lseek(output, 0, SEEK_END)), 0);
  if (pread(output, text.data(), text.size(), 0) != static_cast<ssize_t>(text.size())) text.clear();
  const auto json = nlohmann::json::parse(text, nullptr, false);
  if (WIFSIGNALED(status)) {
    report.failures.push_back(fmt::format("ended by signal {} ({})", WTERMSIG(status), strsignal(WTERMSIG(status))));
  } else if (WEXITSTATUS(status) != 0 || json.is_discarded()) {
    report.failures.push_back(fmt::format("ended with code {} and no report", WEXITSTATUS(status)));
  } else {
    report.passed = json["passed"];
    report.failures = json["failures"];
    report.stops = json["stops"];
    report.not_runnable = json["not_runnable"];
  }
  return report;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> inputs;
  godwit::spec::Settings settings;
  unsigned jobs = std::max(1u, std::thread::hardware_concurrency());
  CLI::App app{"Runs the WebAssembly specification's test scripts on the engine"};
  app.add_option("path", inputs, "Scripts (.wast), or folders of them")->required()->check(CLI::ExistingPath);
  app.add_option("--level", settings.level, "Optimisation level 0 to 3; -1: what the compiler picks")->check(CLI::Range(-1, 3));
  app.add_flag("--stress", settings.stress, "Run each call under stops too: snapshot, drop, resume");
  app.add_option("--jobs", jobs, "Scripts at a time")->check(CLI::Range(1u, 256u));
  CLI11_PARSE(app, argc, argv);

  std::vector<fs::path> scripts;
  for (const std::string& input : inputs) {
    if (!fs::is_directory(input)) {
      scripts.emplace_back(input);
      continue;
    }
    for (const auto& entry : fs::recursive_directory_iterator(input)) {
      if (entry.path().extension() == ".wast") scripts.push_back(entry.path());
    }
  }
  std::sort(scripts.begin(), scripts.end());

  std::uint64_t passed = 0, failed = 0, skipped = 0, stops = 0;
  std::map<std::string, std::uint64_t> reasons;
  std::map<pid_t, Running> running;
  for (std::size_t next = 0; next < scripts.size() || !running.empty();) {
    if (next < scripts.size() && running.size() < jobs) {
      const int output = memfd_create("report", MFD_CLOEXEC);
      const pid_t child = fork();
      if (child == 0) {
        alarm(kScriptSeconds);
        WriteReport(RunOne(scripts[next], settings), output);
        _exit(0);
      }
      if (child < 0 || output < 0) return std::perror("spec: starting a script"), 1;
      running[child] = {next++, output};
      continue;
    }
    int status = 0;
    const pid_t child = wait(&status);
    const auto done = running.find(child);
    if (done == running.end()) continue;
    const Report report = Collect(done->second.output, status);
    close(done->second.output);
    std::uint64_t not_runnable = 0;
    for (const auto& [reason, count] : report.not_runnable) {
      not_runnable += count;
      if (count != 0) reasons[reason] += count;
    }
    if (!report.failures.empty() || jobs == 1) {
      fmt::print("{}: {} passed, {} failed, {} not runnable\n", scripts[done->second.script].string(), report.passed,
                 report.failures.size(), not_runnable);
    }
    for (std::size_t i = 0; i < std::min(report.failures.size(), kFailuresShown); ++i) {
      fmt::print("  {}\n", report.failures[i]);
    }
    if (report.failures.size() > kFailuresShown) fmt::print("  and {} more\n", report.failures.size() - kFailuresShown);
    std::fflush(stdout);
    passed += report.passed;
    failed += report.failures.size();
    skipped += not_runnable;
    stops += report.stops;
    running.erase(done);
  }
  for (const auto& [reason, count] : reasons) fmt::print("not runnable: {:6} {}\n", count, reason);
  if (settings.stress) fmt::print("{} times an instance was stopped, encoded, dropped and resumed\n", stops);
  fmt::print("spec: {} passed, {} failed, {} not runnable\n", passed, failed, skipped);
  return failed != 0 || passed == 0 ? 1 : 0;
}
