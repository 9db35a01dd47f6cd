// godwit bench stops: stopping code at random moments, and how fast it is afterwards.
//
// Programs run in this process. A second thread asks for stops; what counts is the processor time of the thread that
// runs the guest, from the store to the state word until the stack is captured.
#include <fmt/format.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <random>
#include <sstream>
#include <thread>

#include "bench.h"
#include "bench_kernels.h"
#include "runtime/instance.h"
#include "runtime/wasi.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

using nlohmann::json;
using runtime::Instance;
using runtime::LoadedModule;

constexpr int kStopsMax = 1'000'000;
constexpr int kResumedRounds = 11;      // Of one program; every second one is disturbed.
constexpr int kDeepStops = 2000;
constexpr std::size_t kDeepBytesMin = 100 * 16;  // Of 100 frames, each with its number and a value at least.
// Where the asking thread itself was held up for longer between clock and store, the sample says nothing.
constexpr double kHeldUpUs = 20;

double NowUs(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) / 1e3;
}

// Of this process, whose only busy thread runs the guest.
long PageFaults() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_minflt + usage.ru_majflt;
}

// One kernel as a program in this process, its output in a pipe.
class Program {
 public:
  static Result<std::unique_ptr<Program>> Create(std::shared_ptr<const LoadedModule> module, int rounds) {
    auto program = std::make_unique<Program>();
    if (pipe(program->pipe_) != 0) return ErrnoError("making a pipe");
    runtime::WasiOptions wasi;
    wasi.args = {"kernel", std::to_string(rounds)};
    wasi.stdio = {runtime::FdStream::Borrow(0), runtime::FdStream::Borrow(program->pipe_[1]), runtime::FdStream::Borrow(2)};
    GODWIT_ASSIGN(auto host, runtime::Wasi::Create(std::move(wasi)));
    GODWIT_ASSIGN(program->instance_, Instance::Create(std::move(module), {std::move(host)}, runtime::Limits()));
    GODWIT_ASSIGN(const std::uint32_t main, program->instance_->FindFunction("_start"));
    GODWIT_ASSIGN(program->task_, program->instance_->Start(main, {}));
    return program;
  }
  Program() = default;
  ~Program() {
    instance_.reset();
    for (int fd : pipe_) {
      if (fd >= 0) close(fd);
    }
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  Instance& instance() { return *instance_; }
  // True if it was captured, false at its end.
  Result<bool> Run() {
    for (;;) {
      const runtime::Outcome outcome = instance_->Run(task_);
      if (std::holds_alternative<runtime::Captured>(outcome)) return true;
      if (std::holds_alternative<runtime::Blocked>(outcome)) continue;
      if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) return Internal("a kernel trapped: " + trapped->message);
      close(std::exchange(pipe_[1], -1));
      return false;
    }
  }
  // The next line of output; empty at its end. Any thread.
  std::string Line() {
    std::string line;
    for (char c; read(pipe_[0], &c, 1) == 1 && c != '\n';) line += c;
    return line;
  }

 private:
  std::unique_ptr<Instance> instance_;
  runtime::TaskId task_ = 0;
  int pipe_[2] = {-1, -1};
};

struct Latencies {
  Samples processor_us, wall_us;
  Samples faulting_us;  // Processor time of stops on whose way the kernel was asked for pages: apart, since it is the kernel's.
  int held_up = 0;  // Samples left out.
};

// Stops a program again and again at random moments until it ends or `wanted` samples are there.
class Stopper {
 public:
  Stopper(Program& program, unsigned seed, Latencies& to) : program_(program), random_(seed), to_(to) {
    pthread_getcpuclockid(pthread_self(), &clock_);
  }

  Status Run(std::size_t wanted) {
    std::thread asking([this] { Ask(); });
    Status status;
    while (to_.processor_us.values.size() + to_.faulting_us.values.size() < wanted) {
      running_ = true;
      const Result<bool> captured = program_.Run();
      const double processor = NowUs(clock_), wall = NowUs(CLOCK_MONOTONIC);
      const long faults = PageFaults();
      running_ = false;
      if (!captured.ok()) status = captured.error();
      if (!captured.ok() || !*captured) break;
      while (!asked_) std::this_thread::yield();
      if (held_up_) {
        ++to_.held_up;
      } else if (faults != faults_at_) {
        to_.faulting_us.values.push_back(processor - processor_at_);
      } else {
        to_.processor_us.values.push_back(processor - processor_at_);
        to_.wall_us.values.push_back(wall - wall_at_);
      }
      program_.instance().WithdrawStop();
      asked_ = false;
    }
    done_ = true;
    asking.join();
    return status;
  }

