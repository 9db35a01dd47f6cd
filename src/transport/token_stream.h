// TokenStream: a TCP connection whose bytes are inside TLS by the cluster's token (tls.h) once that was agreed on, and plain until then.
//
// An AsyncReadStream and AsyncWriteStream of Boost.Asio. Loop-bound; at most one read and one write are under way at a time, and their handlers must keep this
// alive. For this module's own files.
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string_view>
#include <utility>

#include <boost/asio/async_result.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/tls.h"

namespace godwit::transport {

class TokenStream {
 public:
  using executor_type = boost::asio::ip::tcp::socket::executor_type;

  explicit TokenStream(boost::asio::ip::tcp::socket socket) : socket_(std::move(socket)) {}
  executor_type get_executor() { return socket_.get_executor(); }
  boost::asio::ip::tcp::socket& tcp() { return socket_; }
  const boost::asio::ip::tcp::socket& tcp() const { return socket_; }

  // From now on inside TLS, once the handshake is done. Tls::Handshake's errors, or kUnavailable.
  void Handshake(Tls::Role role, std::string_view token, std::function<void(Status)> done);
  bool secure() const { return tls_ != nullptr; }

  template <typename Buffers, typename Token>
  auto async_read_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Code, std::size_t)>(
        [this](auto handler, const Buffers& to) {
          if (!tls_) return socket_.async_read_some(to, std::move(handler));
          boost::asio::mutable_buffer first;
          for (auto at = boost::asio::buffer_sequence_begin(to); at != boost::asio::buffer_sequence_end(to) && first.size() == 0; ++at) first = *at;
          ReadInside(first, Shared(std::move(handler)));
        },
        token, buffers);
  }

  template <typename Buffers, typename Token>
  auto async_write_some(const Buffers& buffers, Token&& token) {
    return boost::asio::async_initiate<Token, void(Code, std::size_t)>(
        [this](auto handler, const Buffers& from) {
          if (!tls_) return socket_.async_write_some(from, std::move(handler));
          plain_.resize(std::min(boost::asio::buffer_size(from), kWriteMost));
          boost::asio::buffer_copy(boost::asio::buffer(plain_), from);
          WriteInside(Shared(std::move(handler)));
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
  void Shake(const std::function<void(Status)>& done);
  void ReadInside(boost::asio::mutable_buffer to, Done done);
  void ReadWire(boost::asio::mutable_buffer to, Done done);
  // What is in plain_.
  void WriteInside(Done done);

  boost::asio::ip::tcp::socket socket_;
  std::unique_ptr<Tls> tls_;
  Bytes plain_, sealed_;  // What is being written.
};

}  // namespace godwit::transport
