// HttpServer: HTTP/1.1 for the API and the gateway's ingress.
//
// Each request becomes an HttpExchange, handed to the handler on the loop when its head is complete. Bodies of
// both directions are pulled and pushed in pieces of at most 64 KiB, so an exchange holds little memory whatever
// its size. Requests of one connection are handled one after the other.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/event_loop.h"
#include "transport/http.h"

namespace godwit::transport {

struct HttpRequest {
  std::string method;
  std::string target;  // Path and query as sent.
  HttpHeaders headers;
  std::optional<std::uint64_t> content_length;
  bool has_body = false;
  bool web_socket = false;  // Asks to become a WebSocket: Begin(101) makes it one.
  std::string peer;    // "address:port"

  std::string_view path() const;                                // The target without the query.
  std::optional<std::string> query(std::string_view key) const;  // First value, percent-decoded.
  const std::string* header(std::string_view name) const { return FindHeader(headers, name); }
};

// One request and its response. Self-synchronised: any thread may call; callbacks run on the loop. If the last
// reference goes before the response was finished, the client gets 500 or, where it had begun, a cut connection.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;

  // Does not change.
  virtual const HttpRequest& request() const = 0;

  // The whole body. More than `limit`: kResourceExhausted, and the client was answered 413. Client gone:
  // kUnavailable.
  virtual void ReadAll(ByteCount limit, std::function<void(Result<std::string>)> done) = 0;
  // The next piece of the body, empty at its end; one Read at a time. Client gone or malformed: an error.
  virtual void Read(std::function<void(Result<std::string>)> done) = 0;

  // The whole response. Content-Length and Connection are added; a Date and the like are not.
  virtual void Respond(int status, HttpHeaders headers, std::string body) = 0;
  // application/problem+json.
  virtual void RespondProblem(int status, std::string_view detail) = 0;

  // A response in pieces: Begin, Write..., Finish. Without `content_length` it is sent chunked. Write's `done`
  // comes when the bytes were given to the system: write the next piece then, to keep memory bounded. Writes may
  // be queued up to 1 MiB; more is kResourceExhausted.
  virtual void Begin(int status, HttpHeaders headers, std::optional<std::uint64_t> content_length = std::nullopt) = 0;
  virtual void Write(std::string bytes, std::function<void(Status)> done = nullptr) = 0;
  virtual void Finish() = 0;
  // A request for a WebSocket that is begun with status 101 becomes one: Read and Write are its two streams (web_socket.h), and Finish
  // closes it. Read may come before; it waits.
  // Cuts the connection, so that the client sees that the response is not complete; a WebSocket is closed with 1011.
  virtual void Abort() = 0;

  // Called once, on the loop, if the client goes away before the response was finished (at once if it has).
  virtual void OnDisconnect(std::function<void()> gone) = 0;
};

// Self-synchronised.
class HttpServer {
 public:
  struct Options {
    std::string address = "127.0.0.1";
    std::uint16_t port = 0;  // 0: any free one.
    std::string token;       // The cluster's: clients that hold it may talk TLS that is keyed by it (no WebSockets then), others plain HTTP.
    std::chrono::milliseconds head_timeout{60'000};     // For a request's head to come in; the first one from the start.
    // Between requests. Long: a client that reuses a connection just as it is closed here loses a request.
    std::chrono::milliseconds idle_timeout{15 * 60'000};
    std::chrono::milliseconds stalled_timeout{60'000};  // A read or write that makes no progress at all.
    // For one more, that which is between requests for longest is closed; if none is, the new one. At most three quarters are WebSockets.
    std::size_t connections_max = 4096;
  };
  using Handler = std::function<void(std::shared_ptr<HttpExchange>)>;

  // Listens at once. kUnavailable if the address is in use, kInvalidArgument if it is none.
  static Result<std::unique_ptr<HttpServer>> Listen(EventLoop& loop, Options options, Handler handler);
  // Cuts what is still open. The handler is not called after this.
  virtual ~HttpServer() = default;

  virtual std::uint16_t port() const = 0;
  // "address:port".
  virtual std::string address() const = 0;
  // Accepts no more and closes idle connections, and WebSockets with 1001; exchanges under way finish.
  virtual void Drain() = 0;
};

}  // namespace godwit::transport
