#include "transport/token_stream.h"

#include <span>

#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/write.hpp>

namespace godwit::transport {

namespace asio = boost::asio;
using boost::system::error_code;

namespace {

constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kHandshakeReadBytes = 4 << 10;

Status StatusOf(error_code error) {
  if (!error) return {};
  return Unavailable(error == asio::error::eof ? "closed by the peer" : error.message());
}

error_code CodeOf(const Error& error) {
  return error.code == ErrorCode::kUnavailable ? make_error_code(asio::error::eof) : make_error_code(asio::error::connection_reset);
}

}  // namespace

void TokenStream::Handshake(Tls::Role role, std::string_view token, std::function<void(Status)> done) {
  tls_ = std::make_unique<Tls>(role, token);
  Shake(done);
}

void TokenStream::Shake(const std::function<void(Status)>& done) {
  const auto shaken = tls_->Handshake();
  sealed_ = std::exchange(tls_->outgoing(), {});
  const auto next = [this, shaken, done](error_code written, std::size_t) {
    if (!shaken.ok()) return done(shaken.error());  // The peer has been told why, if it listens.
    if (written || *shaken) return done(StatusOf(written));
    const auto space = tls_->Space(kHandshakeReadBytes);
    socket_.async_read_some(asio::buffer(space.data(), kHandshakeReadBytes), [this, done](error_code error, std::size_t n) {
      if (error) return done(StatusOf(error));
      tls_->Received(n);
      Shake(done);
    });
  };
  if (sealed_.empty()) next({}, 0);
  else asio::async_write(socket_, asio::buffer(sealed_), next);
}

void TokenStream::ReadInside(asio::mutable_buffer to, Done done) {
  const auto read = to.size() == 0 ? Result<std::size_t>(0) : tls_->Read(std::span(static_cast<std::uint8_t*>(to.data()), to.size()));
  if (read.ok() && *read == 0 && to.size() != 0) return ReadWire(to, std::move(done));
  // Not from here: a user who reads on and on would never return to the loop.
  asio::post(socket_.get_executor(), [read, done = std::move(done)] { read.ok() ? done({}, *read) : done(CodeOf(read.error()), 0); });
}

void TokenStream::ReadWire(asio::mutable_buffer to, Done done) {
  const auto space = tls_->Space(kReadBytes);
  socket_.async_read_some(asio::buffer(space.data(), kReadBytes), [this, to, done = std::move(done)](error_code error, std::size_t n) mutable {
    if (error) return done(error, 0);
    tls_->Received(n);
    const auto read = tls_->Read(std::span(static_cast<std::uint8_t*>(to.data()), to.size()));
    if (!read.ok()) return done(CodeOf(read.error()), 0);
    if (*read == 0) return ReadWire(to, std::move(done));
    done({}, *read);
  });
}

void TokenStream::WriteInside(Done done) {
  const Status sealed = tls_->Write(plain_);
  sealed_ = std::exchange(tls_->outgoing(), {});
  if (!sealed.ok()) return asio::post(socket_.get_executor(), [done = std::move(done)] { done(asio::error::connection_reset, 0); });
  asio::async_write(socket_, asio::buffer(sealed_), [n = plain_.size(), done = std::move(done)](error_code error, std::size_t) { done(error, error ? 0 : n); });
}

}  // namespace godwit::transport
