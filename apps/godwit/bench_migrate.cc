// godwit bench migrate: moves a service with so much memory, which changes so fast, over such a link, while a client asks.
//
// The service is services/dirty.c. Each move's figures are the migration record's own; beside them stands what the client
// saw: it asks every millisecond, and what it waits counts from when it meant to ask. Baselines from the same run: the
// same move as plain stop-and-copy (the guest stands still while all is sent), and the memory's bytes through one TCP
// connection into memory that nobody has touched.
#include <arpa/inet.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>
#include <mutex>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "bench.h"
#include "bench_cluster.h"
#include "bench_kernels.h"
#include "print.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kAskEvery{1}, kAround{250}, kCallTimeout{600'000};
constexpr int kDirtyMs = 100;        // A request that writes lasts so long; the next one follows.
constexpr int kMovesMax = 10'000;
constexpr int kMemoryMaxMib = 4000;  // services/dirty.c
constexpr double kMoveSeconds = 600;

// One answer that the client got: when it meant to ask, and how long it waited from then on.
struct Answer {
  Clock::time_point meant;
  double ms;
};

// What the service needed for a page that it wrote, on average over a request.
struct Writing {
  Clock::time_point from, to;
  double us;
};

// Asks the service every millisecond, and makes it write, on threads of its own until it is dropped.
class Client {
 public:
  Client(std::unique_ptr<transport::HttpClient> asking, std::unique_ptr<transport::HttpClient> writing, int mb_s)
      : asking_(std::move(asking)), writing_(std::move(writing)) {
    threads_.emplace_back([this] { Ask(); });
    if (mb_s != 0) threads_.emplace_back([this, mb_s] { Write(mb_s); });
  }
  ~Client() {
    stop_ = true;
    for (std::thread& thread : threads_) thread.join();
  }
  // Answers to what was meant to be asked in [from, to].
  std::vector<Answer> Between(Clock::time_point from, Clock::time_point to) {
    const std::lock_guard lock(mutex_);
    std::vector<Answer> found;
    for (const Answer& answer : answers_) {
      if (answer.meant >= from && answer.meant <= to) found.push_back(answer);
    }
    return found;
  }
  // Of requests that lie within [from, to].
  std::vector<double> WritingBetween(Clock::time_point from, Clock::time_point to) {
    const std::lock_guard lock(mutex_);
    std::vector<double> found;
    for (const Writing& one : writings_) {
      if (one.from >= from && one.to <= to) found.push_back(one.us);
    }
    return found;
  }
  // Of requests that were not answered well.
  std::uint64_t failed() const { return failed_; }

 private:
  void Ask() {
    for (auto next = Clock::now(); !stop_;) {
      std::this_thread::sleep_until(next);
      const auto answer = asking_->Call({.target = "/dirty", .timeout = kCallTimeout});
      if (!answer.ok() || answer->status != 200) ++failed_;
      const auto now = Clock::now();
      const std::lock_guard lock(mutex_);
      // All that it meant to ask meanwhile waited as well.
      for (; next <= now; next += kAskEvery) answers_.push_back({next, std::chrono::duration<double, std::milli>(now - next).count()});
    }
  }
  void Write(int mb_s) {
    while (!stop_) {
      const auto begin = Clock::now();
      const auto answer = writing_->Call({.target = fmt::format("/dirty?mb_s={}&ms={}", mb_s, kDirtyMs), .timeout = kCallTimeout});
      double pages = 0, busy_ns = 0;
      if (!answer.ok() || answer->status != 200 || !(std::istringstream(answer->body) >> pages >> busy_ns)) ++failed_;
      if (pages == 0) continue;
      const std::lock_guard lock(mutex_);
      writings_.push_back({begin, Clock::now(), busy_ns / 1000 / pages});
    }
  }

  std::unique_ptr<transport::HttpClient> asking_, writing_;
  std::atomic<bool> stop_{false};
  std::atomic<std::uint64_t> failed_{0};
  std::mutex mutex_;
  std::vector<Answer> answers_;
  std::vector<Writing> writings_;
  std::vector<std::thread> threads_;
};

