// godwit bench function: a function of a service's own over a dataset on another device, beside the same source compiled for the machine.
//
// Ours is what the agents measured for each byte of data, showing the data to the function and taking its output included: the time that the device's
// processor worked, and the time in which the device was busy, where it also waits for a processor that this bench, both agents and the gateway share.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench.h"
#include "bench_cluster.h"
#include "bench_kernels.h"
#include "bench_tables.h"
#include "bench_samples.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr int kRoundsMax = 1000, kWarmUps = 3;

class FunctionBench {
 public:
  explicit FunctionBench(const BenchOptions& options) : options_(options) {}

  Result<int> Run() {
    if (options_.rounds < 1 || options_.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
    GODWIT_TRY(Prepare());
    for (int round = -kWarmUps; round < options_.rounds; ++round) {
      GODWIT_ASSIGN(const std::size_t ours_bytes, Ours(round >= 0));
      GODWIT_ASSIGN(const std::size_t native_bytes, Native(round >= 0));
      if (ours_bytes != native_bytes) return Internal(fmt::format("the function gave {} bytes, the native program {}", ours_bytes, native_bytes));
    }
    return Report();
  }

 private:
  Status Prepare() {
    GODWIT_TRY(BuildServices(options_.source, scratch_.path() / "wasm"));
    const fs::path folder = scratch_.path() / "cluster", source = fs::path(options_.source) / "../services/filter.c";
    fs::create_directories(folder);
    native_ = (folder / "filter").string();
    GODWIT_TRY(RunOrFail({"clang-19", "-O3", "-DGODWIT_NATIVE", source.string(), "-o", native_}));
    table_ = (folder / "table.csv").string();
    std::ofstream table(table_);
    table << FilterTable();
    if (!table.flush()) return ErrnoError(table_);
    GODWIT_ASSIGN(cluster_, BenchCluster::Start(folder, {.memory = {1ull << 30}}));
    GODWIT_TRY(cluster_->Godwit({"data", "put", "table", table_, "--to", "there", "-q"}));
    GODWIT_TRY(cluster_->ApplyReader("filter", scratch_.path() / "wasm", folder));
    GODWIT_ASSIGN(here_, cluster_->client().ClientOf(cluster_->gateway()));
    return {};
  }

  // Its bytes of output.
  Result<std::size_t> Ours(bool counts) {
    std::size_t bytes = 0;
    GODWIT_ASSIGN(const auto answer, here_->Stream({.method = "POST", .target = "/filter", .timeout = std::chrono::minutes(5)}, [&](std::string_view piece) {
      bytes += piece.size();
      return true;
    }));
    if (answer.status != 200) return Internal("/filter answered " + std::to_string(answer.status) + ": " + answer.body);
    GODWIT_ASSIGN(const auto told, here_->Call({.target = "/v1/offloads"}));
    const json offloads = json::parse(told.body, nullptr, false);
    for (const json& one : offloads.value("functions", json::array())) {
      if (!counts || one.value("device", "") != "there" || one.value("function", "").find("filter_rows") == std::string::npos) continue;
      worked_.values.push_back(one.value("cpu_ns_per_byte", 0.0));
      busy_.values.push_back(one.value("ns_per_byte", 0.0));
    }
    if (counts && worked_.empty()) return Internal("the agent measured no run of the function at the device: " + told.body);
    return bytes;
  }
  Result<std::size_t> Native(bool counts) {
    GODWIT_ASSIGN(const Finished finished, RunProcess({native_, table_, "1"}, Complaints::kPassOn));
    double ns = 0;
    std::size_t bytes = 0;
    if (finished.code != 0 || !(std::istringstream(finished.output) >> ns >> bytes)) return Internal("the native program did not run");
    if (counts) native_samples_.values.push_back(ns);
    return bytes;
  }

  Result<int> Report() const {
    const double worked = worked_.Median(), native = native_samples_.Median();
    json results = json::array();
    for (const auto& [metric, ours] : {std::pair("processor time per byte", &worked_), std::pair("busy time per byte", &busy_)}) {
      results.push_back({{"case", {{"function", "filter_rows"}}}, {"metric", metric}, {"unit", "ns"}, {"better", "lower"}, {"ours", ours->ToJson()},
                         {"baselines", {{"native C, clang -O3", native_samples_.ToJson()}}}, {"emulated", json::array()}});
    }
    if (options_.json) {
      std::printf("%s\n", BenchDocument("function", options_.source, results).c_str());
    } else {
      fmt::print("filter_rows over {:.0f} MB: ours {:.3f} ns/B of processor time ({:.2f} GB/s), native {:.3f} ns/B ({:.2f} GB/s): {:.0f} % of native\n",
                 static_cast<double>(fs::file_size(table_)) / 1e6, worked, 1 / worked, native, 1 / native, 100 * native / worked);
      fmt::print("with its waits for a processor, beside both agents, the gateway and the client on this machine: {:.3f} ns/B, {:.0f} %\n", busy_.Median(),
                 100 * native / busy_.Median());
    }
    if (!options_.html.empty()) GODWIT_TRY(WriteBenchPage("function", options_.source, results, options_.html));
    return kExitDone;
  }

  const BenchOptions& options_;
  const TemporaryFolder scratch_ = TemporaryFolder::Create().value();
  std::string native_, table_;
  std::unique_ptr<BenchCluster> cluster_;
  std::unique_ptr<transport::HttpClient> here_;
  Samples worked_, busy_, native_samples_;
};

}  // namespace

Result<int> BenchFunction(const BenchOptions& options) { return FunctionBench(options).Run(); }

}  // namespace godwit::cli
