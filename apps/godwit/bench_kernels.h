// The kernels of bench/kernels: built from one source for every engine that takes part, and run.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/fresh_file.h"
#include "base/result.h"
#include "bench_samples.h"

namespace godwit::cli {

// Names of variants, also in reports.
inline constexpr const char* kOurs = "safepoints";
inline constexpr const char* kWithout = "no safepoints";
inline constexpr const char* kNative = "native";

struct Kernel {
  std::string name;
  std::string base;                                          // Path of what was built, without its ending.
  std::map<std::string, std::vector<std::string>> commands;  // How each variant is run.
  std::map<std::string, Samples> samples;                    // Milliseconds.
  std::map<std::string, std::string> left_out;               // Variants that could not run it, and why.
  std::string checksum;

  bool Has(const std::string& variant) const { return samples.contains(variant) && !samples.at(variant).empty(); }
  double Ratio(const std::string& other) const { return samples.at(kOurs).Median() / samples.at(other).Median(); }
  double RatioOfMinima(const std::string& other) const { return samples.at(kOurs).Min() / samples.at(other).Min(); }
};

enum class Vectors { kSimd128, kNone };

// The sources in `folder`, sorted; all, or those that `only` names.
Result<std::vector<std::filesystem::path>> KernelSources(const std::filesystem::path& folder,
                                                         const std::vector<std::string>& only);

// Builds the Wasm module, both packages and the native program (clang -O3 for the ISA's baseline: SSE2 on x86-64)
// into `folder`.
Result<Kernel> BuildKernel(const std::filesystem::path& source, const std::filesystem::path& folder, Vectors vectors);

// One process of one variant: adds its timed rounds. Every variant must compute the same.
Status Measure(Kernel& kernel, const std::string& variant);

// Reads "nanoseconds checksum" lines of a kernel into `samples`; kInternal if it computed something else than before.
Status ReadRounds(Kernel& kernel, const std::string& variant, const std::string& output);

// Another engine on this machine.
struct Peer {
  std::string name;     // "v8", "wasmtime", ...
  std::string version;
};
// Those that are installed: node's V8 (optimising compiler only), wasmtime, wasmer, iwasm (with wamrc), wasmedge.
std::vector<Peer> FindPeers();
// Makes `kernel.commands[peer.name]`, compiling ahead of time where the peer does. Failure is noted in left_out.
void PreparePeer(const Peer& peer, const std::filesystem::path& folder, Kernel& kernel);

// Bytes of machine code in a package's image for this ISA.
struct CodeSizes {
  std::uint64_t hot = 0;   // What runs undisturbed: section .text.
  std::uint64_t cold = 0;  // Stops, traps, resume clones: sections of their own.
};
Result<CodeSizes> MeasureCode(const std::filesystem::path& package);

}  // namespace godwit::cli
