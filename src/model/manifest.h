// Manifest: what a service's author grants and asks for (docs/formats/manifest.md).
//
// Everything that is not granted is denied. Parsing is strict: an unknown key, a wrong type or a value out of range
// is an error that names the line and the key. A Manifest that was parsed is valid.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"

namespace godwit::model {

enum class ServiceKind : std::uint8_t { kReactor, kCommand };            // "reactor", "command"
enum class StateClass : std::uint8_t { kStateless, kStateful, kDurable };  // "stateless", "stateful", "durable"
enum class DataAccess : std::uint8_t { kRead, kReadWrite };              // "read", "read-write"

struct HttpTrigger {
  std::string route;              // "/orders/{key}": begins with '/', a last segment may be a {parameter}.
  std::uint32_t concurrency = 1;  // Requests inside one instance at once; 1..kConcurrencyMax.
  bool web_socket = false;        // `websocket`: a client's WebSocket is taken, as a request with status 101; reactors only.
};

struct Limits {
  ByteCount memory = 256_MiB;                             // Linear memory of one instance.
  ByteCount body = 64_MiB;                                // `body_bytes`: of one request.
  std::chrono::milliseconds request_timeout{60'000};      // `request_timeout_ms`
  std::optional<std::chrono::milliseconds> cpu_per_request;  // `cpu_ms_per_request`
};

struct Placement {
  // Keys: "class", "isa", "device". All of `require` must hold; `prefer` decides among those that do.
  std::map<std::string, std::string> require;
  std::map<std::string, std::string> prefer;
  std::optional<DatasetName> near;  // Prefer the device that holds it.
};

struct MigrationPolicy {
  bool allow = true;
  std::optional<std::chrono::milliseconds> max_downtime;  // `max_downtime_ms`
};

inline constexpr std::uint32_t kConcurrencyMax = 256;
inline constexpr std::uint32_t kShardsMax = 64;
inline constexpr std::size_t kManifestBytesMax = 64 << 10;

struct Manifest {
  ServiceName name;
  ServiceKind kind = ServiceKind::kReactor;
  StateClass state = StateClass::kStateless;
  std::string source;   // Path of a .wasm/.wat or package, relative to the manifest's folder; may be empty.
  std::string package;  // Path of a package; at most one of `source` and `package` is set.
  std::uint32_t shards = 1;
  std::vector<HttpTrigger> http;
  std::map<std::string, std::string> env;
  std::vector<std::string> outbound_hosts;  // "host:port"
  std::map<DatasetName, DataAccess> data;
  std::vector<ServiceName> calls;
  Limits limits;
  Placement placement;
  MigrationPolicy migration;
  std::uint32_t scale_min = 1, scale_max = 1;  // Stateless only.
  std::string health_path;
  std::optional<double> slo_p99_ms, slo_min_rps;

  // Parses TOML. kInvalidArgument: "`file`:LINE: key `KEY`: reason", with the likely spelling of an unknown key.
  static Result<Manifest> FromToml(std::string_view text, std::string_view file);
  // The same document as JSON (a service record's `manifest`), checked as strictly.
  static Result<Manifest> FromJson(std::string_view json);
  std::string ToJson() const;

  // May the service touch the dataset that way, call that service?
  // A grant of a dataset is one of its parts too.
  bool MayRead(const DatasetName& dataset) const { return data.count(dataset) != 0 || data.count(WholeOf(dataset)) != 0; }
  bool MayWrite(const DatasetName& dataset) const;
  bool MayCall(const ServiceName& service) const;
  bool MayReach(std::string_view host_and_port) const;
};

// "64Mi", "512Ki", "1Gi", "4096": bytes with a binary suffix. nullopt if it is none or does not fit.
std::optional<ByteCount> ParseByteCount(std::string_view text);
std::string FormatByteCount(ByteCount bytes);

std::string_view ToString(ServiceKind kind);
std::string_view ToString(StateClass state);
std::string_view ToString(DataAccess access);

}  // namespace godwit::model