 private:
  void Ask() {
    while (!done_) {
      std::this_thread::sleep_for(std::chrono::microseconds(100 + random_() % 1900));
      while (!running_ && !done_) std::this_thread::yield();
      if (done_) return;
      faults_at_ = PageFaults();
      processor_at_ = NowUs(clock_);
      wall_at_ = NowUs(CLOCK_MONOTONIC);
      program_.instance().RequestStop();
      held_up_ = NowUs(CLOCK_MONOTONIC) - wall_at_ > kHeldUpUs || !running_;
      asked_ = true;
      while (asked_ && !done_) std::this_thread::yield();
    }
  }

  Program& program_;
  std::mt19937 random_;
  Latencies& to_;
  clockid_t clock_{};
  std::atomic<bool> running_ = false, done_ = false, asked_ = false;
  double processor_at_ = 0, wall_at_ = 0;  // These and faults_at_: written before asked_ is set, read after.
  long faults_at_ = 0;
  bool held_up_ = false;
};

// How long rounds take that were stopped near their beginning, relative to those that were not.
Result<double> ResumedRatio(const std::shared_ptr<const LoadedModule>& module, const std::string& kernel) {
  GODWIT_ASSIGN(auto program, Program::Create(module, kResumedRounds));
  Samples undisturbed, resumed;
  std::thread asking([&] {
    for (int round = 0;; ++round) {
      const std::string line = program->Line();
      if (line.empty()) return;
      const double ns = std::strtod(line.c_str(), nullptr);
      (round % 2 == 0 ? undisturbed : resumed).values.push_back(ns);
      if (round % 2 != 0 || round + 1 == kResumedRounds) continue;
      std::this_thread::sleep_for(std::chrono::nanoseconds(static_cast<std::int64_t>(ns / 50)));
      program->instance().RequestStop();
    }
  });
  Status status;
  for (;;) {
    const Result<bool> captured = program->Run();
    if (!captured.ok()) status = captured.error();
    if (!captured.ok() || !*captured) break;
    program->instance().WithdrawStop();
  }
  asking.join();
  GODWIT_TRY(status);
  if (resumed.empty()) return Internal(kernel + " printed no times");
  return resumed.Median() / undisturbed.Median();
}

Result<std::shared_ptr<const LoadedModule>> Load(const std::string& path) {
  GODWIT_ASSIGN(auto package, package::Package::Open(path));
  return LoadedModule::Load(std::move(package));
}

// A stop that is not withdrawn: every run restores the stack, reaches the next safepoint and captures it again.
Result<Samples> DeepStack(const std::filesystem::path& source, const std::filesystem::path& folder) {
  const std::string base = (folder / "deep").string();
  GODWIT_TRY(RunOrFail({"clang-19", "--target=wasm32-wasi", "-O2", "-c", source.string(), "-o", base + ".o"}));
  GODWIT_TRY(RunOrFail({"clang-19", "--target=wasm32-wasi", base + ".o", "-o", base + ".wasm"}));
  GODWIT_TRY(RunOrFail({OwnPath(), "build", base + ".wasm", "--target", kThisIsa, "-o", base + ".on.gwp"}));
  GODWIT_ASSIGN(auto module, Load(base + ".on.gwp"));
  GODWIT_ASSIGN(auto program, Program::Create(module, 1));
  std::thread asking([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    program->instance().RequestStop();
  });
  const Result<bool> first = program->Run();
  asking.join();
  if (!first.ok()) return first.error();
  GODWIT_ASSIGN(const snapshot::Snapshot snapshot, program->instance().Capture());
  if (snapshot.stacks.front().frames.size() < kDeepBytesMin) return Internal("the deep stack is not 100 frames deep");
  clockid_t clock{};
  pthread_getcpuclockid(pthread_self(), &clock);
  Samples samples;
  for (int i = 0; i < kDeepStops; ++i) {
    const double begin = NowUs(clock);
    GODWIT_ASSIGN(const bool captured, program->Run());
    if (!captured) return Internal("the deep stack came to an end");
    samples.values.push_back(NowUs(clock) - begin);
  }
  return samples;
}

json Entry(const json& what, const char* metric, const char* unit, const Samples& samples) {
  return {{"case", what}, {"metric", metric}, {"unit", unit}, {"better", "lower"}, {"ours", samples.ToJson()},
          {"baselines", json::object()}, {"emulated", json::array()}};
}

}  // namespace

