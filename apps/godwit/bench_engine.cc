// godwit bench engine: what stopping anywhere costs code that is not stopped.
//
// Each kernel of bench/kernels runs as a Wasm program with safepoints, as one built without them, and
// natively. The three take turns, so that a noisy machine is noisy for all; start-up is left out, since
// kernels time themselves.
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kRoundsMax = 1000;
constexpr const char* kOurs = "safepoints";
constexpr const char* kWithout = "no safepoints";
constexpr const char* kNative = "native";

struct Samples {
  std::vector<double> ms;

  double At(double share) const {
    std::vector<double> sorted = ms;
    std::sort(sorted.begin(), sorted.end());
    return sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
  }
  double Median() const { return At(0.5); }
  double Min() const { return At(0); }
  json ToJson() const {
    return {{"median", Median()}, {"min", Min()}, {"max", At(1)}, {"p99", At(0.99)}, {"n", ms.size()}};
  }
};

struct Kernel {
  std::string name;
  std::map<std::string, std::vector<std::string>> commands;  // How each variant is run.
  std::map<std::string, Samples> samples;
  std::string checksum;
  double Ratio(const char* other) const { return samples.at(kOurs).Median() / samples.at(other).Median(); }
  double RatioOfMinima(const char* other) const { return samples.at(kOurs).Min() / samples.at(other).Min(); }
};

