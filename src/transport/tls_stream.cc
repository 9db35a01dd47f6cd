#include "transport/tls_stream.h"

#include <boost/asio/error.hpp>
#include <boost/asio/post.hpp>

namespace godwit::transport {

namespace asio = boost::asio;

namespace {

// kUnavailable: nothing more will come; anything else: what came was not what was sent.
boost::system::error_code CodeOf(const Status& status) {
  if (status.ok()) return {};
  return status.error().code == ErrorCode::kUnavailable ? make_error_code(asio::error::eof) : make_error_code(asio::error::connection_reset);
}

}  // namespace

void TlsStream::Handshake(std::unique_ptr<Tls> tls, std::function<void(Status)> done) {
  secure_ = std::make_unique<SecureSocket>(std::move(plain_), std::move(tls));
  secure_->Handshake(std::move(done));
}

void TlsStream::Read(asio::mutable_buffer to, Done done) {
  if (to.size() != 0 && read_.empty()) {
    return secure_->Read([this, to, done = std::move(done)](const Status& status, ByteView bytes) mutable {
      if (!status.ok()) return done(CodeOf(status), 0);
      read_ = bytes;
      const std::size_t n = asio::buffer_copy(to, asio::buffer(read_.data(), read_.size()));
      read_ = read_.subspan(n);
      done({}, n);
    });
  }
  const std::size_t n = asio::buffer_copy(to, asio::buffer(read_.data(), read_.size()));
  read_ = read_.subspan(n);
  // Not from here: a user who reads on and on would never return to the loop.
  asio::post(get_executor(), [n, done = std::move(done)] { done({}, n); });
}

void TlsStream::Write(Done done) {
  secure_->Write(written_, [n = written_.size(), done = std::move(done)](const Status& status) { done(CodeOf(status), status.ok() ? n : 0); });
}

}  // namespace godwit::transport
