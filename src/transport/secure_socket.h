// SecureSocket: a TCP connection on an event loop whose bytes are inside TLS (tls.h), or plain where the user says so.
//
// Loop-bound. At most one read and one write are under way at a time; both end with an error when the socket is closed.
// Handlers must keep this alive. For this module's own files.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include <boost/asio/ip/tcp.hpp>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/tls.h"

namespace godwit::transport {

class SecureSocket {
 public:
  // Without `tls`, plain.
  SecureSocket(boost::asio::ip::tcp::socket socket, std::unique_ptr<Tls> tls) : socket_(std::move(socket)), tls_(std::move(tls)) {}

  boost::asio::ip::tcp::socket& tcp() { return socket_; }
  // TLS's handshake, once the socket is connected; plain: at once. Tls::Handshake's errors, or kUnavailable.
  void Handshake(std::function<void(Status)> done);
  // Gives what has come, at least a byte, valid until the next Read. kUnavailable, kCorrupt: nothing more will come.
  void Read(std::function<void(Status, ByteView)> done);
  // Writes all of `bytes`, which stay valid until `done`.
  void Write(ByteView bytes, std::function<void(Status)> done);
  void Close();
  // As Tls::ended; plain: false.
  bool ended() const { return tls_ && tls_->ended(); }

  // On the wire. Any thread.
  std::uint64_t sent() const { return sent_; }
  std::uint64_t received() const { return received_; }

 private:
  void Shake(const std::function<void(Status)>& done);
  void WriteWire(const std::uint8_t* bytes, std::size_t size, std::function<void(Status)> done);

  boost::asio::ip::tcp::socket socket_;
  const std::unique_ptr<Tls> tls_;
  Bytes plain_;   // What Read gives.
  Bytes sealed_;  // What is being written.
  std::atomic<std::uint64_t> sent_{0}, received_{0};
};

}  // namespace godwit::transport
