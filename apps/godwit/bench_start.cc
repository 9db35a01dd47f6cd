// godwit bench start: from nothing to the first instruction of a guest.
//
// Two ways lead there: a process of its own (`godwit run` of a package, a native program, other engines' tools), timed from
// the spawn until the program's first byte arrives; and an instance in a process that has the module already, timed from
// its creation through one call to its end, with what earlier instances left behind and without.
#include <fmt/format.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench.h"
#include "bench_kernels.h"
#include "runtime/instance.h"
#include "runtime/wasi.h"
#include "subprocess.h"

extern char** environ;

namespace godwit::cli {
namespace {

using nlohmann::json;
using runtime::Instance;
using runtime::LoadedModule;

constexpr int kProcesses = 10;     // Of each variant, each round.
constexpr int kInstances = 2000;   // Likewise.
constexpr int kColdInstances = 50; // Likewise; each needs a module of its own.
constexpr int kRoundsMax = 1000;

double SinceUs(std::chrono::steady_clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count();
}

// Milliseconds from the spawn of `command` (command[0] is a path) until the first byte of its output.
Result<double> UntilFirstByte(const std::vector<std::string>& command) {
  int ends[2];
  if (pipe(ends) != 0) return ErrnoError("making a pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
  posix_spawn_file_actions_addclose(&actions, ends[0]);
  posix_spawn_file_actions_addclose(&actions, ends[1]);
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  pid_t child = 0;
  const auto begin = std::chrono::steady_clock::now();
  const int failed = posix_spawnp(&child, words[0], &actions, nullptr, words.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(ends[1]);
  char byte = 0;
  const bool said = failed == 0 && read(ends[0], &byte, 1) == 1;
  const double ms = SinceUs(begin) / 1000;
  close(ends[0]);
  int status = 0;
  if (failed == 0) waitpid(child, &status, 0);
  if (!said || status != 0) return Internal(command[0] + " did not run the program");
  return ms;
}

// Creates an instance, calls its initialiser and `call`, and drops it. Microseconds.
Result<double> LifeOfAnInstance(const std::shared_ptr<const LoadedModule>& module, std::uint32_t initialise, std::uint32_t call) {
  const auto begin = std::chrono::steady_clock::now();
  {
    GODWIT_ASSIGN(auto host, runtime::Wasi::Create({}));
    GODWIT_ASSIGN(auto instance, Instance::Create(module, {std::move(host)}, runtime::Limits()));
    for (const bool first : {true, false}) {
      runtime::Cell seed{7};
      GODWIT_ASSIGN(const auto task, instance->Start(first ? initialise : call, first ? std::span<const runtime::Cell>() : std::span(&seed, 1)));
      if (!std::holds_alternative<runtime::Returned>(instance->Run(task))) return Internal("the reactor's call did not return");
    }
  }
  return SinceUs(begin);
}

Result<std::shared_ptr<const LoadedModule>> Load(const std::string& path) {
  GODWIT_ASSIGN(auto package, package::Package::Open(path));
  return LoadedModule::Load(std::move(package));
}

// V8's instances of the same module, in one process: a line of microseconds each. Left for V8 to collect.
constexpr std::string_view kNodeInstances = R"(import { WASI } from 'node:wasi';
import { readFileSync } from 'node:fs';
const module = new WebAssembly.Module(readFileSync(process.argv[2]));
const times = [];
for (let i = 0; i < Number(process.argv[3]); i++) {
  const begin = process.hrtime.bigint();
  const wasi = new WASI({ version: 'preview1', args: [], env: {} });
  const instance = new WebAssembly.Instance(module, wasi.getImportObject());
  wasi.initialize(instance);
  instance.exports.call(7);
  times.push(Number(process.hrtime.bigint() - begin) / 1000);
}
console.log(times.join('\n'));
)";

struct Case {
  std::string name, metric, unit;
  Samples ours;
  std::map<std::string, Samples> baselines;
};

Status Compile(const std::filesystem::path& source, const std::string& base, const std::vector<std::string>& linking) {
  GODWIT_TRY(RunOrFail({"clang-19", "--target=wasm32-wasi", "-O2", "-c", source.string(), "-o", base + ".o"}));
  std::vector<std::string> link = {"clang-19", "--target=wasm32-wasi", base + ".o", "-o", base + ".wasm"};
  link.insert(link.end(), linking.begin(), linking.end());
  GODWIT_TRY(RunOrFail(link));
  return RunOrFail({OwnPath(), "build", base + ".wasm", "--target", kThisIsa, "-o", base + ".gwp"});
}

Result<Case> Processes(const BenchOptions& options, const std::filesystem::path& folder, bool v8) {
  const std::filesystem::path source = std::filesystem::path(options.source) / "start/hello.c";
  const std::string base = (folder / "hello").string();
  GODWIT_TRY(Compile(source, base, {}));
  GODWIT_TRY(RunOrFail({"clang-19", "-O2", source.string(), "-o", base + ".native"}));
  std::map<std::string, std::vector<std::string>> commands = {{kNative, {base + ".native"}}};
  if (v8) {
    std::ofstream(folder / "run.mjs") << "import { WASI } from 'node:wasi';\nimport { readFileSync } from 'node:fs';\n"
                                         "const wasi = new WASI({ version: 'preview1' });\n"
                                         "const module = await WebAssembly.compile(readFileSync(process.argv[2]));\n"
                                         "wasi.start(await WebAssembly.instantiate(module, wasi.getImportObject()));\n";
    commands["node"] = {"node", "--no-warnings", (folder / "run.mjs").string(), base + ".wasm"};
  }
  Case result{"process", "spawn to the program's first byte", "ms", {}, {}};
  for (int i = 0; i < options.rounds * kProcesses; ++i) {
    GODWIT_ASSIGN(const double own, UntilFirstByte({OwnPath(), "run", base + ".gwp"}));
    result.ours.values.push_back(own);
    for (const auto& [name, command] : commands) {
      if (name == "node" && i % kProcesses != 0) continue;  // It takes long enough to be seen with fewer.
      GODWIT_ASSIGN(const double other, UntilFirstByte(command));
      result.baselines[name].values.push_back(other);
    }
  }
  return result;
}

Result<std::vector<Case>> Instances(const BenchOptions& options, const std::filesystem::path& folder, bool v8) {
  const std::string base = (folder / "reactor").string();
  GODWIT_TRY(Compile(std::filesystem::path(options.source) / "start/reactor.c", base, {"-mexec-model=reactor"}));
  GODWIT_ASSIGN(const auto module, Load(base + ".gwp"));
  std::uint32_t functions[2];
  {
    GODWIT_ASSIGN(auto host, runtime::Wasi::Create({}));
    GODWIT_ASSIGN(auto instance, Instance::Create(module, {std::move(host)}, runtime::Limits()));
    GODWIT_ASSIGN(functions[0], instance->FindFunction("_initialize"));
    GODWIT_ASSIGN(functions[1], instance->FindFunction("call"));
  }
  if (v8) std::ofstream(folder / "instances.mjs") << kNodeInstances;
  const char* metric = "create, initialise, first call, drop";
  Case recycled{"instance after others", metric, "us", {}, {}}, cold{"first instance of a module", metric, "us", {}, {}};
  for (int round = 0; round < options.rounds; ++round) {
    for (int i = 0; i < kInstances; ++i) {
      GODWIT_ASSIGN(const double us, LifeOfAnInstance(module, functions[0], functions[1]));
      recycled.ours.values.push_back(us);
    }
    for (int i = 0; i < kColdInstances; ++i) {
      GODWIT_ASSIGN(const auto fresh, Load(base + ".gwp"));
      GODWIT_ASSIGN(const double us, LifeOfAnInstance(fresh, functions[0], functions[1]));
      cold.ours.values.push_back(us);
    }
    if (!v8) continue;
    GODWIT_ASSIGN(const Finished node, RunProcess({"node", "--no-warnings", (folder / "instances.mjs").string(), base + ".wasm",
                                                   std::to_string(kInstances)}, Complaints::kPassOn));
    std::istringstream lines(node.output);
    for (double us; lines >> us;) recycled.baselines["v8"].values.push_back(us);
    if (node.code != 0 || recycled.baselines["v8"].empty()) return Internal("node did not run the reactor");
  }
  return std::vector<Case>{std::move(recycled), std::move(cold)};
}

}  // namespace

Result<int> BenchStart(const BenchOptions& options) {
  if (options.rounds < 1 || options.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
  const TemporaryFolder scratch = TemporaryFolder::Create().value();
  if (scratch.path().empty()) return ErrnoError("cannot make a temporary folder");
  bool v8 = false;
  for (const Peer& peer : FindPeers()) v8 |= options.peers && peer.name == "v8";
  if (options.progress) std::fprintf(stderr, "  processes%s\n", v8 ? ", beside node" : "");
  std::vector<Case> cases;
  GODWIT_ASSIGN(Case processes, Processes(options, scratch.path(), v8));
  cases.push_back(std::move(processes));
  if (options.progress) std::fprintf(stderr, "  instances\n");
  GODWIT_ASSIGN(std::vector<Case> instances, Instances(options, scratch.path(), v8));
  cases.insert(cases.end(), instances.begin(), instances.end());
  json results = json::array();
  if (!options.json) fmt::print("{:<28} {:<10} {:>6} {:>10} {:>10} {:>10} {:>10}\n", "CASE", "OF", "UNIT", "MEDIAN", "MIN", "P99", "N");
  for (const Case& one : cases) {
    json baselines = json::object();
    for (const auto& [name, samples] : one.baselines) baselines[name] = samples.ToJson();
    results.push_back({{"case", {{"start", one.name}}}, {"metric", one.metric}, {"unit", one.unit}, {"better", "lower"},
                       {"ours", one.ours.ToJson()}, {"baselines", baselines}, {"emulated", json::array()}});
    if (options.json) continue;
    const auto row = [&](const std::string& of, const Samples& samples) {
      fmt::print("{:<28} {:<10} {:>6} {:>10.2f} {:>10.2f} {:>10.2f} {:>10}\n", one.name, of, one.unit, samples.Median(), samples.Min(),
                 samples.At(0.99), samples.values.size());
    };
    row("godwit", one.ours);
    for (const auto& [name, samples] : one.baselines) row(name, samples);
  }
  if (options.json) std::printf("%s\n", BenchDocument("start", options.source, results).c_str());
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("start", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
