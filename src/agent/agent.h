// Agent: this device's part of the cluster: registered under a lease, it runs the instances the records assign to
// it, serves their requests over channels, stores datasets and packages, moves instances in and out, and reports.
//
// It does not know the gateway: what a request from outside or a call between services does is given to it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/environment.h"
#include "base/bytes.h"
#include "base/result.h"
#include "model/records.h"
#include "package/signature.h"
#include "transport/channel.h"
#include "transport/event_loop.h"
#include "transport/http_server.h"

namespace godwit::agent {

class Agent {
 public:
  struct Options {
    model::DeviceName name;
    model::DeviceClass device_class = model::DeviceClass::kHost;
    std::uint32_t cores = 1;
    double speed = 1, core_watts = 0, power_cap_watts = 0;  // As DeviceRecord has them.
    std::chrono::microseconds foreground_p99{0};  // Bound of the reads and writes of datasets here, which go before what runs over them; 0: none.
    ByteCount memory;                    // For instances.
    std::vector<std::string> emulated;   // What of the device is emulated, for people.
    std::string controller;              // URL
    std::string token;                   // Empty: none.
    bool plaintext = false;              // As ChannelOptions has it.
    std::shared_ptr<const package::TrustedKeys> trusted;  // Who must have signed what runs here; null: anybody may.
    std::filesystem::path data;          // Folder for packages, datasets and the migration log; made if absent.
    std::string channel_address = "127.0.0.1";
    std::uint16_t channel_port = 0;
    std::string advertise;               // Host that others reach this device at; empty: channel_address.
    std::string trust_domain;            // Of the agents that reach this one by UCX as well, without encryption; empty: none. Then device::Ucx was loaded.
    transport::LinkShape shape;          // Of the channels this agent opens.
    ByteCount data_cache{0};  // Memory for copies of datasets of other devices; 0: none are made.
    std::uint64_t migration_bytes_per_second = 0;  // The most that one move from here sends; 0: no limit.
  };
  // What the agent is composed with.
  struct Composition {
    // Calls another service; see Environment::Call. Any thread.
    std::function<std::shared_ptr<Pending>(OutgoingCall call, std::function<void(Result<CallAnswer>)> done)> call;
    // Records as they come, for the gateway's directory: kinds "services", "instances", "devices". `json` is empty
    // where a record was deleted. Any thread, in order per kind.
    std::function<void(const std::string& kind, const std::string& name, const std::string& json)> on_record;
  };

  // Listens for channels when it returns; nothing is registered before Join. `loop` outlives the agent.
  static Result<std::unique_ptr<Agent>> Create(transport::EventLoop& loop, model::BootId boot, Options options,
                                               Composition composition);
  // Gives the lease back and stops all instances. Not on the loop.
  virtual ~Agent() = default;
  // Registers with the controller, now and whenever needed; `http_port` is where this device's gateway listens.
  virtual void Join(std::uint16_t http_port) = 0;
  // PUT, GET, DELETE /v1/data/NAME, /healthz, /readyz. False: not the agent's. On the loop.
  virtual bool HandleHttp(const std::shared_ptr<transport::HttpExchange>& exchange) = 0;
  // Has everything moved away from here: until nothing is left, `within` is over, or `hurry` (asked ever so often) says so.
  // False: something is left. Not on the loop.
  virtual bool Leave(std::chrono::milliseconds within, const std::function<bool()>& hurry) = 0;
  virtual std::uint16_t channel_port() const = 0;
  // As OpenMetrics text without the final EOF line. Any thread.
  virtual std::string MetricsText() const = 0;
};

}  // namespace godwit::agent
