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

}  // namespace

void AddExplainCommand(CLI::App& app, Session& session) {
  auto name = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("explain", "Why a service is where it is, what each device would cost it, and what refuses");
  command->add_option("service", *name, "SERVICE or SERVICE/SHARD")->required();
  command->footer("Examples:\n  godwit explain orders\n  godwit explain orders/2 -o json");
  command->callback([name, &session] { session.action = [name, &session] { return Explain(*name, session); }; });
}

}  // namespace godwit::cli