// A folder that is removed with the object.
class Scratch {
 public:
  Scratch() {
    std::string name = (fs::temp_directory_path() / "godwit-bench-XXXXXX").string();
    if (mkdtemp(name.data()) != nullptr) path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

Result<Kernel> BuildKernel(const fs::path& source, const fs::path& folder) {
  Kernel kernel{.name = source.stem().string()};
  const std::string base = (folder / kernel.name).string();
  // Compiled and linked apart: with -O, the linking clang would run Binaryen's optimiser where that is
  // installed.
  GODWIT_TRY(RunOrFail({"clang-19", "--target=wasm32-wasi", "-O2", "-ffp-contract=off", "-c", source.string(),
                        "-o", base + ".o"}));
  GODWIT_TRY(RunOrFail({"clang-19", "--target=wasm32-wasi", base + ".o", "-o", base + ".wasm", "-lm"}));
  GODWIT_TRY(RunOrFail({
    "clang-19", "-O2",
#if defined(__x86_64__)
        "-march=x86-64-v2",
#endif
        "-ffp-contract=off", source.string(), "-o", base, "-lm"
  }));
  GODWIT_TRY(RunOrFail({OwnPath(), "build", base + ".wasm", "-o", base + ".on.gwp", "--target", kThisIsa}));
  GODWIT_TRY(RunOrFail({OwnPath(), "build", base + ".wasm", "-o", base + ".off.gwp", "--target", kThisIsa,
                        "--no-safepoints"}));
  kernel.commands[kOurs] = {OwnPath(), "run", base + ".on.gwp"};
  kernel.commands[kWithout] = {OwnPath(), "run", base + ".off.gwp"};
  kernel.commands[kNative] = {base};
  return kernel;
}

// One process of one variant: adds its timed rounds. Every variant must compute the same.
Status Measure(Kernel& kernel, const std::string& variant) {
  GODWIT_ASSIGN(const Finished finished, RunProcess(kernel.commands[variant], Complaints::kPassOn));
  if (finished.code != 0)
    return Internal(fmt::format("{} ({}) ended with code {}", kernel.name, variant, finished.code));
  std::istringstream lines(finished.output);
  std::string checksum;
  for (double ns; lines >> ns >> checksum;) {
    kernel.samples[variant].ms.push_back(ns / 1e6);
    if (kernel.checksum.empty()) kernel.checksum = checksum;
    if (checksum != kernel.checksum) {
      return Internal(
          fmt::format("{} ({}) computed {}, not {}", kernel.name, variant, checksum, kernel.checksum));
    }
  }
  if (kernel.samples[variant].ms.empty())
    return Internal(fmt::format("{} ({}) printed no times", kernel.name, variant));
  return {};
}

double GeometricMean(const std::vector<Kernel>& kernels, double (Kernel::*ratio)(const char*) const,
                     const char* other) {
  double logs = 0;
  for (const Kernel& kernel : kernels) logs += std::log((kernel.*ratio)(other));
  return std::exp(logs / static_cast<double>(kernels.size()));
}

json Report(const std::vector<Kernel>& kernels) {
  json results = json::array();
  for (const Kernel& kernel : kernels) {
    results.push_back(
        {{"case", {{"kernel", kernel.name}}},
         {"metric", "time"},
         {"unit", "ms"},
         {"better", "lower"},
         {"ours", kernel.samples.at(kOurs).ToJson()},
         {"baselines",
          {{kWithout, kernel.samples.at(kWithout).ToJson()}, {kNative, kernel.samples.at(kNative).ToJson()}}},
         {"emulated", json::array()}});
  }
  for (const char* other : {kWithout, kNative}) {
    const auto summary = [&](double (Kernel::*ratio)(const char*) const, const char* of) {
      std::vector<double> all;
      for (const Kernel& kernel : kernels) all.push_back((kernel.*ratio)(other));
      const Samples spread{all};
      results.push_back({{"case", {{"kernel", "geometric mean"}, {"of", of}}},
                         {"metric", std::string("time relative to ") + other},
                         {"unit", "ratio"},
                         {"better", "lower"},
                         {"ours",
                          {{"median", GeometricMean(kernels, ratio, other)},
                           {"min", spread.Min()},
                           {"max", spread.At(1)},
                           {"p99", spread.At(0.99)},
                           {"n", kernels.size()}}},
                         {"baselines", json::object()},
                         {"emulated", json::array()}});
    };
    summary(&Kernel::Ratio, "medians");
    summary(&Kernel::RatioOfMinima, "minima");
  }
  return results;
}

void PrintTable(const std::vector<Kernel>& kernels) {
  fmt::print("{:<14} {:>12} {:>14} {:>10} {:>8} {:>9} {:>13}\n", "KERNEL", "MEDIAN MS", "NO SAFEPOINTS",
             "NATIVE", "ON/OFF", "ON/NATIVE", "SPREAD (ON)");
  for (const Kernel& kernel : kernels) {
    const Samples& on = kernel.samples.at(kOurs);
    fmt::print("{:<14} {:>12.2f} {:>14.2f} {:>10.2f} {:>8.3f} {:>9.3f} {:>6.1f}-{:.1f}\n", kernel.name,
               on.Median(), kernel.samples.at(kWithout).Median(), kernel.samples.at(kNative).Median(),
               kernel.Ratio(kWithout), kernel.Ratio(kNative), on.Min(), on.At(1));
  }
  fmt::print(
      "geometric mean of {} kernels: on/off {:.3f} (of minima {:.3f}), on/native {:.3f} (of minima {:.3f})\n",
      kernels.size(), GeometricMean(kernels, &Kernel::Ratio, kWithout),
      GeometricMean(kernels, &Kernel::RatioOfMinima, kWithout),
      GeometricMean(kernels, &Kernel::Ratio, kNative),
      GeometricMean(kernels, &Kernel::RatioOfMinima, kNative));
}

}  // namespace

Result<int> BenchEngine(const BenchOptions& options) {
  if (options.rounds < 1 || options.rounds > kRoundsMax)
    return InvalidArgument("--rounds must be between 1 and 1000");
  const fs::path folder = fs::path(options.source) / "kernels";
  std::vector<fs::path> sources;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const bool chosen = options.only.empty() || std::find(options.only.begin(), options.only.end(),
                                                          entry.path().stem()) != options.only.end();
    if (entry.path().extension() == ".c" && chosen) sources.push_back(entry.path());
  }
  std::sort(sources.begin(), sources.end());
  if (sources.empty())
    return NotFound("no kernels in " + folder.string() +
                    "; name the source tree's bench folder with --source");
  const Scratch scratch;
  if (scratch.path().empty()) return ErrnoError("cannot make a temporary folder");
  std::vector<Kernel> kernels;
  for (const fs::path& source : sources) {
    if (options.progress) std::fprintf(stderr, "  building %s\n", source.stem().c_str());
    GODWIT_ASSIGN(Kernel kernel, BuildKernel(source, scratch.path()));
    kernels.push_back(std::move(kernel));
  }
  for (int round = 0; round < options.rounds; ++round) {
    if (options.progress) std::fprintf(stderr, "  round %d of %d\n", round + 1, options.rounds);
    for (Kernel& kernel : kernels) {
      std::vector<std::string> order = {kOurs, kWithout, kNative};
      if (round % 2 != 0) std::reverse(order.begin(), order.end());
      for (const std::string& variant : order) GODWIT_TRY(Measure(kernel, variant));
    }
  }
  const json results = Report(kernels);
  if (options.json) {
    std::printf("%s\n", BenchDocument("engine", options.source, results).c_str());
  } else {
    PrintTable(kernels);
  }
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("engine", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