Result<int> BenchStops(const BenchOptions& options) {
  if (options.stops < 1 || options.stops > kStopsMax) return InvalidArgument("--stops must be between 1 and 1000000");
  const std::filesystem::path folder = options.source;
  GODWIT_ASSIGN(const auto sources, KernelSources(folder / "kernels", options.only));
  const TemporaryFolder scratch = TemporaryFolder::Create().value();
  if (scratch.path().empty()) return ErrnoError("cannot make a temporary folder");
  const std::size_t each = (static_cast<std::size_t>(options.stops) + sources.size() - 1) / sources.size();
  json results = json::array();
  Latencies all;
  Samples resumed;
  if (!options.json) fmt::print("{:<14} {:>7} {:>8} {:>8} {:>8} {:>9} {:>9}\n", "KERNEL", "STOPS", "P50 US", "P99 US", "MAX US", "WALL P50", "RESUMED");
  for (const auto& source : sources) {
    if (options.progress) std::fprintf(stderr, "  %s\n", source.stem().c_str());
    GODWIT_ASSIGN(const Kernel kernel, BuildKernel(source, scratch.path(), Vectors::kSimd128));
    GODWIT_ASSIGN(const auto module, Load(kernel.base + ".on.gwp"));
    Latencies some;
    for (unsigned seed = 1; some.processor_us.values.size() + some.faulting_us.values.size() < each; ++seed) {
      GODWIT_ASSIGN(auto program, Program::Create(module, 20));
      GODWIT_TRY(Stopper(*program, seed, some).Run(each));
    }
    GODWIT_ASSIGN(const double ratio, ResumedRatio(module, kernel.name));
    resumed.values.push_back(ratio);
    all.held_up += some.held_up;
    for (auto [from, to] : {std::pair(&some.processor_us, &all.processor_us), {&some.wall_us, &all.wall_us}, {&some.faulting_us, &all.faulting_us}}) {
      to->values.insert(to->values.end(), from->values.begin(), from->values.end());
    }
    const json what = {{"kernel", kernel.name}};
    results.push_back(Entry(what, "stop latency, processor time", "us", some.processor_us));
    results.push_back(Entry(what, "stop latency, wall", "us", some.wall_us));
    results.push_back(Entry(what, "resumed loop relative to undisturbed", "ratio", Samples{{ratio}}));
    if (options.json) continue;
    fmt::print("{:<14} {:>7} {:>8.1f} {:>8.1f} {:>8.1f} {:>9.1f} {:>9.3f}\n", kernel.name, some.processor_us.values.size(), some.processor_us.Median(),
               some.processor_us.At(0.99), some.processor_us.Max(), some.wall_us.Median(), ratio);
    std::fflush(stdout);
  }
  GODWIT_ASSIGN(const Samples deep, DeepStack(folder / "stops/deep.c", scratch.path()));
  const json everything = {{"kernel", "all"}};
  results.push_back(Entry(everything, "stop latency, processor time", "us", all.processor_us));
  results.push_back(Entry(everything, "stop latency, wall", "us", all.wall_us));
  if (!all.faulting_us.empty()) results.push_back(Entry(everything, "stop latency with page faults on the way, processor time", "us", all.faulting_us));
  results.push_back(Entry(everything, "resumed loop relative to undisturbed", "ratio", resumed));
  results.push_back(Entry(everything, "capture and restore of 100 frames", "us", deep));
  if (options.json) {
    std::printf("%s\n", BenchDocument("stops", options.source, results).c_str());
  } else {
    fmt::print("{} stops: processor time p50 {:.1f} us, p99 {:.1f} us, max {:.1f} us; wall p50 {:.1f} us; {} more left out, since the "
               "asking thread was held up\n",
               all.processor_us.values.size(), all.processor_us.Median(), all.processor_us.At(0.99), all.processor_us.Max(), all.wall_us.Median(), all.held_up);
    if (!all.faulting_us.empty()) {
      fmt::print("{} stops with page faults on the way: processor time p50 {:.1f} us, max {:.1f} us\n", all.faulting_us.values.size(),
                 all.faulting_us.Median(), all.faulting_us.Max());
    }
    fmt::print("resumed loops: geometric mean {:.3f} of undisturbed, worst {:.3f}\n", GeometricMean(resumed.values), resumed.Max());
    fmt::print("capture and restore of 100 frames: p50 {:.1f} us, p99 {:.1f} us\n", deep.Median(), deep.At(0.99));
  }
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("stops", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
