// godwit explain: why a service is where it is, and what each device would cost it.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <fmt/format.h>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

std::string Figure(const json& of, const char* name, const char* unit) {
  const auto found = of.find(name);
  if (found == of.end()) return "-";
  return found->is_number() ? fmt::format("{:.4g}{}", found->get<double>(), unit) : "without bound";
}

Result<int> Explain(const std::string& name, const Session& session) {
  GODWIT_ASSIGN(const auto of, ServiceAndShard(name));
  const auto& [service_name, shard] = of;
  json wanted{{"service", service_name}, {"shard", shard}, {"dry_run", true}, {"force", true}};
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json service, cluster->Get("/v1/services/" + service_name));
  GODWIT_ASSIGN(const json devices, cluster->Get("/v1/devices"));
  std::vector<std::string> here;
  for (const json& instance : service["instances"]) {
    if (instance.value("shard", 0u) == shard) here.push_back(instance.value("device", ""));
  }
  // Asked for each device: would it go there? What refuses says so itself.
  json items = json::array();
  for (const json& device : devices["items"]) {
    json item{{"device", device["name"]}, {"class", device["class"]}, {"isa", device["isa"]}, {"load", device["load"]},
              {"here", std::find(here.begin(), here.end(), device.value("name", "")) != here.end()}};
    if (!item["here"].get<bool>()) {
      wanted["target"] = device["name"];
      const auto plan = cluster->Send("POST", "/v1/migrations", wanted);
      if (plan.ok()) {
        item["forecast"] = (*plan)["forecast"];
        item["estimate"] = (*plan)["estimate"];
      }
      item["refused"] = plan.ok() ? item["forecast"].value("breaks", "") : plan.error().message;
    }
    items.push_back(std::move(item));
  }
  wanted["target"] = "auto";
  const auto best = cluster->Send("POST", "/v1/migrations", wanted);
  const json placement = service["manifest"].value("placement", json::object());
  if (session.json()) {
    std::printf("%s\n", json{{"service", service_name}, {"placement", placement}, {"conditions", service["conditions"]}, {"items", items},
                             {"auto", best.ok() ? (*best)["migration"]["target"] : json()}}.dump().c_str());
    return kExitDone;
  }
  std::printf("%s: [placement] %s\n", name.c_str(), placement.empty() ? "asks for nothing" : placement.dump().c_str());
  for (const json& condition : service["conditions"]) {
    if (!condition["status"].get<bool>()) std::printf("not %s: %s\n", condition.value("type", "").c_str(), condition.value("reason", "").c_str());
  }
  std::vector<std::vector<std::string>> rows{{"DEVICE", "CLASS", "ISA", "LOAD", "P99 THERE", "CORES BUSY", "WATTS", "MOVE", "VERDICT"}};
  for (const json& item : items) {
    const json forecast = item.value("forecast", json::object()), estimate = item.value("estimate", json::object());
    const std::string refused = item.value("refused", "");
    rows.push_back({item.value("device", ""), item.value("class", ""), item.value("isa", ""), fmt::format("{:.0f}%", 100 * item.value("load", 0.0)),
                    Figure(forecast, "p99_ms", " ms"), Figure(forecast, "busy_cores", ""),
                    forecast.value("watts", 0.0) > 0 ? Figure(forecast, "watts", " W") : "-",
                    estimate.contains("total_us") ? fmt::format("{:.1f} ms", estimate.value("total_us", 0.0) / 1000) : "-",
                    item["here"].get<bool>() ? "it is here" : refused.empty() ? "could take it" : "no: " + refused});
  }
  std::fputs(FormatTable(rows).c_str(), stdout);
  if (best.ok()) std::printf("--to auto would choose %s\n", (*best)["migration"].value("target", "").c_str());
  else std::printf("--to auto finds none: %s\n", best.error().message.c_str());
  return kExitDone;
}

// Measured by the agent of `from`.
Result<int> ExplainLink(const std::string& from, const std::string& to, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json device, cluster->Get("/v1/devices/" + from));
  GODWIT_ASSIGN(const auto client, cluster->ClientOf(device.value("url", "")));
  GODWIT_ASSIGN(const auto answer, client->Call({.method = "POST", .target = "/v1/links/" + to, .timeout = std::chrono::minutes(2)}));
  if (answer.status >= 400) return ErrorOfAnswer(answer);
  json link = json::parse(answer.body, nullptr, false);
  if (!link.is_object()) return Corrupt("the agent's answer is no JSON object");
  link["from"] = from;
  link["to"] = to;
  if (session.json()) {
    std::printf("%s\n", link.dump().c_str());
    return kExitDone;
  }
  std::vector<std::vector<std::string>> rows{{"TRANSPORT", "LATENCY", "BANDWIDTH", "SECURITY", "WHY"}};
  for (const json& transport : link["transports"]) {
    const bool there = transport.value("available", false);
    rows.push_back({transport.value("name", ""), there ? fmt::format("{:.1f} us", transport.value("latency_us", 0.0)) : "-",
                    there ? fmt::format("{:.2f} GB/s", transport.value("bytes_per_second", 0.0) / 1e9) : "-", transport.value("security", ""),
                    there ? transport.value("why", "") : "not there: " + transport.value("why", "")});
  }
  std::fputs(FormatTable(rows).c_str(), stdout);
  rows = {{"BYTES", "RING", "UCX", "CHANNEL", "CHOSEN", "EXPECTED"}};
  for (const json& size : link["sizes"]) {
    rows.push_back({std::to_string(size.value("bytes", 0ull)), Figure(size, "ring_us", " us"), Figure(size, "ucx_us", " us"), Figure(size, "channel_us", " us"),
                    size.value("chosen", ""), Figure(size, "expected_us", " us")});
  }
  std::printf("\nRequests from %s to %s, in pieces of at most 256 KiB:\n%s", from.c_str(), to.c_str(), FormatTable(rows).c_str());
  return kExitDone;
}

}  // namespace

void AddExplainCommand(CLI::App& app, Session& session) {
  auto names = std::make_shared<std::vector<std::string>>();
  CLI::App* command = app.add_subcommand("explain", "Why a service is where it is, what each device would cost it, and what refuses; or how two devices are linked");
  command->add_option("what", *names, "SERVICE or SERVICE/SHARD; or: link DEVICE DEVICE, how requests of the one reach the other")->required()->expected(1, 3);
  command->footer("Examples:\n  godwit explain orders\n  godwit explain orders/2 -o json\n  godwit explain link host0 csd0");
  command->callback([names, &session] {
    const bool link = names->size() == 3 && names->front() == "link";
    if (names->size() != 1 && !link) throw CLI::ValidationError("what", "a service, or: link DEVICE DEVICE");
    session.action = [names, link, &session] { return link ? ExplainLink((*names)[1], (*names)[2], session) : Explain(names->front(), session); };
  });
}

}  // namespace godwit::cli
