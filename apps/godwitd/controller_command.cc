#include <memory>

#include <spdlog/spdlog.h>

#include "commands.h"
#include "control/controller.h"

namespace godwit::daemon {
namespace {

struct ControllerFlags {
  std::string listen = "127.0.0.1:7070", data = "godwit-controller", metadata = "sqlite:", token_file;
  std::uint64_t lease_ttl_s = 10;
  bool die_with_parent = false;
};

Status RunController(const ControllerFlags& flags) {
  GODWIT_TRY(BlockSignals(flags.die_with_parent));
  GODWIT_TRY(EnterSandbox());
  GODWIT_ASSIGN(const Endpoint listen, ParseEndpoint(flags.listen));
  control::Controller::Options options;
  options.address = listen.address;
  options.port = listen.port;
  options.data = flags.data;
  options.metadata = flags.metadata;
  options.lease_ttl = std::chrono::seconds(flags.lease_ttl_s);
  if (!flags.token_file.empty()) {
    GODWIT_ASSIGN(options.token, ReadToken(flags.token_file));
  }
  GODWIT_ASSIGN(const auto controller, control::Controller::Start(std::move(options)));
  spdlog::info("controller at {}", controller->url());
  const int signal = WaitForSignal();
  spdlog::info("ending: signal {}", signal);
  return {};
}

}  // namespace

void AddControllerCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<ControllerFlags>();
  CLI::App* command = app.add_subcommand("controller", "Serve the /v1 API over the metadata store");
  command->add_option("--listen", flags->listen, "ADDRESS:PORT; beyond loopback only with --token-file")->capture_default_str();
  command->add_option("--data", flags->data, "Folder for packages and the embedded metadata store")->capture_default_str();
  command->add_option("--metadata", flags->metadata, "sqlite: or an etcd's http://HOST:PORT")->capture_default_str();
  command->add_option("--token-file", flags->token_file, "File with the cluster's token");
  command->add_option("--lease-ttl", flags->lease_ttl_s, "Seconds a device may be silent")->capture_default_str()->check(CLI::Range(2, 3600));
  command->add_flag("--die-with-parent", flags->die_with_parent, "End when the process that started this one ends");
  command->callback([flags, &exit_code] {
    const Status status = RunController(*flags);
    if (status.ok()) return;
    spdlog::error("{}", status.error().message);
    exit_code = 1;
  });
}

}  // namespace godwit::daemon
