// godwit doctor: what this machine offers and lacks, and what is done instead.
#include <sys/utsname.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <thread>

#include "commands.h"
#include "doctor_probes.h"
#include "package/isa.h"

namespace godwit::cli {
namespace {

Result<int> Doctor(const Session& session) {
  const std::vector<Probe> probes = ProbeMachine();
  utsname system{};
  uname(&system);
  const std::string isa(package::IsaName(package::HostIsa()));
  if (session.json()) {
    nlohmann::ordered_json json = {{"kernel", system.release}, {"isa", isa},
                                   {"cores", std::thread::hardware_concurrency()}, {"items", nlohmann::json::array()}};
    for (const Probe& probe : probes) {
      nlohmann::ordered_json item = {{"name", probe.name}, {"available", probe.available}, {"detail", probe.detail},
                                     {"used_for", probe.used_for}};
      if (!probe.available) item["instead"] = probe.instead;
      json["items"].push_back(std::move(item));
    }
    std::printf("%s\n", json.dump(2).c_str());
    return kExitDone;
  }
  std::printf("Linux %s, %s, %u cores\n\n%-22s %-5s %s\n", system.release, isa.c_str(),
              std::thread::hardware_concurrency(), "NAME", "HERE", "FOR: FOUND, OR WHAT IS DONE INSTEAD");
  for (const Probe& probe : probes) {
    const std::string rest = probe.available ? probe.detail : "instead " + probe.instead + " (" + probe.detail + ")";
    std::printf("%-22s %-5s %s: %s\n", probe.name.c_str(), probe.available ? "yes" : "no", probe.used_for.c_str(),
                rest.c_str());
  }
  return kExitDone;
}

}  // namespace

void AddDoctorCommand(CLI::App& app, Session& session) {
  CLI::App* sub = app.add_subcommand("doctor", "What this machine offers and lacks, and what is done instead");
  sub->footer("Examples:\n  godwit doctor\n  godwit doctor -o json");
  sub->callback([&session] { session.action = [&session] { return Doctor(session); }; });
}

}  // namespace godwit::cli
