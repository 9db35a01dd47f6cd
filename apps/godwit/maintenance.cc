// godwit cordon, uncordon, drain: taking a device out of use, and giving it back.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct Instances {
  std::vector<std::string> left, lost;  // "service/shard", with what keeps it.
};

// What is on the device. Failed instances have nothing that could be moved.
Result<Instances> On(ClusterClient& cluster, const std::string& device) {
  GODWIT_ASSIGN(const json instances, cluster.Get("/v1/instances"));
  GODWIT_ASSIGN(const json migrations, cluster.Get("/v1/migrations"));
  Instances found;
  for (const json& instance : instances["items"]) {
    if (instance.value("device", "") != device) continue;
    std::string line = instance.value("service", "") + "/" + std::to_string(instance.value("shard", 0u));
    if (instance.value("state", "") == "Failed") {
      found.lost.push_back(line + ": " + instance.value("reason", ""));
      continue;
    }
    std::string why;
    for (const json& migration : migrations["items"]) {
      if (migration.value("instance", "") != instance.value("id", "") || migration.value("source", "") != device) continue;
      const std::string phase = migration.value("phase", "");
      if (phase == "Failed") why = "could not move to " + migration.value("target", "") + ": " + migration.value("error", "");
      else if (phase != "Done" && phase != "Cancelled") why = "on its way to " + migration.value("target", "");
    }
    found.left.push_back(line + (why.empty() ? "" : ": " + why));
  }
  return found;
}

Result<int> SetMaintenance(const std::string& device, const char* maintenance, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json record, cluster->Send("PATCH", "/v1/devices/" + device, {{"maintenance", maintenance}}));
  if (session.json()) std::printf("%s\n", record.dump().c_str());
  else if (!session.quiet) std::printf("device/%s is %s\n", device.c_str(), record.value("state", "").c_str());
  return kExitDone;
}

Result<int> Drain(const std::string& device, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_TRY(cluster->Send("PATCH", "/v1/devices/" + device, {{"maintenance", "drain"}}));
  GODWIT_ASSIGN(Instances now, On(*cluster, device));
  const std::size_t all = now.left.size();
  std::size_t shown = 0;
  const auto over = [&]() -> Result<bool> {
    GODWIT_ASSIGN(now, On(*cluster, device));
    const std::size_t moved = all - std::min(all, now.left.size());
    if (moved > shown && !session.quiet) std::fprintf(stderr, "moved %zu of %zu\n", moved, all);
    shown = std::max(shown, moved);
    return now.left.empty();
  };
  bool drained = false;
  if (session.wait) {
    GODWIT_ASSIGN(drained, WaitUntil(session.timeout_s, over));
  }
  if (session.json()) {
    std::printf("%s\n", json{{"device", device}, {"drained", drained}, {"instances", all}, {"left", now.left}, {"lost", now.lost}}.dump().c_str());
  } else if (drained) {
    std::printf("device/%s is drained: %zu instances moved\n", device.c_str(), all);
  } else if (!session.wait && !session.quiet) {
    std::printf("device/%s is being drained of %zu instances\n", device.c_str(), all);
  }
  for (const std::string& lost : now.lost) std::fprintf(stderr, "godwit: not moved, for it has failed: %s\n", lost.c_str());
  if (drained || !session.wait) return kExitDone;
  for (const std::string& left : now.left) std::fprintf(stderr, "godwit: still on %s: %s\n", device.c_str(), left.c_str());
  std::fprintf(stderr, "godwit: draining goes on; 'godwit uncordon %s' ends it\n", device.c_str());
  return kExitNotConverged;
}

void Add(CLI::App& app, Session& session, const char* name, const char* what, const char* footer,
         std::function<Result<int>(const std::string&, const Session&)> run) {
  auto device = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(name, what);
  command->add_option("device", *device, "Its name")->required();
  command->footer(footer);
  command->callback([device, run = std::move(run), &session] { session.action = [device, run, &session] { return run(*device, session); }; });
}

}  // namespace

void AddCordonCommand(CLI::App& app, Session& session) {
  Add(app, session, "cordon", "Let nothing new come to a device", "What runs there stays; also after its agent begins anew.\nExample:\n  godwit cordon csd1",
      [](const std::string& device, const Session& s) { return SetMaintenance(device, "cordon", s); });
}

void AddUncordonCommand(CLI::App& app, Session& session) {
  Add(app, session, "uncordon", "Use a device again, and end its draining", "Moves that have begun are finished.\nExample:\n  godwit uncordon csd1",
      [](const std::string& device, const Session& s) { return SetMaintenance(device, "none", s); });
}

void AddDrainCommand(CLI::App& app, Session& session) {
  Add(app, session, "drain", "Move everything off a device, and let nothing new come",
      "The cluster does it, two moves of a device and four of the cluster at once: it goes on when this command is ended.\n"
      "Exits 3 if instances are left after --timeout seconds, and names them.\n"
      "Examples:\n  godwit drain csd1\n  godwit drain csd1 --timeout 600 -o json\n  godwit uncordon csd1",
      Drain);
}

}  // namespace godwit::cli
