// HttpClient: blocking HTTP/1.1 for the command line and for control calls; one connection, kept alive.
//
// Not for the gateway's data path. https:// servers show a certificate that this machine trusts (Tls::ToWebServer).
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
#include "transport/http.h"

namespace godwit::transport {

struct Url {
  std::string host;
  std::uint16_t port = 80;
  std::string target = "/";  // Path and query; never empty.
  bool secure = false;       // https; its port is 443 by default.
};
// kInvalidArgument for anything but http[s]://host[:port][/path][?query]; [v6] hosts are accepted.
Result<Url> ParseUrl(std::string_view url);
// Everything but RFC 3986's unreserved characters as %XX.
std::string PercentEncode(std::string_view text);
// kInvalidArgument on a bad escape.
Result<std::string> PercentDecode(std::string_view text);

struct HttpCall {
  std::string method = "GET";
  std::string target = "/";  // Path and query.
  HttpHeaders headers;
  std::string body;
  // Instead of `body`: called until it returns an empty piece; sent chunked unless body_bytes is given.
  std::function<Result<std::string>()> body_source;
  std::optional<std::uint64_t> body_bytes;
  std::chrono::milliseconds timeout{30'000};  // Without any progress; 0: none.
};

struct HttpAnswer {
  int status = 0;
  HttpHeaders headers;
  std::string body;
  const std::string* header(std::string_view name) const { return FindHeader(headers, name); }
};

// An event of a text/event-stream.
struct ServerEvent {
  std::string event;  // "message" where the stream names none.
  std::string id;
  std::string data;
};

// Takes a text/event-stream apart (HTML Living Standard, 9.2.6). Pure.
class ServerEventParser {
 public:
  // Calls `on_event` for each event that `bytes` completes. kResourceExhausted past 16 MiB in one event.
  Status Feed(std::string_view bytes, const std::function<void(ServerEvent)>& on_event);

 private:
  Status Line(std::string_view line, const std::function<void(ServerEvent)>& on_event);
  std::string line_;
  ServerEvent event_;
  bool has_data_ = false;
  bool skip_newline_ = false;
};

// Guarded by its user, except Cancel.
class HttpClient {
 public:
  struct Options {
    std::chrono::milliseconds connect_timeout{5'000};
    ByteCount answer_bytes_max = 64_MiB;  // Of an HttpAnswer's body; streams have no limit.
    // The cluster's. With one, all is inside TLS that is keyed by it, to a server that holds it too (HttpServer), and every call has it as its Authorization.
    std::string token;
  };
  // `url`'s path is put before every call's target. Connects at the first call, which fails with kPermissionDenied where the server does not hold the token.
  static Result<std::unique_ptr<HttpClient>> Create(std::string_view url, Options options);
  ~HttpClient();

  // The answer, whatever its status. kUnavailable: could not connect, or cut (then the effect is unknown; a kept
  // connection that the server had closed is opened anew once). kPermissionDenied: an https server's certificate is not trusted. kDeadlineExceeded: no progress within the
  // timeout. kAborted: cancelled.
  Result<HttpAnswer> Call(const HttpCall& call);
  // As Call, but a body of status 2xx goes to `on_data` piece by piece; false from it ends the call (kAborted).
  Result<HttpAnswer> Stream(const HttpCall& call, const std::function<bool(std::string_view)>& on_data);
  // Streams and parses server-sent events. Returns when the server ends the stream, `on_event` returns false
  // (kAborted) or the connection is lost.
  Result<HttpAnswer> Watch(const HttpCall& call, const std::function<bool(const ServerEvent&)>& on_event);
  // Any thread: the call under way, and later ones, return kAborted.
  void Cancel();

 private:
  struct Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace godwit::transport
