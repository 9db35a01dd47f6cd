// godwit bench: picks the benchmark, and writes what all of them report.
#include "bench.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string FirstLine(const std::string& file, const std::string& prefix) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with(prefix)) {
      const auto colon = line.find(": ");
      return colon == std::string::npos ? line : line.substr(colon + 2);
    }
  }
  return {};
}

json Document(const std::string& bench, const std::string& source, const json& results) {
  std::string commit = "unknown";
  if (const auto git = RunProcess({"git", "-C", source, "describe", "--always", "--dirty", "--abbrev=12"},
                                  Complaints::kDrop);
      git.ok() && git->code == 0) {
    commit = git->output.substr(0, git->output.find('\n'));
  }
  utsname system{};
  uname(&system);
  return {{"bench", bench},
          {"commit", commit},
          {"machine",
           {{"isa", kThisIsa},
            {"processor", FirstLine("/proc/cpuinfo", "model name")},
            {"cores", sysconf(_SC_NPROCESSORS_ONLN)},
            {"memory_bytes", sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE)},
            {"kernel", std::string(system.sysname) + " " + system.release}}},
          {"results", results}};
}

std::string Escape(const std::string& text) {
  std::string out;
  for (char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// Bars are as long as medians, relative to the case's longest; a thin line marks min to max.
std::string Bars(const json& result) {
  std::vector<std::pair<std::string, json>> series = {{"ours", result["ours"]}};
  for (const auto& [name, value] : result["baselines"].items()) series.emplace_back(name, value);
  double longest = 0;
  for (const auto& [name, value] : series) longest = std::max(longest, value["max"].get<double>());
  if (longest <= 0) longest = 1;
  const double scale = 420 / longest;
  std::string svg = fmt::format("<svg width=\"760\" height=\"{}\">", series.size() * 22 + 4);
  int y = 2;
  for (const auto& [name, value] : series) {
    const double median = value["median"], low = value["min"], high = value["max"];
    svg += fmt::format(
        "<text x=\"0\" y=\"{}\">{}</text><rect x=\"130\" y=\"{}\" width=\"{:.1f}\" height=\"14\" "
        "class=\"{}\"/>"
        "<line x1=\"{:.1f}\" x2=\"{:.1f}\" y1=\"{}\" y2=\"{}\"/><text x=\"560\" y=\"{}\">{:.3f} "
        "({:.3f}-{:.3f})</text>",
        y + 12, Escape(name), y, median * scale, name == "ours" ? "ours" : "other", 130 + low * scale,
        130 + high * scale, y + 7, y + 7, y + 12, median, low, high);
    y += 22;
  }
  return svg + "</svg>";
}

}  // namespace

std::string BenchDocument(const std::string& bench, const std::string& source, const json& results) {
  return Document(bench, source, results).dump(2);
}

Status WriteBenchPage(const std::string& bench, const std::string& source, const json& results,
                      const std::string& file) {
  const json document = Document(bench, source, results);
  std::ofstream out(file);
  out << "<!doctype html><meta charset=\"utf-8\"><title>godwit bench " << bench
      << "</title><style>body{font:14px sans-serif;margin:2em}"
      << "text{font:12px sans-serif}.ours{fill:#27a}.other{fill:#bbb}line{stroke:#222}</style><h1>godwit "
         "bench "
      << bench << "</h1><p>commit " << Escape(document["commit"].get<std::string>()) << ", "
      << Escape(document["machine"].dump()) << "</p>";
  for (const json& result : results) {
    std::string title;
    for (const auto& [key, value] : result["case"].items())
      title += (title.empty() ? "" : ", ") + (value.is_string() ? value.get<std::string>() : key + " " + value.dump());
    if (!result.contains("ours")) {
      out << "<h3>" << Escape(title) << ": " << Escape(result["metric"].get<std::string>()) << "</h3><p>" << Escape(result.value("reason", "")) << "</p>";
      continue;
    }
    out << "<h3>" << Escape(title) << ": " << Escape(result["metric"].get<std::string>()) << " ["
        << Escape(result["unit"].get<std::string>()) << "], " << result["better"].get<std::string>()
        << " is better</h3>" << Bars(result);
  }
  out << "<h2>Numbers</h2><pre>" << Escape(document.dump(2)) << "</pre>\n";
  out.flush();
  if (!out) return Internal("cannot write " + file);
  return {};
}

void AddBenchCommand(CLI::App& app, Session& session) {
  auto* command = app.add_subcommand("bench", "Run a benchmark");
  command->require_subcommand(1);
  auto options = std::make_shared<BenchOptions>();
  options->source = (fs::path(OwnPath()).parent_path() / "../../bench").lexically_normal().string();
  const auto add = [&](const char* name, const char* what, Result<int> (*run)(const BenchOptions&)) {
    auto* bench = command->add_subcommand(name, what);
    bench->add_option("--source", options->source, "The source tree's bench folder");
    bench->add_option("--html", options->html, "Also write a page with plots");
    bench->add_option("--only", options->only, "These kernels")->delimiter(',');
    bench->callback([&session, options, run] {
      session.action = [&session, options, run] {
        options->json = session.json();
        options->progress = !session.quiet;
        return run(*options);
      };
    });
    return bench;
  };
  auto* engine = add("engine", "Code that can be stopped against the same without safepoints, native code, and other engines", BenchEngine);
  engine->add_option("--rounds", options->rounds, "Processes of each variant of each kernel (5)");
  engine->add_flag("!--scalar", options->simd, "Build the kernels without 128-bit vectors");
  engine->add_flag("!--no-peers", options->peers, "Leave other engines out");
  engine->footer(
      "Examples:\n"
      "  godwit bench engine --html engine.html\n"
      "  godwit bench engine --only sieve,fib --rounds 9 -o json");
  auto* stops = add("stops", "How fast code stops at random moments, how fast it is after it went on, and what a deep stack takes", BenchStops);
  stops->add_option("--stops", options->stops, "Stops of all kernels together (10000)");
  stops->footer(
      "Examples:\n"
      "  godwit bench stops\n"
      "  godwit bench stops --only gemm,json --stops 1000 -o json");
  auto* start = add("start", "From nothing to a guest's first instruction: processes, and instances in a process", BenchStart);
  start->add_option("--rounds", options->rounds, "Rounds in which all take their turns (5)");
  start->add_flag("!--no-peers", options->peers, "Leave other engines out");
  start->footer(
      "Examples:\n"
      "  godwit bench start\n"
      "  godwit bench start --rounds 20 --html start.html");
  auto* device = add("device", "Small requests to a device of this machine, and the speed of its built-in functions", BenchDevice);
  device->add_option("--rounds", options->rounds, "Rounds in which all take their turns (5)");
  device->footer("Example:\n  godwit bench device --rounds 20 -o json");
  auto* foreground = add("foreground", "A device's own reads while functions near its data, hostile ones too, use all that is left", BenchForeground);
  foreground->add_option("--rounds", options->rounds, "Rounds in which all take their turns (5)");
  foreground->add_option("--cores", options->cores, "Limit the device to so many cores, by a CPU quota (needs root)")->check(CLI::Range(0.05, 64.0));
  foreground->footer("Example:\n  godwit bench foreground --rounds 10 -o json");
  auto* function = add("function", "A function of a service's own over a dataset on another device, beside the same source compiled for the machine", BenchFunction);
  function->add_option("--rounds", options->rounds, "Rounds in which both take their turns (5)");
  function->footer("Example:\n  godwit bench function --rounds 20 -o json");
  auto* offload = add("offload", "A filter at the device that holds the data, at home, and where `auto` has it, for small to large results", BenchOffload);
  offload->add_option("--rounds", options->rounds, "Rounds in which all take their turns (5)");
  offload->add_option("--link", options->link_mbps, "Speed of the device's link, in Mbit/s (1000)")->delimiter(',');
  offload->add_flag("--cached", options->cached, "With room for a copy of the data at home: 'always home' has it from the start, 'auto' when it pays");
  offload->add_flag("--shift", options->shift, "One question, while a load on the device comes suddenly, and goes");
  offload->add_flag("--queries", options->queries, "Questions after TPC-H's Q1, Q6, Q12 and Q14 over a generated lineitem");
  offload->add_option("--scale", options->scale, "Scale factor of that table; 1 is 730 MB (0.1)")->check(CLI::Range(0.001, 10.0));
  offload->footer("Example (needs root):\n  godwit bench offload --rounds 20 -o json");
  auto* link = add("link", "What TLS between agents costs: throughput and latency of page streams beside plaintext", BenchLink);
  link->add_option("--rounds", options->rounds, "Rounds in which both take their turns (5)");
  link->footer("Example:\n  godwit bench link --rounds 20 -o json");
  auto* migrate = add("migrate", "Live moves of a service against plain stop-and-copy, and what its client sees of them", BenchMigrate);
  migrate->add_option("--moves", options->moves, "Live moves of each case")->capture_default_str();
  migrate->add_option("--memory", options->memory_mib, "Sizes of memory, in MiB; 0: what a small reactor has")->delimiter(',')->capture_default_str();
  migrate->add_option("--dirty", options->dirty_mb_s, "How fast it changes, in MB/s of distinct pages")->delimiter(',')->capture_default_str();
  migrate->add_option("--link", options->link_mbps, "Links, in Mbit/s; 0: the loopback interface; others need root")->delimiter(',')->capture_default_str();
  migrate->add_flag("--records", options->records, "Memory full of lines of records, which compress; default: of noise, which does not");
  migrate->add_flag("--to-aarch64", options->to_aarch64, "To a device of AArch64 (emulated); counts the way there alone");
  migrate->add_option("--every", options->every_seconds, "A live move in so many seconds, against as long without one, as clients see it")->check(CLI::Range(0.5, 600.0));
  migrate->footer(
      "Examples:\n"
      "  godwit bench migrate --html migrate.html\n"
      "  godwit bench migrate --memory 1024 --dirty 50 --link 0 --moves 20 -o json\n"
      "  godwit bench migrate --memory 1,256 --dirty 0 --link 0 --to-aarch64\n"
      "  godwit bench migrate --memory 64 --dirty 0 --link 0 --every 5 --moves 20");
}

}  // namespace godwit::cli
