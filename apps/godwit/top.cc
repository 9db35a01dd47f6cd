// godwit top: what devices and instances do now, as their agents measured it.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>
#include <thread>

#include "cluster_client.h"
#include "commands.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct TopOptions {
  std::string kind = "devices";
  bool watch = false;
};

std::string Devices(const json& devices) {
  std::vector<std::vector<std::string>> rows{{"NAME", "CLASS", "CORES", "LOAD", "IO/S", "IO P50", "IO P99", "FUNCTIONS", "THEIR SHARE"}};
  for (const json& device : devices) {
    const json foreground = device.value("foreground", json::object());
    const bool active = foreground.value("per_second", 0.0) > 0;
    const auto us = [&](const char* name) { return active ? fmt::format("{:.0f} us", foreground.value(name, 0.0)) : std::string("-"); };
    rows.push_back({device.value("name", ""), device.value("class", ""), fmt::format("{:.0f}", device.value("cores", 0.0)),
                    device.value("state", "") == "offline" ? "offline" : fmt::format("{:.0f}%", 100 * device.value("load", 0.0)),
                    fmt::format("{:.0f}", foreground.value("per_second", 0.0)), us("p50_us"), us("p99_us"), fmt::format("{:.0f}", foreground.value("running", 0.0)),
                    fmt::format("{:.0f}%", 100 * foreground.value("share", 1.0))});
  }
  return FormatTable(rows);
}

std::string Instances(const json& devices) {
  std::vector<std::vector<std::string>> rows{{"INSTANCE", "DEVICE", "REQUESTS/S", "CPU", "P99"}};
  for (const json& device : devices) {
    for (const json& use : device.value("uses", json::array())) {
      rows.push_back({use.value("instance", ""), device.value("name", ""), fmt::format("{:.1f}", use.value("requests_per_second", 0.0)),
                      fmt::format("{:.2f} ms", use.value("cpu_ms", 0.0)), fmt::format("{:.2f} ms", use.value("p99_ms", 0.0))});
    }
  }
  return FormatTable(rows);
}

Result<int> Top(const TopOptions& options, const Session& session) {
  const bool devices = options.kind == "devices";
  if (!devices && options.kind != "instances") return InvalidArgument("top shows devices or instances, not '" + options.kind + "'");
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  for (;;) {
    GODWIT_ASSIGN(const json list, cluster->Get("/v1/devices"));
    const json items = list.value("items", json::array());
    if (session.json()) {
      json shown = json::array();
      for (const json& device : items) {
        if (devices) shown.push_back({{"name", device["name"]}, {"load", device["load"]}, {"foreground", device["foreground"]}});
        for (json use : devices ? json::array() : device.value("uses", json::array())) {
          use["device"] = device["name"];
          shown.push_back(std::move(use));
        }
      }
      std::printf("%s\n", json{{"items", std::move(shown)}}.dump().c_str());
    } else {
      std::fputs((devices ? Devices(items) : Instances(items)).c_str(), stdout);
    }
    if (!options.watch || std::fflush(stdout) != 0) return kExitDone;
    std::this_thread::sleep_for(std::chrono::seconds(2));
    if (!session.json()) std::printf("\n");
  }
}

}  // namespace

void AddTopCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<TopOptions>();
  CLI::App* command = app.add_subcommand("top", "Show what devices or instances do now");
  command->add_option("kind", options->kind, "devices (the default): load, their own reads and writes, and the share of time that functions near data get; instances");
  command->add_flag("-w,--watch", options->watch, "Again every two seconds");
  command->footer("Examples:\n  godwit top\n  godwit top instances -o json");
  command->callback([options, &session] { session.action = [options, &session] { return Top(*options, session); }; });
}

}  // namespace godwit::cli
