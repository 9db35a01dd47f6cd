// godwit bench offload: a filter over a table on another device, for results of 0.01 % to all of it; with --queries, questions after TPC-H's.
//
// Three ways, in turns: at the device that holds the data (only the result comes over the link), at home (all data comes), and
// as `auto` has it: a service that says `offload` and leaves the place to the prediction. The oracle is the better of the first two.
// Beside them, policies that others published, replayed over the times that the first two took in this run: lambda-IO's rule and Kayak's split.
// With --cached the agent at home has room for a copy of the table, which `auto` makes when that pays; 'home' is the same question to that agent, over the same table as
// a dataset of its own.
// With --shift one question is asked all the time, and in the middle third somebody else has the device work too: a sudden load, and its sudden end.
// The device has a quarter of a core and a link of --link Mbit/s (godwit up: namespaces, tc, CPU quota; emulated).
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>
#include <utility>

#include "bench.h"
#include "bench_cluster.h"
#include "bench_kernels.h"
#include "bench_tables.h"
#include "bench_samples.h"
#include "device/built_in.h"
#include "device/engine.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr int kRoundsMax = 1000, kWarmUps = 3;
constexpr int kWarmUpsOfCopies = 7;  // In which the first case may copy.
constexpr double kDeviceCores = 0.25;
constexpr std::uint64_t kRoomForCopies = 1ull << 30;
constexpr int kShiftedShare = 1000;
constexpr int kShares[] = {1, 10, 100, 1000, 5000, 10000};  // Of 10,000 rows.
constexpr std::chrono::minutes kCallTimeout{5};

double SinceMs(Clock::time_point begin) { return std::chrono::duration<double, std::milli>(Clock::now() - begin).count(); }

std::string Arguments(int share) {
  return json{{"columns", {"row int", "draw int", "quantity int", "price decimal(2)", "day date", "comment text"}},
              {"where", fmt::format("draw < {}", share)},
              {"select", {"row", "draw", "quantity", "price", "day", "comment"}}}
      .dump();
}

// The data in this process, and the same function over it.
class Fetched final : public device::Storage {
 public:
  void Put(std::string text) {
    const auto owner = std::make_shared<const std::string>(std::move(text));
    table_ = std::make_shared<device::BytesSource>(AsBytes(*owner), owner);
  }
  Result<std::shared_ptr<const device::Source>> Open(const std::string&, const std::string&) override { return table_; }
  Status Create(const std::string&, const std::string&, ByteView) override { return Unsupported("only read"); }

 private:
  std::shared_ptr<const device::Source> table_;
};

struct Way {
  Samples ms, link_mb;
};

struct Case {
  std::string name;
  std::size_t result_bytes = 0;
  Way device, home, automatic;
  double automatic_all_ms = 0;
  double regret_ms = 0;  // Of all of auto's requests, warm-ups and exploration too: what they took beyond the better way in the same round.
  double lambda_io_ms = 0, kayak_ms = 0;
};

// lambda-IO (FAST '23): 5 of every 200 requests run on both sides and refresh the averages; the others go to the device where t_dev < t_calc + t_fetch x (1 - cached).
// Nothing is cached here, so that the right side is the time at home. A request on both sides takes as long as the slower one.
class LambdaIo {
 public:
  double Next(double device_ms, double home_ms) {
    if (number_++ % 200 < 5) {
      device_ = device_ == 0 ? device_ms : (device_ + device_ms) / 2;
      home_ = home_ == 0 ? home_ms : (home_ + home_ms) / 2;
      return std::max(device_ms, home_ms);
    }
    return device_ < home_ ? device_ms : home_ms;
  }

 private:
  int number_ = 0;
  double device_ = 0, home_ = 0;
};

// Kayak (NSDI '21): a share of the requests goes to the device; every 10 requests it moves on in the direction that made them faster.
class Kayak {
 public:
  double Next(double device_ms, double home_ms) {
    const double took = (random_() % 1000) < share_ * 1000 ? device_ms : home_ms;
    sum_ += took;
    if (++number_ % kWindow == 0) {
      if (last_ != 0 && sum_ > last_) step_ = -step_;
      last_ = std::exchange(sum_, 0);
      share_ = std::clamp(share_ + step_, 0.0, 1.0);
    }
    return took;
  }

