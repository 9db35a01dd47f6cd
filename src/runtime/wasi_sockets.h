// The sockets of a program: listening ones that were opened for it, and the connections it accepted from them.
//
// WASI preview 1 opens no sockets itself: listening ones are given, as folders are. This table belongs to whoever runs
// the program, not to an instance, so that a program that is stopped and resumed in one process keeps its connections. A
// connection cannot leave the process: what is resumed elsewhere finds its connections reset, as a network may do at
// any time, and its listening sockets bound anew.
//
// Used by the instance's thread only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "runtime/wasi_stream.h"

namespace godwit::runtime {

// One accepted connection. Never blocks and raises no signal. Errors: kUnavailable for a connection whose peer takes
// nothing any more (EPIPE), kAborted for one that was reset.
class Connection final : public Stream {
 public:
  explicit Connection(wasi::HostFd fd) : fd_(std::move(fd)) {}
  // A connection that stayed behind: reset, whatever is asked of it.
  static std::shared_ptr<Connection> Lost() { return std::make_shared<Connection>(wasi::HostFd()); }

  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override { return TryReceive(to, false); }
  // `peek`: the bytes stay to be read again.
  Result<std::optional<std::size_t>> TryReceive(std::span<std::uint8_t> to, bool peek);
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override;
  bool Writable() override;
  int poll_fd() const override { return fd_.get(); }
  // Zero or an errno, as shutdown(2).
  int Shutdown(bool reads, bool writes);

 private:
  wasi::HostFd fd_;
};

class Sockets {
 public:
  static constexpr std::size_t kListenersMax = 16;
  static constexpr int kBacklog = 128;

  // Binds "ADDRESS:PORT" ("[...]" around one of IPv6, or "localhost"; port 0: any that is free) and listens.
  // kInvalidArgument for what is no such text, kResourceExhausted past kListenersMax, else what the host says, naming
  // the address.
  Status Listen(const std::string& address);
  std::size_t listeners() const { return listeners_.size(); }
  // As given to Listen, but with the port that was taken.
  const std::string& address(std::size_t listener) const { return listeners_[listener].address; }
  int poll_fd(std::size_t listener) const { return listeners_[listener].fd.get(); }

  // A waiting connection's id, or nullopt if none waits. Ids are never used twice.
  Result<std::optional<std::uint64_t>> Accept(std::size_t listener);
  // Connection::Lost() for an id that is not of this table.
  std::shared_ptr<Connection> Find(std::uint64_t id) const;
  void Close(std::uint64_t id) { connections_.erase(id); }
  std::size_t connections() const { return connections_.size(); }

 private:
  struct Listener {
    std::string address;
    wasi::HostFd fd;
  };
  std::vector<Listener> listeners_;
  std::map<std::uint64_t, std::shared_ptr<Connection>> connections_;
  // Begins at random: a snapshot's ids of another process must not be taken for ours.
  std::uint64_t next_id_ = 0;
};

}  // namespace godwit::runtime
