// TlsStream: a TCP connection whose bytes are inside TLS once that was agreed on, and plain until then.
//
// An AsyncReadStream and AsyncWriteStream of Boost.Asio, for HTTP over a SecureSocket. Loop-bound; at most one read and one write are under way at a time, and
// their handlers must keep this alive. For this module's own files.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/secure_socket.h"

namespace godwit::transport {

class TlsStream {
 public:
  using executor_type = boost::asio::ip::tcp::socket::executor_type;

  explicit TlsStream(boost::asio::ip::tcp::socket socket) : plain_(std::move(socket)) {}
  executor_type get_executor() { return tcp().get_executor(); }
  boost::asio::ip::tcp::socket& tcp() { return secure_ ? secure_->tcp() : plain_; }

  // From now on inside TLS, once the handshake is done. SecureSocket::Handshake's errors.
  void Handshake(std::unique_ptr<Tls> tls, std::function<void(Status)> done);
  // As Tls::ended.
  bool ended() const { return secure_ && secure_->ended(); }
  bool secure() const { return secure_ != nullptr; }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Code, std::size_t)>(
        [this](auto handler, const Buffers& to) {
          if (!secure_) return plain_.async_read_some(to, std::move(handler));
          boost::asio::mutable_buffer first;
          for (auto at = boost::asio::buffer_sequence_begin(to); at != boost::asio::buffer_sequence_end(to) && first.size() == 0; ++at) first = *at;
          Read(first, Shared(std::move(handler)));
        },
        token, buffers);
  }

  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Code, std::size_t)>(
        [this](auto handler, const Buffers& from) {
          if (!secure_) return plain_.async_write_some(from, std::move(handler));
          written_.resize(std::min(boost::asio::buffer_size(from), kWriteMost));
          boost::asio::buffer_copy(boost::asio::buffer(written_), from);
          Write(Shared(std::move(handler)));
        },
        token, buffers);
  }

 private:
  using Code = boost::system::error_code;
  using Done = std::function<void(Code, std::size_t)>;
  static constexpr std::size_t kWriteMost = 256 << 10;

  template <typename Handler>
  static Done Shared(Handler handler) {  // Handlers need not be copyable; a std::function must be.
    return [shared = std::make_shared<Handler>(std::move(handler))](Code error, std::size_t n) { std::move (*shared)(error, n); };
  }
  void Read(boost::asio::mutable_buffer to, Done done);
  // What is in written_.
  void Write(Done done);

  boost::asio::ip::tcp::socket plain_;  // Until there is secure_.
  std::unique_ptr<SecureSocket> secure_;
  ByteView read_;  // What secure_ gave, and nobody has taken.
  Bytes written_;
};

}  // namespace godwit::transport
