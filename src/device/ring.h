// Shared-memory rings: a device of another process on this machine, without a system call a request while both are awake.
//
// Each connection has a memory of its own with two byte rings, made and sealed in size by the server; an eventfd each wakes a
// side that sleeps; the Unix socket that they came over tells the peer's end. Messages are those of wire.h, each after its
// length. What a peer writes into the rings is copied out and checked before it is believed.
#pragma once

#include <filesystem>
#include <memory>

#include "base/result.h"
#include "device/device.h"

namespace godwit::device {

inline constexpr std::size_t kRingBytes = 1 << 20;              // Of one direction.
inline constexpr std::size_t kRingConnectionsMax = 64;
inline constexpr std::size_t kCompletionsWaitingMax = 64 << 20; // Bytes for a client that does not take them: then it is dropped.

// Serves `device`, which outlives it, at a Unix socket; a socket that is there already is replaced. A path that begins with '@' is an
// abstract address: of this network namespace, and no file; since no file's permissions guard it, other users are turned away.
class RingServer {
 public:
  // Processes of this process's user speak for any tenant; those of another user are the tenant "uid:N".
  static Result<std::unique_ptr<RingServer>> Listen(const std::filesystem::path& socket, Device& device);
  virtual ~RingServer() = default;  // Ends all connections.
};

// kUnavailable: nobody listens there. kPermissionDenied: somebody of another user does. Its Call waits by itself for the completion, so that two processes that are awake
// answer each other within microseconds.
Result<std::unique_ptr<Device>> ConnectRing(const std::filesystem::path& socket);

}  // namespace godwit::device
