// godwit logs: what a service's instances said.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct LogsOptions {
  std::string service;
  std::size_t tail = 10'000;
  bool follow = false;
};

bool PrintLine(const json& line, const Session& session) {
  if (!line.is_object()) return true;
  if (session.json()) {
    std::printf("%s\n", line.dump().c_str());
  } else {
    const auto text = [&](const char* key) {
      const auto found = line.find(key);
      return found == line.end() ? std::string() : found->is_string() ? found->get<std::string>() : found->dump();
    };
    std::printf("%s %s %s %s %s\n", text("time").c_str(), text("device").c_str(), text("instance").c_str(), text("level").c_str(),
                text("message").c_str());
  }
  return std::fflush(stdout) == 0;
}

Result<int> Show(const LogsOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  const std::string target = "/v1/services/" + options.service + "/logs?tail=";
  if (options.follow) {
    GODWIT_TRY(cluster->Watch(target + std::to_string(options.tail) + "&follow=true", [&](const transport::ServerEvent& event) {
      return PrintLine(json::parse(event.data, nullptr, false), session);
    }));
    return kExitDone;
  }
  GODWIT_ASSIGN(const json lines, cluster->Get(target + std::to_string(options.tail)));
  for (const json& line : lines.value("items", json::array())) PrintLine(line, session);
  return kExitDone;
}

}  // namespace

void AddLogsCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<LogsOptions>();
  CLI::App* command = app.add_subcommand("logs", "Show what a service's instances wrote to their log and standard error");
  command->add_option("service", options->service, "Its name")->required();
  command->add_flag("-f,--follow", options->follow, "Go on with every new line");
  command->add_option("--tail", options->tail, "Only the last N lines");
  command->footer("Example:\n  godwit logs -f orders");
  command->callback([options, &session] { session.action = [options, &session] { return Show(*options, session); }; });
}

}  // namespace godwit::cli
