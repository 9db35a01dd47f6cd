// godwit migrate: moves a service's instance to another device, while it runs.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct MigrateOptions {
  std::string service, target, mode;
  std::uint64_t max_downtime_ms = 0;
  bool watch = false, dry_run = false, force = false;
};

bool IsFinalPhase(const std::string& phase) { return phase == "Done" || phase == "Failed" || phase == "Cancelled"; }

void PrintSummary(const json& m) {
  const auto us = [&](const char* key) { return static_cast<double>(m.value(key, std::uint64_t{0})) / 1000; };
  std::printf("migration/%s %s: %s/%u %s (%s) -> %s (%s), downtime %.1f ms, total %.1f ms, %s sent\n", m.value("id", "").c_str(),
              m.value("phase", "").c_str(), m.value("service", "").c_str(), m.value("shard", 0u), m.value("source", "").c_str(),
              m.value("source_isa", "").c_str(), m.value("target", "").c_str(), m.value("target_isa", "").c_str(), us("downtime_us"),
              us("total_us"), HumanBytes(static_cast<double>(m.value("bytes_sent", std::uint64_t{0}))).c_str());
}

Result<int> ShowPlan(const json& plan, const Session& session) {
  if (session.json()) {
    std::printf("%s\n", plan.dump().c_str());
    return kExitDone;
  }
  const json &m = plan["migration"], &estimate = plan["estimate"];
  std::printf("%s/%u would move: %s (%s) -> %s (%s)\n", m.value("service", "").c_str(), m.value("shard", 0u), m.value("source", "").c_str(),
              m.value("source_isa", "").c_str(), m.value("target", "").c_str(), m.value("target_isa", "").c_str());
  if (estimate.contains("unknown")) {
    std::printf("how long it would take is not known: %s\n", estimate.value("unknown", "").c_str());
  } else {
    std::printf("estimate, by its last move: total %.1f ms, downtime %.1f ms (%s of memory, %s/s)\n", estimate.value("total_us", 0.0) / 1000,
                estimate.value("downtime_us", 0.0) / 1000, HumanBytes(estimate.value("memory_bytes", 0.0)).c_str(),
                HumanBytes(estimate.value("bytes_per_second", 0.0)).c_str());
  }
  const json forecast = plan.value("forecast", json::object());
  if (forecast.contains("p99_ms")) {
    const json& there = forecast["p99_ms"];
    std::printf("forecast: p99 %.4g ms here, %s there; %.2f cores busy there\n", forecast.value("now_ms", 0.0),
                there.is_number() ? fmt::format("{:.4g} ms", there.get<double>()).c_str() : "without bound", forecast.value("busy_cores", 0.0));
  }
  if (const std::string breaks = forecast.value("breaks", ""); !breaks.empty()) std::printf("forced: %s\n", breaks.c_str());
  return kExitDone;
}

Result<int> Migrate(const MigrateOptions& options, const Session& session) {
  json wanted{{"target", options.target}, {"mode", options.mode}, {"reason", "manual"}};
  GODWIT_ASSIGN(const auto of, ServiceAndShard(options.service));
  wanted["service"] = of.first;
  wanted["shard"] = of.second;
  if (options.max_downtime_ms != 0) wanted["max_downtime_ms"] = options.max_downtime_ms;
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  if (options.force) wanted["force"] = true;
  if (options.dry_run) {
    wanted["dry_run"] = true;
    GODWIT_ASSIGN(const json plan, cluster->Send("POST", "/v1/migrations", wanted));
    return ShowPlan(plan, session);
  }
  GODWIT_ASSIGN(json migration, cluster->Send("POST", "/v1/migrations", wanted));
  const std::string target = "/v1/migrations/" + migration.value("id", "");
  std::string phase = migration.value("phase", "");
  if (session.wait) {
    const auto over = [&]() -> Result<bool> {
      GODWIT_ASSIGN(migration, cluster->Get(target));
      const std::string now = migration.value("phase", "");
      if (now != phase && options.watch) std::fprintf(stderr, "%s\n", now.c_str());
      phase = now;
      return IsFinalPhase(now);
    };
    GODWIT_ASSIGN([[maybe_unused]] const bool done, WaitUntil(session.timeout_s, over));
  }
  if (session.output == "table" || session.output == "wide") PrintSummary(migration);
  else std::fputs(session.json() ? (migration.dump() + "\n").c_str() : FormatRow("migrations", migration, session.output).c_str(), stdout);
  if (!session.wait || phase == "Done") return kExitDone;
  if (!IsFinalPhase(phase)) {
    std::fprintf(stderr, "godwit: the migration is still %s; see 'godwit get migrations %s'\n", phase.c_str(), migration.value("id", "").c_str());
    return kExitNotConverged;
  }
  return FailedPrecondition("the migration " + std::string(phase == "Failed" ? "failed" : "was cancelled") + ": " + migration.value("error", ""));
}

}  // namespace

void AddMigrateCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<MigrateOptions>();
  CLI::App* command = app.add_subcommand("migrate", "Move a service to another device while it runs");
  command->add_option("service", options->service, "SERVICE or SERVICE/SHARD")->required();
  command->add_option("--to", options->target, "Device, or auto: where a new instance would go")->required();
  command->add_option("--mode", options->mode, "auto, precopy: copy while it runs; stop: copy while it stands still")
      ->check(CLI::IsMember({"auto", "stop", "precopy", "postcopy", "hybrid"}))->default_val("auto");
  command->add_option("--max-downtime", options->max_downtime_ms, "Milliseconds it may stand still");
  command->add_flag("--watch", options->watch, "Show its phases");
  command->add_flag("--dry-run", options->dry_run, "Say what would happen, and about how long it would take");
  command->add_flag("--force", options->force, "Also where a [slo] or a power cap is predicted to break");
  command->footer("Examples:\n  godwit migrate orders --to csd1 --watch\n  godwit migrate orders/2 --to auto --dry-run");
  command->callback([options, &session] { session.action = [options, &session] { return Migrate(*options, session); }; });
}

}  // namespace godwit::cli
