#include <memory>
#include <vector>

#include <spdlog/spdlog.h>

#include "agent/agent.h"
#include "commands.h"
#include "device/ucx.h"
#include "gateway/gateway.h"
#include "model/manifest.h"
#include "package/signature.h"
#include "service_calls.h"

namespace godwit::daemon {
namespace {

struct AgentFlags {
  std::string name, device_class = "host", join, listen_http = "127.0.0.1:0", listen_channel = "127.0.0.1:0", advertise,
              data = "godwit-agent", token_file, trust_keys, trust_domain, memory = "1Gi", data_cache = "0";
  std::vector<std::string> emulated;
  std::uint32_t cores = 1;
  double speed = 1, core_watts = 0, power_cap_watts = 0;
  std::uint32_t foreground_p99_us = 0;
  std::uint64_t link_bytes_per_second = 0, link_latency_us = 0, migration_bytes_per_second = 0;
  std::uint32_t drain_within_s = 0;
  bool plaintext = false;
  bool die_with_parent = false;
};

bool Loopback(const std::string& address) { return address.rfind("127.", 0) == 0 || address == "::1" || address == "localhost"; }

// What the gateway knows follows the records.
void PutRecord(gateway::Directory& directory, const std::string& kind, const std::string& name, const std::string& json) {
  if (kind == "services") {
    if (json.empty()) return directory.Remove(model::ServiceName(name));
    if (auto record = model::ServiceRecord::FromJson(json); record.ok()) directory.Put(std::move(*record));
  } else if (kind == "instances") {
    if (json.empty()) return directory.Remove(model::InstanceId(name));
    if (auto record = model::InstanceRecord::FromJson(json); record.ok()) directory.Put(std::move(*record));
  } else if (kind == "devices") {
    if (json.empty()) return directory.Remove(model::DeviceName(name));
    if (auto record = model::DeviceRecord::FromJson(json); record.ok()) directory.Put(std::move(*record));
  }
}

Result<agent::Agent::Options> AgentOptions(const AgentFlags& flags, const Endpoint& channel, const std::string& token) {
  agent::Agent::Options options;
  GODWIT_TRY(model::CheckName("--name", flags.name));
  options.name = model::DeviceName(flags.name);
  const auto device_class = model::ParseDeviceClass(flags.device_class);
  if (!device_class) return InvalidArgument("--class is host, csd or cpm, not '" + flags.device_class + "'");
  options.device_class = *device_class;
  const auto memory = model::ParseByteCount(flags.memory);
  if (!memory) return InvalidArgument("--memory: '" + flags.memory + "' is no number of bytes");
  options.memory = *memory;
  const auto data_cache = model::ParseByteCount(flags.data_cache);
  if (!data_cache) return InvalidArgument("--data-cache: '" + flags.data_cache + "' is no number of bytes");
  options.data_cache = *data_cache;
  options.cores = flags.cores;
  options.speed = flags.speed;
  options.core_watts = flags.core_watts;
  options.power_cap_watts = flags.power_cap_watts;
  options.foreground_p99 = std::chrono::microseconds(flags.foreground_p99_us);
  options.emulated = flags.emulated;
  options.controller = flags.join;
  options.token = token;
  options.plaintext = flags.plaintext;
  options.data = flags.data;
  if (!flags.trust_keys.empty()) {
    GODWIT_ASSIGN(auto trusted, package::TrustedKeys::Load(flags.trust_keys));
    options.trusted = std::make_shared<const package::TrustedKeys>(std::move(trusted));
  }
  options.trust_domain = flags.trust_domain;
  options.channel_address = channel.address;
  options.channel_port = channel.port;
  options.advertise = flags.advertise;
  options.migration_bytes_per_second = flags.migration_bytes_per_second;
  options.shape = {flags.link_bytes_per_second, std::chrono::microseconds(flags.link_latency_us)};
  return options;
}

Status RunAgent(const AgentFlags& flags) {
  if (!flags.trust_domain.empty()) {
    GODWIT_TRY(model::CheckName("--trust-domain", flags.trust_domain));
    GODWIT_TRY(device::Ucx::Load());
  }
  GODWIT_TRY(BlockSignals(flags.die_with_parent));
  GODWIT_TRY(EnterSandbox());
  std::string token;
  if (!flags.token_file.empty()) {
    GODWIT_ASSIGN(token, ReadToken(flags.token_file));
  }
  GODWIT_ASSIGN(const Endpoint http, ParseEndpoint(flags.listen_http));
  GODWIT_ASSIGN(const Endpoint channel, ParseEndpoint(flags.listen_channel));
  if (token.empty() && !(Loopback(http.address) && Loopback(channel.address))) {
    return PermissionDenied("listening beyond loopback needs --token-file");
  }
  GODWIT_ASSIGN(agent::Agent::Options options, AgentOptions(flags, channel, token));
  const model::BootId boot = model::BootId::Random();

  transport::EventLoop agent_loop("agent"), gateway_loop("gateway");
  gateway::Relay::Options relay_options;
  relay_options.channel.self = {options.name, model::BootId::Random()};
  relay_options.channel.token = token;
  relay_options.channel.plaintext = flags.plaintext;
  relay_options.channel.shape = options.shape;
  gateway::Relay relay(gateway_loop, relay_options);
  agent::Agent::Composition composition;
  composition.call = [&relay](agent::OutgoingCall call, std::function<void(Result<agent::CallAnswer>)> done) {
    return CallService(relay, std::move(call), std::move(done));
  };
  composition.on_record = [&relay](const std::string& kind, const std::string& name, const std::string& json) {
    relay.Update([=](gateway::Directory& directory) { PutRecord(directory, kind, name, json); });
  };
  GODWIT_ASSIGN(auto agent, agent::Agent::Create(agent_loop, boot, std::move(options), std::move(composition)));
  gateway::Gateway* metrics = nullptr;
  gateway::Gateway gateway(relay, [&](const std::shared_ptr<transport::HttpExchange>& exchange) {
    if (exchange->request().path() == "/metrics") {
      exchange->Respond(200, {{"Content-Type", "application/openmetrics-text; version=1.0.0; charset=utf-8"}},
                        agent->MetricsText() + metrics->MetricsText() + "# EOF\n");
      return true;
    }
    return agent->HandleHttp(exchange);
  });
  metrics = &gateway;
  transport::HttpServer::Options server_options;
  server_options.address = http.address;
  server_options.port = http.port;
  server_options.token = token;
  auto server = transport::HttpServer::Listen(gateway_loop, std::move(server_options), [&gateway](std::shared_ptr<transport::HttpExchange> exchange) {
    gateway.Handle(exchange);
  });
  if (!server.ok()) return server.error();
  agent->Join((*server)->port());
  spdlog::info("agent {}: gateway at {}, channels at port {}", flags.name, (*server)->address(), agent->channel_port());
  const int signal = WaitForSignal();
  spdlog::info("ending: signal {}", signal);
  if (flags.drain_within_s != 0) {
    const bool empty = agent->Leave(std::chrono::seconds(flags.drain_within_s), [] { return EndSignalWithin(std::chrono::milliseconds(50)); });
    spdlog::info("{}", empty ? "drained" : "not drained: what is left ends here");
  }
  (*server)->Drain();
  agent.reset();
  server->reset();
  return {};
}

}  // namespace

void AddAgentCommand(CLI::App& app, int& exit_code) {
  auto flags = std::make_shared<AgentFlags>();
  CLI::App* command = app.add_subcommand("agent", "Run a device's agent and gateway");
  command->add_option("--name", flags->name, "The device's name")->required();
  command->add_option("--class", flags->device_class, "host, csd or cpm")->capture_default_str();
  command->add_option("--join", flags->join, "The controller's URL")->required();
  command->add_option("--listen-http", flags->listen_http, "ADDRESS:PORT of the gateway")->capture_default_str();
  command->add_option("--listen-channel", flags->listen_channel, "ADDRESS:PORT for other agents")->capture_default_str();
  command->add_option("--advertise", flags->advertise, "Address that others reach this device at; default: the channel's");
  command->add_option("--data", flags->data, "Folder for packages and datasets")->capture_default_str();
  command->add_option("--token-file", flags->token_file, "File with the cluster's token");
  command->add_option("--trust-keys", flags->trust_keys, "PEM file of public keys: only packages that one of them signed run here");
  command->add_option("--trust-domain", flags->trust_domain,
                      "Reach agents of the same trust domain by UCX (RDMA, TCP) where that is faster, without encryption: only where nobody else is on the network")->type_name("NAME");
  command->add_option("--cores", flags->cores, "Cores of the device")->capture_default_str()->check(CLI::Range(1, 4096));
  command->add_option("--speed", flags->speed, "Speed of one core; a host's is 1")->capture_default_str()->check(CLI::Range(0.001, 1000.0));
  command->add_option("--core-watts", flags->core_watts, "Power of a busy core, for predictions; 0: not known")->check(CLI::Range(0.0, 10000.0));
  command->add_option("--power-cap-watts", flags->power_cap_watts, "Nothing moves here that would need more, by --core-watts; 0: no cap")->check(CLI::Range(0.0, 1e6));
  command->add_option("--foreground-p99-us", flags->foreground_p99_us,
                      "Functions over datasets here get less time while the 99th percentile of reads and writes of them is above this; 0: no bound");
  command->add_option("--memory", flags->memory, "Memory for instances, for example 4Gi")->capture_default_str();
  command->add_option("--data-cache", flags->data_cache, "Memory for copies of other devices' datasets that functions read here again and again, for example 1Gi; 0: none are made")->capture_default_str();
  command->add_option("--emulated", flags->emulated, "What of this device is emulated, for people; may be repeated")->take_all()->expected(1);
  command->add_option("--link-bytes-per-second", flags->link_bytes_per_second, "Emulate a slower link for what this agent sends");
  command->add_option("--link-latency-us", flags->link_latency_us, "Emulate a longer link for what this agent sends");
  command->add_option("--migration-bytes-per-second", flags->migration_bytes_per_second, "The most that one move from here sends; default: no limit");
  command->add_option("--drain-within", flags->drain_within_s,
                      "At SIGTERM, have everything moved away first, within so many seconds; a second signal ends at once")->type_name("SECONDS")->check(CLI::Range(1, 86400));
  command->add_flag("--plaintext", flags->plaintext, "No TLS between agents, to measure what it costs; on loopback alone, and all agents alike");
  command->add_flag("--die-with-parent", flags->die_with_parent, "End when the process that started this one ends");
  command->callback([flags, &exit_code] {
    const Status status = RunAgent(*flags);
    if (status.ok()) return;
    spdlog::error("{}", status.error().message);
    exit_code = 1;
  });
}

}  // namespace godwit::daemon
