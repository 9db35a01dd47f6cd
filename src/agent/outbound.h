// Outbound: the connections out of the cluster whose sockets this agent holds, for instances that are here or have moved on.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/environment.h"
#include "transport/event_loop.h"
#include "transport/kept_connection.h"

namespace godwit::agent {

inline constexpr std::size_t kConnectionsPerInstanceMax = 64;
inline constexpr std::size_t kConnectionsMax = 4096;
inline constexpr std::chrono::minutes kConnectionIdleMax{5};  // Without a read or write it is closed.

// Loop-bound. An asker may only use what its instance made, and not with an older epoch than was seen.
class Outbound {
 public:
  // `first`: numbers count from it; another one at each start of the agent, so that none names two connections.
  Outbound(transport::EventLoop& loop, std::uint64_t first, std::chrono::milliseconds idle_max = kConnectionIdleMax);
  // The number of a new connection to "host:port". Errors as Environment::Connect.
  void Connect(const Asker& asker, const std::string& address, std::chrono::milliseconds timeout,
               std::function<void(Result<std::uint64_t>)> done);
  void Read(const Asker& asker, std::uint64_t number, std::uint64_t offset, std::uint32_t length,
            std::function<void(Result<KeptConnection::Received>)> done);
  void Write(const Asker& asker, std::uint64_t number, std::uint64_t offset, ByteView bytes,
             std::function<void(Result<std::uint64_t>)> done);
  void Close(const Asker& asker, std::uint64_t number);
  void CloseOf(const model::InstanceId& instance);

 private:
  struct Entry {
    model::InstanceId instance;
    model::Epoch epoch;
    std::shared_ptr<KeptConnection> connection;  // Null while it is being made.
    std::chrono::steady_clock::time_point used;
  };
  Result<std::shared_ptr<KeptConnection>> Find(const Asker& asker, std::uint64_t number);
  void Sweep();

  transport::EventLoop& loop_;
  const std::chrono::milliseconds idle_max_;
  std::shared_ptr<std::map<std::uint64_t, Entry>> entries_ = std::make_shared<std::map<std::uint64_t, Entry>>();
  std::uint64_t next_;
  transport::Timer sweep_;
};

}  // namespace godwit::agent
