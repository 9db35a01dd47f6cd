// Benchmarks: what they have in common, which is how they are told what to do and how they report
// (INTERFACES).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/result.h"
#include "commands.h"

namespace godwit::cli {

#if defined(__aarch64__)
inline constexpr const char* kThisIsa = "aarch64";
#else
inline constexpr const char* kThisIsa = "x86_64";
#endif

struct BenchOptions {
  std::string source;             // The source tree's bench/.
  std::string html;               // Also write a page with plots here, unless empty.
  std::vector<std::string> only;  // These cases; empty: all.
  int rounds = 5;
  bool json = false;
  bool progress = true;
  bool simd = true;               // Kernels are built with 128-bit vectors.
  bool peers = true;              // Other engines that are installed run too.
  int stops = 10000;              // BenchStops: of all kernels together.
  // BenchMigrate: live moves of each case, and what the cases are made of. A link of 0: the loopback interface.
  int moves = 4;
  std::vector<int> memory_mib{0, 64, 1024}, dirty_mb_s{0, 50};
  std::vector<std::uint64_t> link_mbps{0, 1000};
  bool records = false;
  bool to_aarch64 = false;   // The device that is moved to.
  double every_seconds = 0;  // One move in so many seconds, and as long without one; 0: one after the other.
  bool queries = false;
  bool cached = false;
  bool shift = false;
  double cores = 0;  // BenchForeground: of the device, by a CPU quota; 0: all.
  double scale = 0.1;
};

Result<int> BenchEngine(const BenchOptions& options);
Result<int> BenchStops(const BenchOptions& options);
Result<int> BenchStart(const BenchOptions& options);
Result<int> BenchMigrate(const BenchOptions& options);
Result<int> BenchLink(const BenchOptions& options);
Result<int> BenchDevice(const BenchOptions& options);
Result<int> BenchForeground(const BenchOptions& options);
Result<int> BenchOffload(const BenchOptions& options);
Result<int> BenchFunction(const BenchOptions& options);

// {"bench","commit","machine","results"}: the document of one benchmark.
std::string BenchDocument(const std::string& bench, const std::string& source, const nlohmann::json& results);
// The same as a page of its own: a bar per case and series, with its spread, and the numbers below.
Status WriteBenchPage(const std::string& bench, const std::string& source, const nlohmann::json& results,
                      const std::string& file);

}  // namespace godwit::cli
