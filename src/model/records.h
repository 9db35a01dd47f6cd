// Records: what the cluster knows of itself, as JSON values in the metadata store and as the /v1 API's resources
// (ARCHITECTURE.md, Records).
//
// FromJson refuses what lacks a required member or has one of a wrong type or out of range (kInvalidArgument with
// the member's name); members that it does not know are ignored, so that older readers accept newer writers.
// FromJson(ToJson(x)) is x.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"
#include "model/manifest.h"

namespace godwit::model {

enum class DeviceClass : std::uint8_t { kHost, kCsd, kCpm };                   // "host", "csd", "cpm"
enum class DeviceState : std::uint8_t { kReady, kCordoned, kOffline };         // "ready", ...
// What people, or a device that goes, want with it: "none", "cordon" (nothing new comes here), "drain" (and what is here
// goes elsewhere), "leave" (likewise, until its agent begins anew).
enum class Maintenance : std::uint8_t { kNone, kCordon, kDrain, kLeave };
enum class InstanceState : std::uint8_t { kPending, kStarting, kRunning, kFailed };  // "Pending", ...
enum class MigrationPhase : std::uint8_t {  // "Pending", ...
  kPending, kPreparing, kCopying, kStopping, kCommitting, kResuming, kDone, kFailed, kCancelled,
};

std::string_view ToString(DeviceClass value);
std::string_view ToString(DeviceState value);
std::string_view ToString(Maintenance value);
std::string_view ToString(InstanceState value);
std::string_view ToString(MigrationPhase value);
std::optional<DeviceClass> ParseDeviceClass(std::string_view text);

// Done, Failed and Cancelled: nothing changes any more.
constexpr bool IsFinal(MigrationPhase phase) { return phase >= MigrationPhase::kDone; }

// Key /devices/NAME; written by its agent under its lease, state by the controller, maintenance by people.
struct DeviceRecord {
  DeviceName name;
  DeviceClass device_class = DeviceClass::kHost;  // JSON member "class".
  std::string isa;                                // "x86_64", "aarch64".
  std::uint32_t cores = 1;
  ByteCount memory;                               // "memory_bytes"
  double load = 0;                                // Of all cores, 0..1.
  DeviceState state = DeviceState::kReady;        // kCordoned: alive, and under any maintenance.
  BootId boot_id;
  std::string channel;                            // "host:port" of its agent channel.
  std::string url;                                // "http://host:port" of its HTTP gateway.
  std::vector<std::string> emulated;              // What of it is emulated, for people.
  Maintenance maintenance = Maintenance::kNone;
  double speed = 1;            // Of one core, a host's being 1.
  double core_watts = 0;       // Of a busy core, by the device's power model; 0: none.
  double power_cap_watts = 0;  // 0: none.
  // What the requests of its running instances need, as measured of late; only of those that had requests.
  struct Use {
    InstanceId instance;
    double requests_per_second = 0, cpu_ms = 0, p99_ms = 0;  // cpu_ms: of one request, of this device's core.
  };
  std::vector<Use> uses;
  // The instances that have files of this device open, and how many: they cannot move until they close them.
  struct Open {
    InstanceId instance;
    std::uint64_t files = 0;
  };
  std::vector<Open> open_files;
  // The reads of its datasets in the last second, and what they leave to functions that run over them.
  struct Foreground {
    double per_second = 0, p50_us = 0, p99_us = 0;
    double share = 1;        // Of their time that functions may run.
    std::uint64_t running = 0;  // Functions that run now.
  };
  Foreground foreground;
  std::string page_tracker;  // How pages that a running guest writes are found here: "userfaultfd", "mprotect", "none".

  std::string ToJson() const;
  static Result<DeviceRecord> FromJson(std::string_view json);
};

// Key /packages/DIGEST.
struct PackageRecord {
  struct Blob {
    std::string digest;  // "sha256:<hex>"
    ByteCount size;      // "bytes"
  };
  std::string digest;
  std::vector<Blob> blobs;        // The index first.
  std::vector<std::string> isas;  // It has code for; set by the controller from the index.

  std::string ToJson() const;
  static Result<PackageRecord> FromJson(std::string_view json);
};

// Key /services/NAME; written by the command line.
struct ServiceRecord {
  ServiceName name;
  Manifest manifest;
  std::string package;           // Digest.
  std::uint64_t generation = 1;  // Set by the controller: one more at every change of the other members.

  std::string ToJson() const;
  static Result<ServiceRecord> FromJson(std::string_view json);
};

// Key /instances/ID. The controller assigns, the owning agent reports state; at a migration the target takes
// ownership by compare-and-swap (POST /v1/instances/ID/confirm).
struct InstanceRecord {
  InstanceId id;
  ServiceName service;
  std::uint32_t shard = 0;
  DeviceName device;
  Epoch epoch{1};
  InstanceState state = InstanceState::kPending;
  std::string reason;   // Why it is Pending or Failed, for people.
  std::string package;  // Digest.

  std::string ToJson() const;
  static Result<InstanceRecord> FromJson(std::string_view json);
};

// Key /migrations/ID. The controller writes the intent, the source's agent the progress.
struct MigrationRecord {
  struct Round {
    std::uint64_t bytes = 0, pages = 0, dirty_pages = 0, us = 0;
  };
  MigrationId id;
  ServiceName service;
  InstanceId instance;
  std::uint32_t shard = 0;
  DeviceName source, target;
  Epoch epoch;               // The target's: the instance's epoch when the move was asked for, plus one.
  std::string mode = "stop";
  std::string reason;        // Why it is moved: "manual", ...
  MigrationPhase phase = MigrationPhase::kPending;
  std::optional<std::uint64_t> max_downtime_ms;
  std::vector<Round> rounds;
  std::uint64_t stop_latency_us = 0;
  std::uint64_t downtime_us = 0;
  std::uint64_t total_us = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t memory_bytes = 0;
  std::string source_isa, target_isa;
  std::uint64_t requests_held = 0;
  std::string tracker;       // How the source found written pages; empty: it copied after the stop.
  std::uint64_t streams = 0; // Page streams.
  double slowed = 0;         // The largest share of its time that the guest was made to sleep so that the copy converged.
  std::string error;         // Why it Failed or was Cancelled; empty otherwise.

  std::string ToJson() const;
  static Result<MigrationRecord> FromJson(std::string_view json);
};

// Key /datasets/NAME; written by the agent that stores it.
struct DatasetRecord {
  DatasetName name;
  DeviceName device;
  ByteCount bytes;
  std::string digest;

  std::string ToJson() const;
  static Result<DatasetRecord> FromJson(std::string_view json);
};

}  // namespace godwit::model