double Longest(const std::vector<Answer>& answers) {
  double most = 0;
  for (const Answer& answer : answers) most = std::max(most, answer.ms);
  return most;
}

// How far throughput fell: of what was to be answered within a window of 50 ms, the share in the worst one that was not, and for how long more than
// a tenth was not.
struct Dip {
  double share = 0, ms = 0;
};
Dip DipOf(const std::vector<Answer>& answers) {
  constexpr double kWindowMs = 50, kEnough = 0.9;
  std::map<std::int64_t, std::pair<int, int>> windows;  // What was asked, and answered in time.
  for (const Answer& answer : answers) {
    auto& [asked, answered] = windows[static_cast<std::int64_t>(std::chrono::duration<double, std::milli>(answer.meant - answers.front().meant).count() / kWindowMs)];
    ++asked;
    answered += answer.ms <= kWindowMs;
  }
  Dip dip;
  for (const auto& [number, counts] : windows) {
    const double share = static_cast<double>(counts.second) / counts.first;
    dip.share = std::max(dip.share, 1 - share);
    if (share < kEnough) dip.ms += kWindowMs;
  }
  return dip;
}

// Milliseconds for `bytes` through one TCP connection of the loopback interface into fresh memory.
Result<double> CopyByTcp(std::size_t bytes) {
  const int listening = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  const bool bound = listening >= 0 && bind(listening, reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(listening, 1) == 0 &&
                     getsockname(listening, reinterpret_cast<sockaddr*>(&address), &size) == 0;
  if (!bound) return ErrnoError("making a TCP connection");
  const auto map = [&] {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory != MAP_FAILED) madvise(memory, bytes, MADV_HUGEPAGE);  // As ours has them.
    return memory;
  };
  void* const source = map();
  void* const target = map();
  if (source == MAP_FAILED || target == MAP_FAILED) return ErrnoError("mapping memory");
  std::memset(source, 1, bytes);
  const int sending = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(sending, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return ErrnoError("connecting");
  const int receiving = accept(listening, nullptr, nullptr);
  const auto begin = Clock::now();
  std::thread sender([&] {
    for (std::size_t done = 0; done < bytes;) {
      const ssize_t sent = send(sending, static_cast<char*>(source) + done, std::min<std::size_t>(bytes - done, 1 << 20), 0);
      if (sent <= 0) break;
      done += static_cast<std::size_t>(sent);
    }
  });
  std::size_t received = 0;
  while (received < bytes) {
    const ssize_t got = recv(receiving, static_cast<char*>(target) + received, std::min<std::size_t>(bytes - received, 1 << 20), 0);
    if (got <= 0) break;
    received += static_cast<std::size_t>(got);
  }
  const double ms = std::chrono::duration<double, std::milli>(Clock::now() - begin).count();
  sender.join();
  for (const int fd : {sending, receiving, listening}) close(fd);
  munmap(source, bytes);
  munmap(target, bytes);
  if (received != bytes) return Internal("the TCP connection broke");
  return ms;
}

// What was measured of one way to move.
struct Moves {
  Samples downtime_ms, total_ms, stop_us, client_ms, sent_share, rounds, sent_mbps, slowed, dip, dip_ms;
};

// One memory size, one rate of change, one link.
struct Case {
  std::string link;
  int mib = 0, mb_s = 0;
  Moves live, standing;
  Samples tcp_ms, rest_ms;  // The client's p99.9 while nothing moves.
  Samples copying_us, rest_us;  // What a page takes that the guest writes, while its memory is copied live and while nothing moves.
  Samples steady_ms, steady_rest_ms;  // With --every, what the client waited in the stretches with a move and in those without.
  std::uint64_t failed = 0;
  std::string refused;  // Why a live move gave up, and the case with it; empty: none did.
  std::vector<std::pair<double, double>> timeline;  // Around the last live move: ms since its begin, ms waited.
  std::vector<std::string> emulated;
};

class MigrateBench {
 public:
  explicit MigrateBench(const BenchOptions& options) : options_(options) {}

  Result<int> Run() {
    if (options_.moves < 1 || options_.moves > kMovesMax) return InvalidArgument("--moves must be between 1 and 10000");
    for (const int mib : options_.memory_mib) {
      if (mib < 0 || mib > kMemoryMaxMib) return InvalidArgument(fmt::format("--memory: MiB between 0 and {}", kMemoryMaxMib));
    }
    if (options_.to_aarch64 && std::string_view(kThisIsa) == "aarch64") return InvalidArgument("--to-aarch64: this machine is AArch64");
    GODWIT_TRY(BuildServices(options_.source, scratch_.path() / "wasm"));
    for (const std::uint64_t mbps : options_.link_mbps) GODWIT_TRY(OverLink(mbps));
    return Report();
  }

 private:
  Status OverLink(std::uint64_t mbps) {
    const fs::path folder = scratch_.path() / std::to_string(mbps);
    fs::create_directories(folder);
    GODWIT_ASSIGN(const auto cluster, BenchCluster::Start(folder, {.mbps = mbps, .memory = {10ull << 30}, .there_aarch64 = options_.to_aarch64}));
    std::ofstream(folder / "dirty.toml") << fmt::format(
        "[service]\nname = \"dirty\"\nkind = \"reactor\"\nstate = \"stateful\"\nsource = \"{}\"\n"
        "[[trigger.http]]\nroute = \"/dirty\"\nconcurrency = 8\n[limits]\nmemory = \"4Gi\"\nrequest_timeout_ms = 600000\n"
        "[placement]\nprefer = {{ device = \"here\" }}\n",
        (scratch_.path() / "wasm/dirty.wasm").string());
    GODWIT_TRY(cluster->Godwit({"apply", "-q", "-o", "name", "-f", (folder / "dirty.toml").string()}));
    for (const int mib : options_.memory_mib) {
      GODWIT_ASSIGN(const auto client, cluster->client().ClientOf(cluster->gateway()));
      GODWIT_ASSIGN(const auto filled, client->Call({.target = fmt::format("/dirty?mib={}{}", mib, options_.records ? "&records=1" : ""), .timeout = kCallTimeout}));
      if (filled.status != 200) return Internal("the service could not fill its memory: " + filled.body);
      for (const int mb_s : options_.dirty_mb_s) {
        if (mib == 0 && mb_s != 0) continue;
        GODWIT_TRY(OneCase(*cluster, mbps, mib, mb_s));
      }
    }
    return {};
  }

  Status OneCase(BenchCluster& cluster, std::uint64_t mbps, int mib, int mb_s) {
    Case one;
    one.link = mbps == 0 ? "loopback" : fmt::format("{} Mbit/s", mbps);
    one.mib = mib;
    one.mb_s = mb_s;
    one.emulated = cluster.emulated();
    if (options_.progress) std::fprintf(stderr, "  %s, %d MiB, %d MB/s\n", one.link.c_str(), mib, mb_s);
    GODWIT_ASSIGN(auto asking, cluster.client().ClientOf(cluster.gateway()));
    GODWIT_ASSIGN(auto writing, cluster.client().ClientOf(cluster.gateway()));
    Client client(std::move(asking), std::move(writing), mb_s);
    if (options_.every_seconds > 0) {
      GODWIT_TRY(Steady(cluster, client, one));
    } else {
      GODWIT_TRY(InTurns(cluster, client, one, mbps == 0 && mib != 0));
    }
    one.failed = client.failed();
    cases_.push_back(std::move(one));
    return {};
  }

  // A move and, as long, none: each client's request counts.
  Status Steady(BenchCluster& cluster, Client& client, Case& one) {
    const auto stretch = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.every_seconds));
    std::vector<Clock::time_point> begins;  // Without and with a move by turns.
    std::this_thread::sleep_for(2 * kAround);  // Connections are made, code is warm.
    while (static_cast<int>(begins.size()) < 2 * options_.moves && one.refused.empty()) {
      const bool moves = begins.size() % 2 == 1;
      begins.push_back(Clock::now());
      if (moves) GODWIT_TRY(Move(cluster, client, one, true));
      std::this_thread::sleep_until(begins.back() + stretch);
      if (moves && options_.to_aarch64) GODWIT_TRY(MoveBack(cluster));
    }
    std::this_thread::sleep_for(kAround);  // The last answers come.
    for (std::size_t i = 0; i < begins.size(); ++i) {
      for (const Answer& answer : client.Between(begins[i], begins[i] + stretch)) (i % 2 == 1 ? one.steady_ms : one.steady_rest_ms).values.push_back(answer.ms);
    }
    return {};
  }

  Status InTurns(BenchCluster& cluster, Client& client, Case& one, bool with_tcp) {
    for (int i = 0; i < options_.moves && one.refused.empty(); ++i) {
      if (with_tcp) {
        GODWIT_ASSIGN(const double ms, CopyByTcp(static_cast<std::size_t>(one.mib) << 20));
        one.tcp_ms.values.push_back(ms);
      }
      const auto begin = Clock::now();
      std::this_thread::sleep_until(begin + 2 * kAround);
      Samples rest;
      for (const Answer& answer : client.Between(begin, Clock::now())) rest.values.push_back(answer.ms);
      if (!rest.empty()) one.rest_ms.values.push_back(rest.At(0.999));
      for (const double us : client.WritingBetween(begin, Clock::now())) one.rest_us.values.push_back(us);
      if (options_.to_aarch64) {
        for (const bool live : {i % 2 == 0, i % 2 != 0}) {
          GODWIT_TRY(Move(cluster, client, one, live));
          GODWIT_TRY(MoveBack(cluster));
        }
        continue;
      }
      // Each way goes in both directions, and each is as often the first: what memory the last one freed helps the next.
      const bool live_first = i % 4 < 2;
      if (live_first) GODWIT_TRY(Move(cluster, client, one, true));
      GODWIT_TRY(Move(cluster, client, one, false));
      if (!live_first) GODWIT_TRY(Move(cluster, client, one, true));
      if (i % 2 == 0) GODWIT_TRY(Move(cluster, client, one, false));
    }
    return {};
  }

  // Not measured.
  Status MoveBack(BenchCluster& cluster) {
    if (!at_there_) return {};  // The move was refused.
    at_there_ = false;
    GODWIT_ASSIGN(const json record, MoveTo(cluster, "here", "stop"));
    if (record.value("phase", "") != "Done") return Internal("a move ended as " + record.value("phase", "") + ": " + record.value("error", ""));
    return {};
  }

  // The record of a move that ended.
  Result<json> MoveTo(BenchCluster& cluster, const std::string& target, const std::string& mode) {
    GODWIT_ASSIGN(json record, cluster.client().Send("POST", "/v1/migrations", {{"service", "dirty"}, {"shard", 0}, {"target", target}, {"mode", mode}, {"reason", "manual"}}));
    const std::string path = "/v1/migrations/" + record.value("id", "");
    const auto over = [&]() -> Result<bool> {
      GODWIT_ASSIGN(record, cluster.client().Get(path));
      const std::string phase = record.value("phase", "");
      return phase == "Done" || phase == "Failed" || phase == "Cancelled";
    };
    GODWIT_ASSIGN(const bool ended, WaitUntil(kMoveSeconds, over));
    if (!ended) return Internal("a move did not end, it is " + record.value("phase", ""));
    return record;
  }

  Status Move(BenchCluster& cluster, Client& client, Case& one, bool live) {
    at_there_ = !at_there_;
    Moves& moves = live ? one.live : one.standing;
    const auto begin = Clock::now();
    GODWIT_ASSIGN(const json record, MoveTo(cluster, at_there_ ? "there" : "here", live ? "auto" : "stop"));
    const std::string why = record.value("error", "");
    if (live && record.value("phase", "") == "Failed" && why.starts_with("the copy does not converge")) {
      one.refused = why;
      at_there_ = !at_there_;
      return {};
    }
    if (record.value("phase", "") != "Done") return Internal("a move ended as " + record.value("phase", "") + ": " + why);
    const auto number = [&](const char* key) { return record.value(key, 0.0); };
    const auto end = begin + std::chrono::microseconds(static_cast<std::int64_t>(number("total_us")));
    std::this_thread::sleep_until(end + kAround);
    const auto answers = client.Between(begin, end + kAround);
    moves.downtime_ms.values.push_back(number("downtime_us") / 1000);
    moves.total_ms.values.push_back(number("total_us") / 1000);
    moves.stop_us.values.push_back(number("stop_latency_us"));
    moves.client_ms.values.push_back(Longest(answers));
    const Dip dip = DipOf(answers);
    moves.dip.values.push_back(dip.share);
    moves.dip_ms.values.push_back(dip.ms);
    moves.sent_share.values.push_back(number("memory_bytes") > 0 ? number("bytes_sent") / number("memory_bytes") : 0);
    moves.sent_mbps.values.push_back(8 * number("bytes_sent") / std::max(1.0, number("total_us")));
    moves.slowed.values.push_back(number("slowed"));
    moves.rounds.values.push_back(static_cast<double>(record.value("rounds", json::array()).size()));
    if (live) {
      for (const double us : client.WritingBetween(begin, end)) one.copying_us.values.push_back(us);
      one.timeline.clear();
      for (const Answer& answer : client.Between(begin - kAround, end + kAround)) {
        one.timeline.emplace_back(std::chrono::duration<double, std::milli>(answer.meant - begin).count(), answer.ms);
      }
    }
    return {};
  }

  Result<int> Report() {
    json results = json::array();
    if (!options_.json) {
      fmt::print("{:<12} {:>9} {:>9}  {:<24} {:>6} {:>12} {:>12} {:>12}  {}\n", "LINK", "MEMORY", "DIRTYING", "METRIC", "UNIT", "LIVE", "P99", "STOP-COPY", "OTHER");
    }
    for (const Case& one : cases_) {
      const std::string memory = one.mib == 0 ? "64 KiB" : fmt::format("{} MiB", one.mib), rate = fmt::format("{} MB/s", one.mb_s);
      const auto put = [&](const char* metric, const char* unit, const Samples& live, const Samples* standing, const char* other_name, const Samples* other) {
        json baselines = json::object();
        if (standing != nullptr && !standing->empty()) baselines["stop-and-copy"] = standing->ToJson();
        if (other != nullptr && !other->empty()) baselines[other_name] = other->ToJson();
        results.push_back({{"case", {{"link", one.link}, {"memory", memory}, {"dirtying", rate}}}, {"metric", metric}, {"unit", unit}, {"better", "lower"},
                           {"ours", live.ToJson()}, {"baselines", baselines}, {"emulated", one.emulated}});
        if (options_.json) return;
        fmt::print("{:<12} {:>9} {:>9}  {:<24} {:>6} {:>12.3f} {:>12.3f} {:>12} {}\n", one.link, memory, rate, metric, unit, live.Median(), live.At(0.99),
                   standing != nullptr && !standing->empty() ? fmt::format("{:.3f}", standing->Median()) : "",
                   other != nullptr && !other->empty() ? fmt::format(" {} {:.3f}", other_name, other->Median()) : "");
      };
      if (!one.refused.empty()) {
        results.push_back({{"case", {{"link", one.link}, {"memory", memory}, {"dirtying", rate}}}, {"metric", "refused"}, {"reason", one.refused}, {"emulated", one.emulated}});
        if (!options_.json) fmt::print("{:<12} {:>9} {:>9}  a live move was refused: {}\n", one.link, memory, rate, one.refused);
      }
      if (one.live.total_ms.empty()) continue;
      put("downtime", "ms", one.live.downtime_ms, &one.standing.downtime_ms, "", nullptr);
      put("client's longest wait", "ms", one.live.client_ms, &one.standing.client_ms, "p99.9 at rest", &one.rest_ms);
      put("throughput dip", "", one.live.dip, &one.standing.dip, "", nullptr);
      put("under 90 % of throughput", "ms", one.live.dip_ms, &one.standing.dip_ms, "", nullptr);
      put("total", "ms", one.live.total_ms, &one.standing.total_ms, "one TCP stream", &one.tcp_ms);
      put("stop latency", "us", one.live.stop_us, &one.standing.stop_us, "", nullptr);
      put("bytes sent / memory", "", one.live.sent_share, &one.standing.sent_share, "", nullptr);
      put("sent in all its time", "Mbit/s", one.live.sent_mbps, &one.standing.sent_mbps, "", nullptr);
      put("guest slowed by", "", one.live.slowed, nullptr, "", nullptr);
      if (!one.copying_us.empty()) put("a page written, copying", "us", one.copying_us, nullptr, "at rest", &one.rest_us);
      if (!one.steady_ms.empty()) {
        const Samples rest{{one.steady_rest_ms.At(0.999)}};
        put("client's p99.9", "ms", Samples{{one.steady_ms.At(0.999)}}, nullptr, "at rest", &rest);
      }
      if (!options_.json && one.failed != 0) fmt::print("{} requests FAILED\n", one.failed);
    }
    const auto criu = RunProcess({"criu", "check"}, Complaints::kDrop);
    if (options_.progress) std::fprintf(stderr, "criu %s\n", !criu.ok() ? "is not installed: no baseline of it" : criu->code != 0 ? "does not work on this kernel (criu check): no baseline of it" : "works here; this benchmark does not drive it yet");
    if (options_.json) std::printf("%s\n", BenchDocument("migrate", options_.source, results).c_str());
    if (!options_.html.empty()) {
      GODWIT_TRY(WriteBenchPage("migrate", options_.source, results, options_.html));
      GODWIT_TRY(AppendTimelines());
    }
    std::uint64_t failed = 0;
    for (const Case& one : cases_) failed += one.failed;
    if (failed != 0) return Internal(fmt::format("{} requests of the clients failed", failed));
    return kExitDone;
  }

  // What the clients waited, around the last live move of each case.
  Status AppendTimelines() {
    std::ofstream out(options_.html, std::ios::app);
    out << "<h2>What a client waited, around the last live move</h2>\n";
    constexpr double kWidth = 720, kHeight = 120;
    for (const Case& one : cases_) {
      if (one.timeline.empty()) continue;
      const double from = one.timeline.front().first, to = std::max(one.timeline.back().first, from + 1);
      double most = 1;
      for (const auto& [at, ms] : one.timeline) most = std::max(most, ms);
      out << fmt::format("<h3>{}, {} MiB, {} MB/s: up to {:.1f} ms</h3><svg width=\"{}\" height=\"{}\">", one.link, one.mib, one.mb_s, most, kWidth + 80, kHeight + 24);
      std::string points;
      for (const auto& [at, ms] : one.timeline) points += fmt::format("{:.1f},{:.1f} ", (at - from) / (to - from) * kWidth, kHeight - ms / most * (kHeight - 8));
      const double begin = -from / (to - from) * kWidth, end = (one.live.total_ms.values.back() - from) / (to - from) * kWidth;
      out << fmt::format("<rect x=\"{:.1f}\" y=\"0\" width=\"{:.1f}\" height=\"{}\" fill=\"#def\"/>", begin, std::max(1.0, end - begin), kHeight)
          << "<polyline fill=\"none\" stroke=\"#27a\" points=\"" << points << "\"/>"
          << fmt::format("<text x=\"{:.1f}\" y=\"{}\">{:.1f} ms: the move</text></svg>\n", begin, kHeight + 16, one.live.total_ms.values.back());
    }
    out.flush();
    if (!out) return Internal("cannot write " + options_.html);
    return {};
  }

  const BenchOptions& options_;
  const TemporaryFolder scratch_ = TemporaryFolder::Create().value();
  bool at_there_ = false;
  std::vector<Case> cases_;
};

}  // namespace

Result<int> BenchMigrate(const BenchOptions& options) { return MigrateBench(options).Run(); }

}  // namespace godwit::cli
