// godwit bench foreground: a device's own reads while functions near its data use all that is left of it.
//
// Reads come whether or not the last ones were answered (open loop, exponential gaps), each of 16 KiB at a random place of a dataset of 64 MiB, and
// their latency counts from when they were due. In turns: nothing else (twice: what differs between the two is noise), a scan over the dataset again and
// again, functions of a hostile service, and, as the baseline, a guest that computes as any service may. The scan's speed
// without reads is the device's idle capacity. With --cores the device's processor time is limited (godwit up: namespaces, a fast link, CPU quota; emulated), and it has a processor
// of its own, as a device has: the readers are somewhere else.
#include <fmt/format.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "bench.h"
#include "bench_cluster.h"
#include "bench_kernels.h"
#include "bench_samples.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kRoundsMax = 1000, kReaders = 4;
constexpr std::uint64_t kFastLinkMbps = 10'000;
constexpr double kReadsPerSecond = 400, kSeconds = 4;
constexpr std::size_t kTableBytes = 64 << 20, kReadBytes = 16 << 10;
constexpr const char* kScan = R"J({"columns": ["row int", "draw int", "text text"], "where": "draw < 5", "aggregates": ["count"]})J";

struct Load {
  const char* name;
  const char* method;  // Null: none.
  const char* target;
};
constexpr Load kLoads[] = {{"nothing", nullptr, ""},
                           {"nothing, again", nullptr, ""},
                           {"a scan", "POST", "/v1/data/table?run=scan"},
                           {"endless loop", "GET", "/adversary?function=spin"},
                           {"cache thrasher", "GET", "/adversary?function=thrash"},
                           {"output flood", "GET", "/adversary?function=flood"},
                           {"memory hog", "GET", "/adversary?function=hog"},
                           {"a guest as any other", "GET", "/crunch?rounds=100000"}};

class ForegroundBench {
 public:
  explicit ForegroundBench(const BenchOptions& options) : options_(options) {}

  Result<int> Run() {
    if (options_.rounds < 1 || options_.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
    GODWIT_TRY(BuildServices(options_.source, scratch_.path() / "wasm"));
    const fs::path folder = scratch_.path() / "cluster";
    fs::create_directories(folder);
    GODWIT_ASSIGN(cluster_, BenchCluster::Start(folder, {.mbps = options_.cores > 0 ? kFastLinkMbps : 0, .memory = {2ull << 30}, .there_cores = options_.cores, .there_apart = true}));
    {
      std::ofstream table(folder / "table.csv");
      std::mt19937 random(7);
      for (std::size_t row = 0, bytes = 0; bytes < kTableBytes; ++row) {
        const std::string line = fmt::format("{},{},carefully final deposits detect slyly against {}\n", row, random() % 10000, random() % 100000);
        table << line;
        bytes += line.size();
      }
    }
    GODWIT_TRY(cluster_->Godwit({"data", "put", "table", (folder / "table.csv").string(), "--to", "there", "-q"}));
    for (const char* name : {"adversary", "crunch"}) {
      const fs::path manifest = folder / (std::string(name) + ".toml");
      std::ofstream(manifest) << fmt::format(
          "[service]\nname = \"{0}\"\nkind = \"reactor\"\nstate = \"stateful\"\nsource = \"{1}\"\n[[trigger.http]]\nroute = \"/{0}\"\n[limits]\n"
          "memory = \"256Mi\"\nrequest_timeout_ms = {2}\n[data]\ntable = \"read\"\n[placement]\nrequire = {{ device = \"there\" }}\n",
          name, (scratch_.path() / "wasm" / (std::string(name) + ".wasm")).string(), static_cast<int>(kSeconds * 1000));
      GODWIT_TRY(cluster_->Godwit({"apply", "-q", "-o", "name", "-f", manifest.string()}));
    }
    GODWIT_ASSIGN(const json there, cluster_->client().Get("/v1/devices/there"));
    url_ = there.value("url", "");
    cases_.resize(std::size(kLoads));
    for (int round = 0; round < options_.rounds; ++round) {
      GODWIT_ASSIGN(const double alone, ScanAlone());
      alone_.values.push_back(alone);
      for (std::size_t i = 0; i < std::size(kLoads); ++i) {
        if (options_.progress) std::fprintf(stderr, "\r  round %d of %d, beside: %-24s", round + 1, options_.rounds, kLoads[i].name);
        GODWIT_TRY(OneCase(kLoads[i], cases_[i]));
      }
    }
    return Report();
  }

 private:
  struct Case {
    Samples p50, p99;   // In microseconds, one of each round.
    Samples megabytes;  // A second that the load read.
  };

  // Runs the load until `ending`; bytes of the table that whole runs of it read.
  void KeepBusy(const Load& load, const std::atomic<bool>& ending, std::atomic<std::uint64_t>* bytes) {
    auto client = cluster_->client().ClientOf(url_);
    if (!client.ok()) return;
    while (!ending.load()) {
      const transport::HttpCall call{.method = load.method, .target = load.target, .body = std::string(load.method) == "POST" ? kScan : "", .timeout = std::chrono::minutes(2)};
      const auto answer = (*client)->Call(call);
      if (answer.ok() && answer->status == 200) *bytes += kTableBytes;
    }
  }

  Result<double> ScanAlone() {
    GODWIT_ASSIGN(auto client, cluster_->client().ClientOf(url_));
    const auto begin = Clock::now();
    std::uint64_t bytes = 0;
    while (Clock::now() - begin < std::chrono::seconds(1)) {
      GODWIT_ASSIGN(const auto answer, client->Call({.method = "POST", .target = kLoads[2].target, .body = kScan}));
      if (answer.status != 200) return Internal("the scan was answered " + answer.body);
      bytes += kTableBytes;
    }
    return static_cast<double>(bytes) / std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  }

  Status OneCase(const Load& load, Case& one) {
    std::atomic<bool> ending{false};
    std::atomic<std::uint64_t> bytes{0};
    std::vector<std::thread> threads;
    if (load.method != nullptr) threads.emplace_back([&] { KeepBusy(load, ending, &bytes); });
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    bytes = 0;
    std::vector<std::vector<double>> latencies(kReaders);
    std::atomic<int> failed{0};
    std::vector<std::thread> readers;
    const auto begin = Clock::now();
    for (int i = 0; i < kReaders; ++i) readers.emplace_back([&, i, seed = random_()] { Read(begin, seed, &latencies[static_cast<std::size_t>(i)], &failed); });
    for (std::thread& reader : readers) reader.join();
    one.megabytes.values.push_back(static_cast<double>(bytes.load()) / std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
    ending = true;
    for (std::thread& thread : threads) thread.join();
    if (failed.load() != 0) return Internal(fmt::format("{} reads failed", failed.load()));
    Samples all;
    for (const auto& some : latencies) all.values.insert(all.values.end(), some.begin(), some.end());
    one.p50.values.push_back(all.Median());
    one.p99.values.push_back(all.At(0.99));
    return {};
  }

  void Read(Clock::time_point begin, std::uint32_t seed, std::vector<double>* latencies, std::atomic<int>* failed) {
    auto client = cluster_->client().ClientOf(url_);
    if (!client.ok()) return void(++*failed);
    std::mt19937 random(seed);
    std::exponential_distribution<double> gap(kReadsPerSecond / kReaders);
    for (double due = gap(random); due < kSeconds; due += gap(random)) {
      const auto at = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due));
      std::this_thread::sleep_until(at);
      const std::size_t offset = random() % (kTableBytes - kReadBytes);
      const auto answer = (*client)->Call({.target = "/v1/data/table", .headers = {{"Range", fmt::format("bytes={}-{}", offset, offset + kReadBytes - 1)}}});
      if (!answer.ok() || answer->status != 206 || answer->body.size() != kReadBytes) ++*failed;
      latencies->push_back(std::chrono::duration<double, std::micro>(Clock::now() - at).count());
    }
  }

