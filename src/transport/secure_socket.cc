#include "transport/secure_socket.h"

#include <boost/asio/write.hpp>

namespace godwit::transport {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr std::size_t kReadBytes = 256 << 10;
constexpr std::size_t kHandshakeReadBytes = 4 << 10;

Status StatusOf(error_code error) {
  if (!error) return {};
  return Unavailable(error == asio::error::eof ? "closed by the peer" : error.message());
}

}  // namespace

void SecureSocket::Handshake(std::function<void(Status)> done) {
  if (tls_) Shake(done);
  else done({});
}

void SecureSocket::Shake(const std::function<void(Status)>& done) {
  const auto shaken = tls_->Handshake();
  sealed_.swap(tls_->outgoing());
  tls_->outgoing().clear();
  const auto next = [this, shaken, done](Status written) {
    if (!shaken.ok()) return done(shaken.error());  // The peer has been told why, if it listens.
    if (!written.ok() || *shaken) return done(written);
    socket_.async_read_some(asio::buffer(tls_->Space(kHandshakeReadBytes).data(), kHandshakeReadBytes),
                            [this, done](error_code error, std::size_t n) {
      received_ += n;
      if (error) return done(StatusOf(error));
      tls_->Received(n);
      Shake(done);
    });
  };
  if (sealed_.empty()) next({});
  else WriteWire(sealed_.data(), sealed_.size(), next);
}

void SecureSocket::Read(std::function<void(Status, ByteView)> done) {
  plain_.resize(kReadBytes);
  if (tls_) {
    const auto read = tls_->Read(plain_);
    if (!read.ok() || *read != 0) {
      // Not from here: a user who reads on and on would never return to the loop.
      return asio::post(socket_.get_executor(), [this, read, done = std::move(done)] {
        if (read.ok()) done({}, ByteView(plain_).first(*read));
        else done(read.error(), {});
      });
    }
  }
  std::uint8_t* to = tls_ ? tls_->Space(kReadBytes).data() : plain_.data();
  socket_.async_read_some(asio::buffer(to, kReadBytes), [this, done = std::move(done)](error_code error, std::size_t n) mutable {
    received_ += n;
    if (error) return done(StatusOf(error), {});
    if (!tls_) return done({}, ByteView(plain_).first(n));
    tls_->Received(n);
    const auto read = tls_->Read(plain_);
    if (!read.ok()) return done(read.error(), {});
    if (*read == 0) return Read(std::move(done));
    done({}, ByteView(plain_).first(*read));
  });
}

void SecureSocket::Write(ByteView bytes, std::function<void(Status)> done) {
  if (!tls_) return WriteWire(bytes.data(), bytes.size(), std::move(done));
  const Status sealed = tls_->Write(bytes);
  sealed_.swap(tls_->outgoing());
  tls_->outgoing().clear();
  if (!sealed.ok()) return asio::post(socket_.get_executor(), [sealed, done = std::move(done)] { done(sealed); });
  WriteWire(sealed_.data(), sealed_.size(), std::move(done));
}

void SecureSocket::WriteWire(const std::uint8_t* bytes, std::size_t size, std::function<void(Status)> done) {
  asio::async_write(socket_, asio::buffer(bytes, size), [this, done = std::move(done)](error_code error, std::size_t n) {
    sent_ += n;
    done(StatusOf(error));
  });
}

void SecureSocket::Close() {
  error_code ignored;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_both, ignored);
  socket_.close(ignored);
}

}  // namespace godwit::transport
