// WebSocket: the server's end of one (RFC 6455), as a stream of bytes in each direction.
//
// In both streams a message is one or more pieces: the first byte of an RFC frame (5.2: 0x80 with the message's last piece; 1 text, 2 binary,
// 0 in all pieces but the first), the number of bytes (4, least significant first), the bytes. What the client sent comes in pieces of at most
// 60 KiB; those to it may have any size and be written cut anywhere. Pings and closing are done here.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/message.hpp>

#include "base/result.h"
#include "transport/event_loop.h"
#include "transport/http.h"

namespace godwit::transport {

inline constexpr std::size_t kWebSocketPieceMax = 60 << 10;

// RFC 6455, 7.4.1.
enum class WebSocketClose : std::uint16_t { kNormal = 1000, kGoingAway = 1001, kInternalError = 1011 };

// Loop-bound.
class WebSocket {
 public:
  // Answers the request `upgrade`, which came over `socket`, with 101 and `headers` too. `ended` is called once, later: the client
  // closed and something was written or 10 seconds passed since, the connection was lost, or Close is done.
  static std::shared_ptr<WebSocket> Accept(EventLoop& loop, boost::asio::ip::tcp::socket socket,
                                           const boost::beast::http::request<boost::beast::http::buffer_body>& upgrade, HttpHeaders headers,
                                           std::function<void()> ended);
  virtual ~WebSocket() = default;
  // Up to 64 KiB of the stream from the client, once there is some; empty after its end: the client closed. One at a time.
  virtual void Read(std::function<void(Result<std::string>)> done) = 0;
  // kInvalidArgument if these are no pieces: then the WebSocket is closed with 1011.
  virtual void Write(std::string bytes, std::function<void(Status)> done) = 0;
  // After what was written.
  virtual void Close(WebSocketClose code) = 0;
  // At once, without a word.
  virtual void Cut() = 0;
};

}  // namespace godwit::transport