  Result<int> Report() {
    if (options_.progress) std::fprintf(stderr, "\n");
    const double quiet = cases_[0].p99.Median();
    json results = json::array();
    if (!options_.json) fmt::print("{:<24} {:>9} {:>9} {:>9} {:>9} {:>12} {:>8}\n", "BESIDE", "P50 us", "P99 us", "MIN", "MAX", "P99/NOTHING", "MB/s");
    for (std::size_t i = 0; i < cases_.size(); ++i) {
      const Case& one = cases_[i];
      results.push_back({{"case", {{"beside", kLoads[i].name}}}, {"metric", "p99 of reads"}, {"unit", "us"}, {"better", "lower"}, {"ours", one.p99.ToJson()},
                         {"baselines", {{"nothing beside", cases_[0].p99.ToJson()}}}, {"p50_us", one.p50.ToJson()}, {"emulated", Emulated()}});
      if (options_.json) continue;
      fmt::print("{:<24} {:>9.0f} {:>9.0f} {:>9.0f} {:>9.0f} {:>12.2f} {:>8}\n", kLoads[i].name, one.p50.Median(), one.p99.Median(), one.p99.Min(), one.p99.Max(),
                 one.p99.Median() / quiet, i == 2 ? fmt::format("{:.0f}", one.megabytes.Median()) : "");
    }
    results.push_back({{"case", {{"scan", "beside reads"}}}, {"metric", "throughput"}, {"unit", "MB/s"}, {"better", "higher"}, {"ours", cases_[2].megabytes.ToJson()},
                       {"baselines", {{"alone", alone_.ToJson()}}}, {"emulated", Emulated()}});
    if (!options_.json) {
      fmt::print("the scan has {:.0f} MB/s beside the reads, {:.0f} alone: {:.2f}\n", cases_[2].megabytes.Median(), alone_.Median(),
                 cases_[2].megabytes.Median() / alone_.Median());
      for (const auto& what : Emulated()) fmt::print("emulated: {}\n", what.get<std::string>());
    }
    if (options_.json) std::printf("%s\n", BenchDocument("foreground", options_.source, results).c_str());
    if (!options_.html.empty()) GODWIT_TRY(WriteBenchPage("foreground", options_.source, results, options_.html));
    return kExitDone;
  }

  json Emulated() const {
    json list = cluster_->emulated();
    if (options_.cores > 0) list.push_back(fmt::format("device of {} cores, by CPU quota", options_.cores));
    return list;
  }

  const BenchOptions& options_;
  const TemporaryFolder scratch_ = TemporaryFolder::Create().value();
  std::unique_ptr<BenchCluster> cluster_;
  std::string url_;
  std::vector<Case> cases_;
  Samples alone_;
  std::mt19937 random_{1};
};

}  // namespace

Result<int> BenchForeground(const BenchOptions& options) { return ForegroundBench(options).Run(); }

}  // namespace godwit::cli
