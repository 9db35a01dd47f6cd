// godwit bench engine: how fast code runs that can be stopped anywhere.
//
// Each kernel of bench/kernels runs as a Wasm program with safepoints, as one built without them, natively, and in the
// other engines that are installed. They take turns, so that a noisy machine is noisy for all; start-up is left
// out, since kernels time themselves, in processor time.
#include <fmt/format.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench.h"
#include "bench_kernels.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

constexpr int kRoundsMax = 1000;

// The kernels that `variant` ran too.
std::vector<double> Ratios(const std::vector<Kernel>& kernels, const std::string& variant,
                           double (Kernel::*ratio)(const std::string&) const) {
  std::vector<double> all;
  for (const Kernel& kernel : kernels) {
    if (kernel.Has(variant)) all.push_back((kernel.*ratio)(variant));
  }
  return all;
}

json Summary(const json& what, const std::string& metric, const std::vector<double>& all) {
  const Samples spread{all};
  return {{"case", what},
          {"metric", metric},
          {"unit", "ratio"},
          {"better", "lower"},
          {"ours", {{"median", GeometricMean(all)}, {"min", spread.Min()}, {"max", spread.Max()}, {"p99", spread.At(0.99)}, {"n", all.size()}}},
          {"baselines", json::object()},
          {"emulated", json::array()}};
}

struct Sizes {
  std::vector<double> hot, all;  // Relative to the same code without safepoints.
};

json Report(const std::vector<Kernel>& kernels, const std::vector<std::string>& others, const Sizes& sizes) {
  json results = json::array();
  for (const Kernel& kernel : kernels) {
    json baselines = json::object();
    for (const std::string& other : others) {
      if (kernel.Has(other)) baselines[other] = kernel.samples.at(other).ToJson();
    }
    results.push_back({{"case", {{"kernel", kernel.name}}}, {"metric", "time"}, {"unit", "ms"}, {"better", "lower"},
                       {"ours", kernel.samples.at(kOurs).ToJson()}, {"baselines", baselines}, {"emulated", json::array()}});
  }
  for (const std::string& other : others) {
    const auto medians = Ratios(kernels, other, &Kernel::Ratio);
    if (medians.empty()) continue;
    results.push_back(Summary({{"kernel", "geometric mean"}, {"of", "medians"}}, "time relative to " + other, medians));
    results.push_back(Summary({{"kernel", "geometric mean"}, {"of", "minima"}}, "time relative to " + other,
                              Ratios(kernels, other, &Kernel::RatioOfMinima)));
  }
  results.push_back(Summary({{"kernel", "geometric mean"}, {"of", "hot code"}}, "code relative to no safepoints", sizes.hot));
  results.push_back(Summary({{"kernel", "geometric mean"}, {"of", "all code"}}, "code relative to no safepoints", sizes.all));
  return results;
}

void PrintTable(const std::vector<Kernel>& kernels, const std::vector<std::string>& others, const Sizes& sizes) {
  fmt::print("{:<14} {:>10} {:>15}", "KERNEL", "MEDIAN MS", "SPREAD");
  for (const std::string& other : others) fmt::print(" {:>14}", "/ " + other);
  fmt::print(" {:>9} {:>9}\n", "HOT CODE", "ALL CODE");
  for (std::size_t i = 0; i < kernels.size(); ++i) {
    const Kernel& kernel = kernels[i];
    const Samples& ours = kernel.samples.at(kOurs);
    fmt::print("{:<14} {:>10.2f} {:>15}", kernel.name, ours.Median(), fmt::format("{:.1f}-{:.1f}", ours.Min(), ours.Max()));
    for (const std::string& other : others) {
      fmt::print(" {:>14}", kernel.Has(other) ? fmt::format("{:.3f}", kernel.Ratio(other)) : "-");
    }
    fmt::print(" {:>9.2f} {:>9.2f}\n", sizes.hot[i], sizes.all[i]);
  }
  for (const std::string& other : others) {
    const auto medians = Ratios(kernels, other, &Kernel::Ratio);
    if (medians.empty()) continue;
    fmt::print("geometric mean of {} kernels / {}: {:.3f} (of minima {:.3f}), worst {:.3f}\n", medians.size(), other,
               GeometricMean(medians), GeometricMean(Ratios(kernels, other, &Kernel::RatioOfMinima)), Samples{medians}.Max());
  }
  fmt::print("code relative to no safepoints: hot {:.2f} (worst {:.2f}), with resume clones {:.2f} (worst {:.2f})\n",
             GeometricMean(sizes.hot), Samples{sizes.hot}.Max(), GeometricMean(sizes.all), Samples{sizes.all}.Max());
  for (const Kernel& kernel : kernels) {
    for (const auto& [peer, why] : kernel.left_out) fmt::print("{} did not run {}: {}\n", peer, kernel.name, why);
  }
}

}  // namespace

Result<int> BenchEngine(const BenchOptions& options) {
  if (options.rounds < 1 || options.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
  GODWIT_ASSIGN(const auto sources, KernelSources(std::filesystem::path(options.source) / "kernels", options.only));
  const TemporaryFolder scratch = TemporaryFolder::Create().value();
  if (scratch.path().empty()) return ErrnoError("cannot make a temporary folder");
  const std::vector<Peer> peers = options.peers ? FindPeers() : std::vector<Peer>();
  std::vector<std::string> others = {kWithout, kNative};
  for (const Peer& peer : peers) {
    others.push_back(peer.name);
    if (options.progress) std::fprintf(stderr, "  beside %s %s\n", peer.name.c_str(), peer.version.c_str());
  }
  std::vector<Kernel> kernels;
  Sizes sizes;
  for (const auto& source : sources) {
    if (options.progress) std::fprintf(stderr, "  building %s\n", source.stem().c_str());
    GODWIT_ASSIGN(Kernel kernel, BuildKernel(source, scratch.path(), options.simd ? Vectors::kSimd128 : Vectors::kNone));
    for (const Peer& peer : peers) PreparePeer(peer, scratch.path(), kernel);
    GODWIT_ASSIGN(const CodeSizes on, MeasureCode(kernel.base + ".on.gwp"));
    GODWIT_ASSIGN(const CodeSizes off, MeasureCode(kernel.base + ".off.gwp"));
    sizes.hot.push_back(static_cast<double>(on.hot) / static_cast<double>(off.hot));
    sizes.all.push_back(static_cast<double>(on.hot + on.cold) / static_cast<double>(off.hot + off.cold));
    kernels.push_back(std::move(kernel));
  }
  for (int round = 0; round < options.rounds; ++round) {
    if (options.progress) std::fprintf(stderr, "  round %d of %d\n", round + 1, options.rounds);
    for (Kernel& kernel : kernels) {
      std::vector<std::string> order = {kOurs};
      order.insert(order.end(), others.begin(), others.end());
      if (round % 2 != 0) std::reverse(order.begin(), order.end());
      for (const std::string& variant : order) {
        if (!kernel.commands.contains(variant)) continue;
        const Status measured = Measure(kernel, variant);
        if (measured.ok()) continue;
        const bool own = variant == kOurs || variant == kWithout || variant == kNative;
        if (own) return measured.error();
        kernel.left_out[variant] = measured.error().message;  // Another engine's fault is reported, and not ours to end with.
        kernel.commands.erase(variant);
        kernel.samples.erase(variant);
      }
    }
  }
  const json results = Report(kernels, others, sizes);
  if (options.json) {
    std::printf("%s\n", BenchDocument("engine", options.source, results).c_str());
  } else {
    PrintTable(kernels, others, sizes);
  }
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("engine", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
