// godwit get, godwit describe: the cluster's records.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct GetOptions {
  std::string kind;
  std::vector<std::string> names;
  bool watch = false;
};

Result<json> Read(ClusterClient& cluster, const std::string& kind, const std::vector<std::string>& names) {
  if (names.empty()) {
    GODWIT_ASSIGN(const json list, cluster.Get("/v1/" + kind));
    return list.value("items", json::array());
  }
  json items = json::array();
  for (const std::string& name : names) {
    GODWIT_ASSIGN(json item, cluster.Get("/v1/" + kind + "/" + name));
    items.push_back(std::move(item));
  }
  return items;
}

Status Watch(ClusterClient& cluster, const std::string& kind, const GetOptions& options, const Session& session) {
  return cluster.Watch("/v1/" + kind + "?watch=true", [&](const transport::ServerEvent& event) {
    const json item = json::parse(event.data, nullptr, false);
    if (!item.is_object()) return true;
    const std::string name = item.value("name", item.value("id", item.value("digest", "")));
    if (!options.names.empty() && std::find(options.names.begin(), options.names.end(), name) == options.names.end()) return true;
    if (event.event == "delete") {
      std::printf("%s", session.json() ? json({{"deleted", name}}).dump().append("\n").c_str() : (name + " deleted\n").c_str());
    } else {
      std::fputs(FormatRow(kind, item, session.output).c_str(), stdout);
    }
    return std::fflush(stdout) == 0;
  });
}

Result<int> Get(const GetOptions& options, const Session& session) {
  GODWIT_ASSIGN(const std::string kind, KindOf(options.kind));
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  if (options.watch) {
    GODWIT_TRY(Watch(*cluster, kind, options, session));
    return kExitDone;
  }
  GODWIT_ASSIGN(const json items, Read(*cluster, kind, options.names));
  if (items.empty() && (session.output == "table" || session.output == "wide") && !session.quiet) {
    std::fprintf(stderr, "no %s\n", kind.c_str());
    return kExitDone;
  }
  std::fputs(FormatRecords(kind, items, session.output).c_str(), stdout);
  return kExitDone;
}

Result<int> Describe(const GetOptions& options, const Session& session) {
  GODWIT_ASSIGN(const std::string kind, KindOf(options.kind));
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json items, Read(*cluster, kind, options.names));
  if (session.json()) {
    std::fputs(FormatRecords(kind, items, "json").c_str(), stdout);
    return kExitDone;
  }
  for (const json& item : items) {
    std::fputs(ToYaml(item).c_str(), stdout);
    if (kind == "services" || kind == "devices") {
      // What moved there, from there or of it.
      GODWIT_ASSIGN(const json migrations, cluster->Get("/v1/migrations"));
      json mine = json::array();
      const std::string name = item.value("name", "");
      for (const json& migration : migrations["items"]) {
        for (const char* member : {"service", "source", "target"}) {
          if (migration.value(member, "") != name) continue;
          mine.push_back(migration);
          break;
        }
      }
      if (!mine.empty()) std::printf("\nMigrations:\n%s", FormatRecords("migrations", mine, "table").c_str());
    }
    std::printf("%s", items.size() > 1 ? "---\n" : "");
  }
  return kExitDone;
}

}  // namespace

void AddGetCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = app.add_subcommand("get", "Show services, devices, instances, datasets, migrations or packages");
  command->add_option("kind", options->kind, "services, devices, instances, datasets, migrations, packages")->required();
  command->add_option("name", options->names, "Only these");
  command->add_flag("-w,--watch", options->watch, "Go on with every change");
  command->footer("Examples:\n  godwit get devices\n  godwit get services hello -o json\n  godwit get migrations --watch");
  command->callback([options, &session] { session.action = [options, &session] { return Get(*options, session); }; });
}

void AddDescribeCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<GetOptions>();
  CLI::App* command = app.add_subcommand("describe", "Show everything that is known of one thing");
  command->add_option("kind", options->kind, "service, device, instance, dataset, migration, package")->required();
  command->add_option("name", options->names, "Its name")->required();
  command->footer("Example:\n  godwit describe service hello");
  command->callback([options, &session] { session.action = [options, &session] { return Describe(*options, session); }; });
}

}  // namespace godwit::cli