 private:
  static constexpr int kWindow = 10;
  std::mt19937 random_{3};
  int number_ = 0;
  double share_ = 0.5, step_ = 0.1, sum_ = 0, last_ = 0;
};

constexpr int kReplayed = 200;  // Requests of each case.

// A service on the device that goes through the same table, again and again, and has little output: its pieces are long.
class SomebodyElse {
 public:
  explicit SomebodyElse(std::unique_ptr<transport::HttpClient> client) : client_(std::move(client)), thread_([this](const std::stop_token& stop) { Main(stop); }) {}

 private:
  void Main(const std::stop_token& stop) {
    const transport::HttpCall call{.method = "POST", .target = "/busy?run=scan", .body = Arguments(kShares[0]), .timeout = kCallTimeout};
    while (!stop.stop_requested()) static_cast<void>(client_->Stream(call, [&](std::string_view) { return !stop.stop_requested(); }).ok());
  }

  const std::unique_ptr<transport::HttpClient> client_;
  std::jthread thread_;
};

class OffloadBench {
 public:
  explicit OffloadBench(const BenchOptions& options) : options_(options) {}

  Result<int> Run() {
    if (options_.rounds < 1 || options_.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
    GODWIT_TRY(BuildServices(options_.source, scratch_.path() / "wasm"));
    const fs::path folder = scratch_.path() / "cluster";
    fs::create_directories(folder);
    const std::uint64_t mbps = options_.link_mbps.empty() || options_.link_mbps[0] == 0 ? 1000 : options_.link_mbps.back();
    GODWIT_ASSIGN(cluster_, BenchCluster::Start(folder, {.mbps = mbps, .memory = {1ull << 30}, .there_cores = kDeviceCores, .data_cache = {options_.cached ? kRoomForCopies : 0}}));
    {
      std::ofstream table(folder / "table.csv");
      if (options_.queries) WriteLineitem(options_.scale, [&](std::string_view piece) { table << piece; });
      else table << FilterTable();
      if (!table.flush()) return ErrnoError((folder / "table.csv").string());
    }
    GODWIT_TRY(cluster_->Godwit({"data", "put", "table", (folder / "table.csv").string(), "--to", "there", "-q"}));
    if (options_.cached) GODWIT_TRY(cluster_->Godwit({"data", "put", "copy", (folder / "table.csv").string(), "--to", "here", "-q"}));
    GODWIT_TRY(cluster_->ApplyReader("report", scratch_.path() / "wasm", folder));
    GODWIT_ASSIGN(here_, cluster_->client().ClientOf(cluster_->gateway()));
    GODWIT_ASSIGN(const json there, cluster_->client().Get("/v1/devices/there"));
    GODWIT_ASSIGN(there_, cluster_->client().ClientOf(there.value("url", "")));
    if (options_.shift) {
      GODWIT_TRY(OneCase("quiet", Arguments(kShiftedShare), warm_ups()));
      {
        GODWIT_ASSIGN(Client other, cluster_->client().ClientOf(there.value("url", "")));
        fs::copy_file(scratch_.path() / "wasm" / "report.wasm", scratch_.path() / "wasm" / "busy.wasm");
        GODWIT_TRY(cluster_->ApplyReader("busy", scratch_.path() / "wasm", folder, "there"));
        const SomebodyElse somebody(std::move(other));
        GODWIT_TRY(OneCase("loaded", Arguments(kShiftedShare), 0));
      }
      GODWIT_TRY(OneCase("quiet again", Arguments(kShiftedShare), 0));
    } else if (options_.queries) {
      for (const LineitemQuestion& question : LineitemQuestions()) GODWIT_TRY(OneCase(question.name, question.arguments, warm_ups()));
    } else {
      for (const int share : kShares) GODWIT_TRY(OneCase(fmt::format("{} %", share / 100.0), Arguments(share), warm_ups()));
    }
    Replay();
    return Report();
  }

 private:
  // A CPU quota is by periods of 100 ms: what one way has used must not be the next one's.
  // And none of them may always begin at the same place of a period.
  void Settle() { std::this_thread::sleep_for(std::chrono::milliseconds(200 + random_() % 100)); }

  const char* case_word() const { return options_.shift ? "DEVICE" : options_.queries ? "QUESTION" : "ROWS"; }
  int warm_ups() const { return options_.cached ? kWarmUpsOfCopies : kWarmUps; }

  using Client = std::unique_ptr<transport::HttpClient>;

  static Result<std::string> Ask(Client& client, const char* method, std::string target, std::string body) {
    std::string output;
    transport::HttpCall call{.method = method, .target = std::move(target), .body = std::move(body), .timeout = kCallTimeout};
    GODWIT_ASSIGN(const auto answer, client->Stream(call, [&](std::string_view piece) {
      output += piece;
      return true;
    }));
    if (answer.status != 200) return Internal(fmt::format("{} answered {}: {}", call.target, answer.status, answer.body));
    return output;
  }
  Result<std::string> AtHome(const std::string& arguments) {
    if (options_.cached) return Ask(here_, "POST", "/v1/data/copy?run=scan", arguments);
    GODWIT_ASSIGN(std::string data, Ask(there_, "GET", "/v1/data/table", ""));
    fetched_->Put(std::move(data));
    device::Request request;
    request.opcode = device::Opcode::kExecute;
    request.function = static_cast<std::uint32_t>(device::BuiltIn::kScan);
    request.name = "table";
    request.data.assign(arguments.begin(), arguments.end());
    std::string output;
    for (;;) {
      request.id++;
      device::Completion completion = engine_.Call(request);
      GODWIT_TRY(completion.status);
      output += AsText(completion.data);
      if (!completion.more) return output;
      request.state = std::move(completion.state);
    }
  }
  // Bytes that "here" has read from elsewhere.
  Result<double> Moved() {
    GODWIT_ASSIGN(const std::string text, Ask(here_, "GET", "/metrics", ""));
    const std::string_view name = "\ngodwit_data_remote_bytes_total ";
    const std::size_t at = text.find(name);
    return at == text.npos ? 0.0 : std::strtod(text.c_str() + at + name.size(), nullptr);
  }

  // The cases follow each other as a load that shifts: what a policy believes of one, it begins the next with.
  void Replay() {
    LambdaIo lambda_io;
    Kayak kayak;
    std::mt19937 random(11);
    for (Case& one : cases_) {
      for (int i = 0; i < kReplayed; ++i) {
        const double device = one.device.ms.values[random() % one.device.ms.values.size()], home = one.home.ms.values[random() % one.home.ms.values.size()];
        one.lambda_io_ms += lambda_io.Next(device, home) / kReplayed;
        one.kayak_ms += kayak.Next(device, home) / kReplayed;
      }
    }
  }

  Status OneCase(const std::string& name, const std::string& arguments, int warm_ups) {
    Case one;
    one.name = name;
    for (int round = -warm_ups; round < options_.rounds; ++round) {
      if (options_.progress) std::fprintf(stderr, "\r  %s, round %d of %d  ", name.c_str(), std::max(0, round + 1), options_.rounds);
      Settle();
      auto begin = Clock::now();
      GODWIT_ASSIGN(const std::string at_device, Ask(there_, "POST", "/v1/data/table?run=scan", arguments));
      const double device_ms = SinceMs(begin);
      Settle();
      begin = Clock::now();
      GODWIT_ASSIGN(const std::string at_home, AtHome(arguments));
      const double home_ms = SinceMs(begin);
      GODWIT_ASSIGN(const double before, Moved());
      Settle();
      begin = Clock::now();
      GODWIT_ASSIGN(const std::string automatic, Ask(here_, "POST", "/report?run=scan", arguments));
      const double automatic_ms = SinceMs(begin);
      GODWIT_ASSIGN(const double after, Moved());
      if (at_device != at_home || at_device != automatic) return Internal("the ways differ in their results");
      one.result_bytes = at_device.size();
      one.regret_ms += automatic_ms - std::min(device_ms, home_ms);
      one.automatic_all_ms += automatic_ms;
      if (round < 0) continue;
      one.device.ms.values.push_back(device_ms);
      one.home.ms.values.push_back(home_ms);
      one.automatic.ms.values.push_back(automatic_ms);
      one.automatic.link_mb.values.push_back((after - before) / 1e6);
    }
    cases_.push_back(std::move(one));
    return {};
  }

  Result<int> Report() {
    if (options_.progress) std::fprintf(stderr, "\n");
    json results = json::array();
    if (!options_.json) {
      fmt::print("{:>11} {:>10} {:>10} {:>10} {:>10} {:>12} {:>12} {:>10} {:>10} {:>10}\n", case_word(), "RESULT MB", "DEVICE ms", "HOME ms", "AUTO ms", "AUTO/ORACLE", "AUTO LINK MB",
                 "REGRET ms", "LAMBDA-IO", "KAYAK");
    }
    std::vector<double> ratios;
    for (const Case& one : cases_) {
      const double oracle = std::min(one.device.ms.Median(), one.home.ms.Median());
      ratios.push_back(one.automatic.ms.Median() / oracle);
      results.push_back({{"case", {{options_.shift ? "device" : options_.queries ? "question" : "rows", one.name}, {"result_bytes", one.result_bytes}}}, {"metric", "time"}, {"unit", "ms"},
                         {"better", "lower"}, {"ours", one.automatic.ms.ToJson()},
                         {"baselines", {{"always device", one.device.ms.ToJson()}, {"always home", one.home.ms.ToJson()}}},
                         {"auto_link_megabytes", one.automatic.link_mb.ToJson()}, {"auto_regret_ms", one.regret_ms}, {"auto_requests", options_.rounds + warm_ups()},
                         {"replayed", {{"lambda-IO", one.lambda_io_ms}, {"Kayak", one.kayak_ms}}}, {"emulated", Emulated()}});
      if (options_.json) continue;
      fmt::print("{:>11} {:>10.4f} {:>10.1f} {:>10.1f} {:>10.1f} {:>12.2f} {:>12.4f} {:>10.1f} {:>10.1f} {:>10.1f}\n", one.name, static_cast<double>(one.result_bytes) / 1e6, one.device.ms.Median(),
                 one.home.ms.Median(), one.automatic.ms.Median(), ratios.back(), one.automatic.link_mb.Median(), one.regret_ms, one.lambda_io_ms, one.kayak_ms);
    }
    if (!options_.json) {
      fmt::print("geometric mean of auto / oracle: {:.3f}\n", GeometricMean(ratios));
      if (options_.shift) {
        double automatic = 0, better = 0;
        for (const Case& one : cases_) {
          automatic += one.automatic_all_ms;
          better += one.automatic_all_ms - one.regret_ms;
        }
        fmt::print("all requests across the shifts: {:.2f} of what the better way took in the same round\n", automatic / better);
      }
      fmt::print("regret: of all {} requests of auto in the case, beyond the better way in the same round; lambda-IO, Kayak: mean ms of {} requests a case, replayed over the times measured here\n",
                 options_.rounds + warm_ups(), kReplayed);
      for (const auto& what : Emulated()) fmt::print("emulated: {}\n", what.get<std::string>());
    }
    if (options_.json) std::printf("%s\n", BenchDocument("offload", options_.source, results).c_str());
    if (!options_.html.empty()) GODWIT_TRY(WriteBenchPage("offload", options_.source, results, options_.html));
    return kExitDone;
  }
  json Emulated() const {
    json list = cluster_->emulated();
    list.push_back(fmt::format("device of {} of a core, by CPU quota", kDeviceCores));
    return list;
  }

  const BenchOptions& options_;
  const TemporaryFolder scratch_ = TemporaryFolder::Create().value();
  std::unique_ptr<BenchCluster> cluster_;
  Client here_, there_;
  std::shared_ptr<Fetched> fetched_ = std::make_shared<Fetched>();
  device::Engine engine_{{.profile = {.name = "home"}, .storage = fetched_, .programs = nullptr, .built_in = device::BuiltInFunctions()}};
  std::vector<Case> cases_;
  std::mt19937 random_{1};
};

}  // namespace

Result<int> BenchOffload(const BenchOptions& options) { return OffloadBench(options).Run(); }

}  // namespace godwit::cli
