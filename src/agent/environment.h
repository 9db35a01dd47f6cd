// Environment: what an instance's guest can reach outside itself - logs, datasets, other services - as the agent
// provides it. A fake stands in for it in tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "agent/request.h"
#include "base/bytes.h"
#include "base/result.h"
#include "device/request.h"
#include "model/ids.h"
#include "transport/kept_connection.h"

namespace godwit::agent {

inline constexpr std::size_t kCallResponseBytesMax = 16 << 20;  // A call's answer is held whole.
inline constexpr std::size_t kDataReadBytesMax = 512 << 10;     // Of one ranged read.

enum class LogLevel : std::uint8_t { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

// Who asks: checked by the side that holds the data or serves the call.
struct Asker {
  model::ServiceName service;
  model::InstanceId instance;
  model::Epoch epoch;
};

// "host:port" where `service` is "http[s]://host[:port]": such a call leaves the cluster.
inline std::optional<std::string> OutsideHost(std::string_view service) {
  for (const auto& [scheme, port] : {std::pair<std::string_view, const char*>("http://", ":80"), {"https://", ":443"}}) {
    if (!service.starts_with(scheme)) continue;
    std::string host(service.substr(scheme.size()));
    if (host.ends_with(']') || host.find(':') == host.npos) host += port;
    return host;
  }
  return std::nullopt;
}

struct OutgoingCall {
  Asker asker;
  model::ServiceName service;  // Or "http[s]://host[:port]".
  std::string method, target;
  std::vector<Header> headers;
  Bytes body;
  std::chrono::steady_clock::time_point deadline;
};

struct CallAnswer {
  std::uint16_t status = 0;
  std::vector<Header> headers;
  Bytes body;
};

// Something under way whose result will be dropped. Cancelling twice or after the end does nothing.
class Pending {
 public:
  virtual ~Pending() = default;
  virtual void Cancel() = 0;
};

// A TCP connection out of the cluster. The agent of `device`, where it was made, holds its socket wherever the instance goes.
struct ConnectionName {
  std::string device;
  std::uint64_t number = 0;
};
using transport::KeptConnection;
inline constexpr std::size_t kConnectionBytesMax = 128 << 10;  // Of one read or write.

struct DeviceInfo {
  std::string name, device_class, isa;
};

// Self-synchronised. A callback is called exactly once, perhaps before the function returns, on any thread.
class Environment {
 public:
  virtual ~Environment() = default;
  virtual const DeviceInfo& device() const = 0;
  virtual void Log(const Asker& from, LogLevel level, std::string_view line) = 0;
  virtual std::shared_ptr<Pending> Call(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) = 0;
  // Size of the dataset in bytes. kNotFound.
  virtual void DataSize(const Asker& asker, const model::DatasetName& dataset,
                        std::function<void(Result<std::uint64_t>)> done) = 0;
  // At most kDataReadBytesMax bytes from `offset`; fewer at the end, none past it.
  virtual void DataRead(const Asker& asker, const model::DatasetName& dataset, std::uint64_t offset,
                        std::uint32_t length, std::function<void(Result<Bytes>)> done) = 0;

  // A folder in which the datasets that the service may touch are files, as far as they are on this device; empty: there is none.
  virtual Result<std::string> DataFolder(const model::ServiceName& /*service*/, const std::set<model::DatasetName>& /*names*/) { return std::string(); }

  // Runs `request`, an Execute, over the dataset: where it lies, or here. Its function is a built-in one, or where `export_name`
  // is not empty that of the asker's service. The caller has checked that the dataset may be read. `done`
  // gets what the device said. Cancelling ends the work soon; `done` is called all the same.
  virtual std::shared_ptr<Pending> Offload(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name,
                                           device::Request request, std::function<void(Result<device::Completion>)> done) = 0;

  // As Offload, but the whole output is kept near the data as the dataset `result` (kept_result.h), which the service must be allowed to
  // write; `done` gets its bytes.
  virtual std::shared_ptr<Pending> Keep(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name, device::Request request,
                                        const model::DatasetName& result, std::function<void(Result<std::uint64_t>)> done) = 0;

  // --- Connections out of the cluster; the caller has checked that the service may reach `address` ("host:port").
  // Cancelling closes what is made. kUnavailable, kDeadlineExceeded, kResourceExhausted: the instance has too many.
  virtual std::shared_ptr<Pending> Connect(const Asker& asker, const std::string& address, std::chrono::milliseconds timeout,
                                           std::function<void(Result<ConnectionName>)> done) = 0;
  // As KeptConnection has them; kNotFound: no such connection (any more); kFailedPrecondition: the instance has a newer owner.
  virtual void ConnectionRead(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, std::uint32_t length,
                              std::function<void(Result<KeptConnection::Received>)> done) = 0;
  virtual void ConnectionWrite(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, Bytes bytes,
                               std::function<void(Result<std::uint64_t>)> done) = 0;
  virtual void ConnectionClose(const Asker& asker, const ConnectionName& connection) = 0;
};

}  // namespace godwit::agent
