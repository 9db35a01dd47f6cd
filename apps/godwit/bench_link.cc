// godwit bench link: what the security of the streams between agents costs.
//
// Page streams (transport/raw_stream.h) inside TLS, as agents have them, beside the same ones in plaintext: both ends in this
// process, over the loopback interface, one after the other in turns.
#include <fmt/format.h>

#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "bench.h"
#include "bench_samples.h"
#include "transport/raw_stream.h"

namespace godwit::cli {
namespace {

using nlohmann::json;
using transport::RawListener;
using transport::RawStream;
using Clock = std::chrono::steady_clock;

constexpr int kRoundsMax = 1000;
constexpr std::size_t kBlockBytes = 1 << 20;  // As a page stream sends them.
constexpr int kBlocks = 512, kRoundTrips = 2000;
constexpr std::size_t kMessageBytes = 64;

double SinceUs(Clock::time_point begin) { return std::chrono::duration<double, std::micro>(Clock::now() - begin).count(); }

struct Ends {
  std::unique_ptr<RawStream> near, far;
};

transport::ChannelOptions OptionsOf(const char* device, bool plaintext) {
  transport::ChannelOptions options;
  options.self = {model::DeviceName(device), model::BootId{1}};
  options.token = "benchmark";
  options.plaintext = plaintext;
  return options;
}

Result<Ends> Open(bool plaintext) {
  GODWIT_ASSIGN(const auto listener, RawListener::Listen("127.0.0.1"));
  Result<std::unique_ptr<RawStream>> far = Error{Unavailable("not opened")};
  std::thread accepting([&] { far = listener->Accept(OptionsOf("there", plaintext), std::chrono::seconds(10)); });
  auto near = RawStream::Connect("127.0.0.1", listener->port(), OptionsOf("here", plaintext));
  if (!near.ok()) listener->Shut();
  accepting.join();
  if (!near.ok()) return near.error();
  if (!far.ok()) return far.error();
  return Ends{std::move(*near), std::move(*far)};
}

// MB/s of kBlocks blocks.
Result<double> Throughput(const Ends& ends, const Bytes& block, Bytes& into) {
  Status received;
  const auto begin = Clock::now();
  std::thread receiving([&] {
    for (int i = 0; i < kBlocks && received.ok(); ++i) received = ends.far->Read(into);
  });
  Status sent;
  for (int i = 0; i < kBlocks && sent.ok(); ++i) sent = ends.near->Write(block);
  if (!sent.ok()) ends.near->Shut();
  receiving.join();
  GODWIT_TRY(sent);
  GODWIT_TRY(received);
  return static_cast<double>(kBlockBytes) * kBlocks / SinceUs(begin);
}

// Adds the microseconds of kRoundTrips small messages and their answers.
Status RoundTrips(const Ends& ends, Samples& us) {
  Status answered;
  std::thread answering([&] {
    Bytes message(kMessageBytes);
    for (int i = 0; i < kRoundTrips && answered.ok(); ++i) {
      answered = ends.far->Read(message);
      if (answered.ok()) answered = ends.far->Write(message);
    }
    if (!answered.ok()) ends.far->Shut();
  });
  Bytes message(kMessageBytes, 1);
  Status asked;
  for (int i = 0; i < kRoundTrips && asked.ok(); ++i) {
    const auto begin = Clock::now();
    asked = ends.near->Write(message);
    if (asked.ok()) asked = ends.near->Read(message);
    us.values.push_back(SinceUs(begin));
  }
  if (!asked.ok()) ends.near->Shut();
  answering.join();
  GODWIT_TRY(asked);
  return answered;
}

}  // namespace

Result<int> BenchLink(const BenchOptions& options) {
  if (options.rounds < 1 || options.rounds > kRoundsMax) return InvalidArgument("--rounds must be between 1 and 1000");
  struct Case {
    const char *name, *metric, *unit, *better;
    Samples of[2];  // TLS, plaintext.
  };
  Case cases[] = {{"stream of 1 MiB blocks", "throughput", "MB/s", "higher", {}},
                  {"64 B there and back", "round trip", "us", "lower", {}},
                  {"connecting", "until both ends are proved", "us", "lower", {}}};
  const Bytes block(kBlockBytes, 7);
  Bytes into(kBlockBytes);
  for (int round = 0; round < options.rounds; ++round) {
    if (options.progress) std::fprintf(stderr, "\r  round %d of %d", round + 1, options.rounds);
    for (const bool plaintext : {false, true}) {
      const auto begin = Clock::now();
      GODWIT_ASSIGN(const Ends ends, Open(plaintext));
      cases[2].of[plaintext].values.push_back(SinceUs(begin));
      GODWIT_ASSIGN(const double speed, Throughput(ends, block, into));
      cases[0].of[plaintext].values.push_back(speed);
      GODWIT_TRY(RoundTrips(ends, cases[1].of[plaintext]));
    }
  }
  if (options.progress) std::fprintf(stderr, "\n");
  json results = json::array();
  if (!options.json) fmt::print("{:<24} {:<10} {:>6} {:>10} {:>10} {:>10} {:>8}\n", "CASE", "OF", "UNIT", "MEDIAN", "MIN", "MAX", "N");
  for (const Case& one : cases) {
    results.push_back({{"case", {{"link", one.name}}}, {"metric", one.metric}, {"unit", one.unit}, {"better", one.better},
                       {"ours", one.of[0].ToJson()}, {"baselines", {{"plaintext", one.of[1].ToJson()}}}, {"emulated", json::array()}});
    if (options.json) continue;
    for (const bool plaintext : {false, true}) {
      const Samples& of = one.of[plaintext];
      fmt::print("{:<24} {:<10} {:>6} {:>10.1f} {:>10.1f} {:>10.1f} {:>8}\n", one.name, plaintext ? "plaintext" : "TLS", one.unit, of.Median(),
                 of.Min(), of.Max(), of.values.size());
    }
  }
  if (options.json) std::printf("%s\n", BenchDocument("link", options.source, results).c_str());
  if (!options.html.empty()) GODWIT_TRY(WriteBenchPage("link", options.source, results, options.html));
  return kExitDone;
}

}  // namespace godwit::cli
