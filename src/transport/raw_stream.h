// RawStream: one TCP connection between two agents that carries plain bytes one after the other, for the pages of a
// moving instance, which are too many to go through an event loop and its buffers.
//
// It is secured as a channel is: TLS 1.3 by the cluster's token (tls.h), then the channel's handshake
// (channel_handshake.h). Calls block, on the caller's thread; a peer that takes nothing for
// `loss_timeout` is a lost peer. Whether a silent one lives is told by the channel beside it. One thread may read while another writes; Shut is for any thread and makes both fail.
#pragma once

#include <sys/uio.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/channel.h"
#include "transport/tls.h"

namespace godwit::transport {

class RawStream {
 public:
  // To "host:port". kUnavailable, kDeadlineExceeded after options.handshake_timeout, kPermissionDenied, kUnsupported.
  static Result<std::unique_ptr<RawStream>> Connect(const std::string& host, std::uint16_t port, const ChannelOptions& options);
  ~RawStream();
  RawStream(const RawStream&) = delete;
  RawStream& operator=(const RawStream&) = delete;

  // Writes all of it, in order. The span's elements are used up. kUnavailable: lost, any part may have been sent.
  Status Write(std::span<iovec> pieces);
  Status Write(ByteView bytes);
  // Fills all of `to`. kUnavailable: lost, `to` may have been written in part.
  Status Read(std::span<std::uint8_t> to);
  // Waits without sleeping until something has come, for at most so long. The reading thread's.
  void SpinForInput(std::chrono::microseconds most);
  void Shut();

  const ChannelIdentity& peer() const { return peer_; }
  // To the socket, TLS's own included.
  std::uint64_t bytes_written() const { return written_.load(); }

 private:
  friend class RawListener;
  RawStream(int fd, const ChannelOptions& options, Tls::Role role);
  Status Secure();
  Status WriteMessage(ByteView message);
  Result<Bytes> ReadMessage();
  Status SetTimeouts(std::chrono::milliseconds timeout);
  Status Send(std::span<iovec> pieces);
  Status SendSealed();
  Status Seal(ByteView plain);
  Status WriteSealed(std::span<iovec> pieces);
  Result<std::size_t> Receive(std::span<std::uint8_t> to);
  Status ReceiveSealed();

  const int fd_;
  ChannelIdentity peer_;
  std::mutex mutex_;  // Of tls_, not held while the socket blocks.
  const std::unique_ptr<Tls> tls_;  // None: plain.
  Bytes gathered_, sealed_;         // The writing thread's.
  std::atomic<std::uint64_t> written_{0};
};

// Waits for streams at a port of its own, for one migration.
class RawListener {
 public:
  // kUnavailable; kInvalidArgument: no IP address.
  static Result<std::unique_ptr<RawListener>> Listen(const std::string& address);
  ~RawListener();
  RawListener(const RawListener&) = delete;
  RawListener& operator=(const RawListener&) = delete;
  std::uint16_t port() const { return port_; }
  // The next stream whose peer proved itself; others are closed. kDeadlineExceeded after `timeout`, kAborted after Shut.
  Result<std::unique_ptr<RawStream>> Accept(const ChannelOptions& options, std::chrono::milliseconds timeout);
  void Shut();  // Any thread.

 private:
  RawListener(int fd, int wake, std::uint16_t port) : fd_(fd), wake_(wake), port_(port) {}
  const int fd_, wake_;
  const std::uint16_t port_;
};

}  // namespace godwit::transport
