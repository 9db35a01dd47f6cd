// WASI preview 1: what a portable program imports from "wasi_snapshot_preview1".
//
// Files are reached only beneath the preopened folders (wasi_paths.h), every descriptor has its rights, and
// nothing here blocks the thread: waiting goes through Instance::Block. The whole state (descriptors, offsets,
// clock base, interrupted sleeps) is in Save() and Load(), so that a program goes on elsewhere as if nothing
// had happened: its CLOCK_MONOTONIC continues and open files are opened again by folder and path.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime/host.h"
#include "runtime/wasi_sockets.h"
#include "runtime/wasi_stream.h"

namespace godwit::runtime {

inline constexpr std::string_view kWasiModule = "wasi_snapshot_preview1";

namespace wasi {
class Calls;
}

struct Preopen {
  std::string host;   // Folder on this machine; kept as an absolute path.
  std::string guest;  // Name the guest sees, for example "/data" or ".".
  bool read_only = false;  // Changes fail with EROFS, as on a file system mounted read-only.
  // Of a folder that no other machine has: how many of its files are open, in all instances that it is given to. Save() fails
  // while one is. Null: a folder whose files are found elsewhere too.
  std::shared_ptr<std::atomic<std::uint64_t>> open_here;
};

// The host's clocks, in nanoseconds. SystemClock() is the real one.
class HostClock {
 public:
  virtual ~HostClock() = default;
  virtual std::uint64_t Realtime() const = 0;
  virtual std::uint64_t Monotonic() const = 0;  // CLOCK_MONOTONIC, as in Blocked::deadline.
  virtual std::uint64_t Cpu() const = 0;        // Of this process.
};
std::shared_ptr<const HostClock> SystemClock();

struct WasiOptions {
  std::vector<std::string> args;                              // args[0] is the program's name.
  std::vector<std::pair<std::string, std::string>> env;
  std::vector<Preopen> preopens;                              // Descriptors 3, 4, ... in this order.
  // Its listening sockets are the descriptors behind the folders. Null: none, and Load() refuses them.
  std::shared_ptr<Sockets> sockets;
  std::array<std::shared_ptr<Stream>, 3> stdio;               // Input, output, error; null: closed.
  // Load() opens host folders and listening sockets that a snapshot names and `preopens` and `sockets` do not give. Off
  // where snapshots come from others: then Load() refuses them.
  bool folders_from_snapshot = true;
  std::shared_ptr<const HostClock> clock;                     // Null: SystemClock().
};

// One instance's WASI. Used by the instance's thread only.
class Wasi final : public HostModule {
 public:
  static constexpr std::uint32_t kDescriptorsMax = 1024;
  static constexpr std::uint32_t kVectorsMax = 1024;          // iovecs in one call
  static constexpr std::uint32_t kSubscriptionsMax = 4096;    // in one poll_oneoff
  static constexpr std::size_t kArgumentBytesMax = 2 << 20;   // args and env together
  static constexpr std::size_t kDirectoryEntriesMax = 1 << 20;  // of all open listings together
  static constexpr std::size_t kDetachedBytesMax = 16 << 20;  // of all open files without a name together, to move

  // kNotFound or kPermissionDenied naming a folder; kInvalidArgument for a NUL in args or env, an empty guest
  // path, or more than kArgumentBytesMax of args and env.
  static Result<std::shared_ptr<Wasi>> Create(WasiOptions options);
  ~Wasi() override;

  std::string_view name() const override { return kWasiModule; }
  std::optional<HostFunction> Find(std::string_view function) const override;
  // Open files that were removed travel with their contents. kFailedPrecondition names an open file that was replaced,
  // or that takes removed ones past kDetachedBytesMax, or of a folder that is here only: it cannot be opened elsewhere.
  Result<Bytes> Save() const override;
  // Replaces the whole state, args and env included; folders of `preopens` with the same guest path are used
  // instead of the snapshot's. kFailedPrecondition names a file or folder that is not there (or not of its
  // kind), kPermissionDenied a folder that may not be opened, kCorrupt what is wrong. Unchanged on failure.
  Status Load(ByteView state) override;

  wasi::Calls& calls() { return *calls_; }

 private:
  explicit Wasi(std::unique_ptr<wasi::Calls> calls);
  std::unique_ptr<wasi::Calls> calls_;
};

}  // namespace godwit::runtime
