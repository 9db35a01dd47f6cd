#include "transport/http_client.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>

#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <fmt/format.h>

#include "transport/tls_stream.h"

namespace godwit::transport {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::ip::tcp;
using boost::system::error_code;

namespace {

constexpr std::size_t kHostBytesMax = 253;  // RFC 1035, section 2.3.4, as text.

}  // namespace

Result<Url> ParseUrl(std::string_view url) {
  const auto wrong = [&](std::string_view why) {
    return InvalidArgument(fmt::format("{}: {} (expected http://host[:port][/path], or https)", url, why));
  };
  Url parsed;
  parsed.secure = url.starts_with("https://");
  if (!parsed.secure && !url.starts_with("http://")) return wrong("not an http URL");
  if (parsed.secure) parsed.port = 443;
  std::string_view rest = url.substr(url.find("//") + 2);
  const auto slash = rest.find_first_of("/?");
  std::string_view authority = rest.substr(0, slash);
  parsed.target = slash == std::string_view::npos ? "/" : std::string(rest.substr(slash));
  if (parsed.target[0] == '?') parsed.target.insert(0, "/");
  if (authority.find('@') != std::string_view::npos) return wrong("user names in URLs are not supported");
  std::string_view port;
  if (authority.starts_with('[')) {
    const auto end = authority.find(']');
    if (end == std::string_view::npos) return wrong("the address has no closing bracket");
    parsed.host = std::string(authority.substr(1, end - 1));
    authority.remove_prefix(end + 1);
    if (!authority.empty() && authority[0] != ':') return wrong("text after the address");
    port = authority.empty() ? authority : authority.substr(1);
  } else {
    const auto colon = authority.find(':');
    parsed.host = std::string(authority.substr(0, colon));
    if (colon != std::string_view::npos) port = authority.substr(colon + 1);
    if (colon != std::string_view::npos && port.empty()) return wrong("the port is missing");
  }
  if (parsed.host.empty()) return wrong("the host is missing");
  if (parsed.host.size() > kHostBytesMax) return wrong("the host is longer than a name may be");
  if (!port.empty()) {
    const auto [end, error] = std::from_chars(port.data(), port.data() + port.size(), parsed.port);
    if (error != std::errc() || end != port.data() + port.size() || parsed.port == 0) return wrong("not a port");
  }
  const auto bad = [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; };
  if (std::any_of(url.begin(), url.end(), bad)) return wrong("spaces and control characters must be percent-encoded");
  return parsed;
}

std::string PercentEncode(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '.' || c == '_' || c == '~';
    if (plain) out += c;
    else out += fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return out;
}

Result<std::string> PercentDecode(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    unsigned value = 0;
    const char* digits = text.data() + i + 1;
    if (i + 2 >= text.size() || std::from_chars(digits, digits + 2, value, 16).ptr != digits + 2) {
      return InvalidArgument(fmt::format("'{}' has a percent escape without two hexadecimal digits", text));
    }
    out += static_cast<char>(value);
    i += 2;
  }
  return out;
}

Status ServerEventParser::Feed(std::string_view bytes, const std::function<void(ServerEvent)>& on_event) {
  constexpr std::size_t kEventMax = 16 << 20;
  for (const char c : bytes) {
    if (skip_newline_ && c == '\n') {
      skip_newline_ = false;
      continue;
    }
    skip_newline_ = c == '\r';
    if (c == '\n' || c == '\r') {
      GODWIT_TRY(Line(line_, on_event));
      line_.clear();
      continue;
    }
    if (line_.size() + event_.data.size() >= kEventMax) return ResourceExhausted("a server-sent event is larger than 16 MiB");
    line_ += c;
  }
  return {};
}

Status ServerEventParser::Line(std::string_view line, const std::function<void(ServerEvent)>& on_event) {
  if (line.empty()) {
    if (has_data_) {
      if (event_.event.empty()) event_.event = "message";
      if (!event_.data.empty()) event_.data.pop_back();  // The line feed after the last data line.
      ServerEvent event = event_;
      event_.data.clear();
      event_.event.clear();
      has_data_ = false;
      on_event(std::move(event));
    } else {
      event_.event.clear();
    }
    return {};
  }
  if (line[0] == ':') return {};
  const auto colon = line.find(':');
  const std::string_view field = line.substr(0, colon);
  std::string_view value = colon == std::string_view::npos ? std::string_view() : line.substr(colon + 1);
  if (value.starts_with(' ')) value.remove_prefix(1);
  if (field == "data") {
    event_.data.append(value).append("\n");
    has_data_ = true;
  } else if (field == "event") {
    event_.event = std::string(value);
  } else if (field == "id" && value.find('\0') == std::string_view::npos) {
    event_.id = std::string(value);
  }
  return {};
}

struct HttpClient::Impl {
  Url base;
  std::string prefix;
  Options options;
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work = asio::make_work_guard(context);
  TlsStream stream{tcp::socket(context)};
  boost::beast::flat_buffer buffer{256 << 10};
  bool connected = false;
  std::atomic<bool> cancelled{false};

  void Disconnect() {
    error_code ignored;
    stream.tcp().close(ignored);
    buffer.clear();
    connected = false;
  }

  std::string Where() const { return fmt::format("{}:{}", base.host, base.port); }

  // Runs one asynchronous operation to its end. kDeadlineExceeded, kAborted, kUnavailable; `error_out` has its code.
  template <typename Operation>
  Status Wait(std::chrono::milliseconds timeout, const char* what, error_code& error_out, Operation operation) {
    bool done = false, late = false;
    asio::steady_timer timer(context);
    const auto give_up = [&] {
      error_code ignored;
      stream.tcp().close(ignored);
      connected = false;
    };
    operation([&](error_code error, auto&&...) {
      error_out = error;
      done = true;
      timer.cancel();
    });
    context.restart();
    context.poll();
    const bool timer_pending = !done && timeout.count() > 0;  // What is there already needs none.
    if (timer_pending) {
      timer.expires_after(timeout);
      timer.async_wait([&](error_code error) {
        if (error || done) return;
        late = true;
        give_up();
      });
    }
    bool closed = false;
    while (!done) {
      if (cancelled && !closed) {
        closed = true;
        give_up();
      }
      context.restart();
      context.run_one();
    }
    // The cancelled timer's handler refers to this frame: let it go by.
    if (timer_pending) context.poll();
    if (cancelled) {
      Disconnect();
      return Aborted("the HTTP call was cancelled");
    }
    if (late) {
      Disconnect();
      return DeadlineExceeded(fmt::format("{}: {} took longer than {} ms", Where(), what, timeout.count()));
    }
    return {};
  }

  Status Connect() {
    if (connected) return {};
    Disconnect();
    if (cancelled) return Aborted("the HTTP call was cancelled");
    error_code error;
    tcp::resolver resolver(context);
    const auto endpoints = resolver.resolve(base.host, std::to_string(base.port), error);
    if (error) return Unavailable(fmt::format("cannot find {}: {}", base.host, error.message()));
    stream = TlsStream(tcp::socket(context));
    GODWIT_TRY(Wait(options.connect_timeout, "connecting", error,
                    [&](auto done) { asio::async_connect(stream.tcp(), endpoints, std::move(done)); }));
    if (error) {
      Disconnect();
      return Unavailable(fmt::format("cannot connect to {}: {}", Where(), error.message()));
    }
    stream.tcp().set_option(tcp::no_delay(true), error);
    if (base.secure || !options.token.empty()) {
      Status shaken;
      GODWIT_TRY(Wait(options.connect_timeout, "agreeing on TLS", error, [&](auto done) {
        stream.Handshake(base.secure ? Tls::ToWebServer(base.host) : std::make_unique<Tls>(Tls::Role::kConnecting, options.token), [&shaken, done](Status status) mutable {
          shaken = std::move(status);
          done({});
        });
      }));
      if (!shaken.ok()) {
        Disconnect();
        if (shaken.error().code == ErrorCode::kUnavailable) return Unavailable(fmt::format("{}: the connection was lost while agreeing on TLS: {}", Where(), shaken.error().message));
        if (base.secure) return shaken.error().Within(Where());
        return PermissionDenied(fmt::format("{}: this end has a token, and the other does not hold the same one, or is too old for it: {}", Where(), shaken.error().message));
      }
    }
    connected = true;
    return {};
  }

  Status Write(const HttpCall& call, std::string_view bytes) {
    error_code error;
    GODWIT_TRY(Wait(call.timeout, "sending", error, [&](auto done) { asio::async_write(stream, asio::buffer(bytes), std::move(done)); }));
    if (error) return Unavailable(fmt::format("{}: the connection was lost while sending: {}", Where(), error.message()));
    return {};
  }

  Status SendBody(const HttpCall& call) {
    for (;;) {
      auto piece = call.body_source();
      if (!piece.ok()) {
        Disconnect();
        return piece.error();
      }
      if (call.body_bytes) {
        if (piece->empty()) return {};
        GODWIT_TRY(Write(call, *piece));
        continue;
      }
      GODWIT_TRY(Write(call, piece->empty() ? std::string("0\r\n\r\n") : fmt::format("{:x}\r\n", piece->size()) + *piece + "\r\n"));
      if (piece->empty()) return {};
    }
  }

  Result<std::string> Head(const HttpCall& call) const {
    std::string target = prefix + call.target;
    const auto bad = [](char c) { return static_cast<unsigned char>(c) <= 0x20 || c == 0x7f; };
    if (target.empty() || target[0] != '/' || std::any_of(target.begin(), target.end(), bad)) {
      return InvalidArgument(fmt::format("'{}' is not a request target: it must begin with / and be percent-encoded", target));
    }
    std::string head = fmt::format("{} {} HTTP/1.1\r\nHost: {}\r\n", call.method, target, Where());
    const auto add = [&](const HttpHeaders& headers) -> Status {
      for (const HttpHeader& header : headers) {
        if (!ValidHeader(header)) return InvalidArgument(fmt::format("header '{}' is not valid", header.name));
        head.append(header.name).append(": ").append(header.value).append("\r\n");
      }
      return {};
    };
    if (!options.token.empty()) GODWIT_TRY(add({{"Authorization", "Bearer " + options.token}}));
    GODWIT_TRY(add(call.headers));
    if (call.body_source && !call.body_bytes) head += "Transfer-Encoding: chunked\r\n";
    else if (call.body_source) head += fmt::format("Content-Length: {}\r\n", *call.body_bytes);
    else if (!call.body.empty() || (call.method != "GET" && call.method != "HEAD")) head += fmt::format("Content-Length: {}\r\n", call.body.size());
    return head + "\r\n";
  }

  // `on_data` is null for a buffered answer.
  Result<HttpAnswer> Run(const HttpCall& call, const std::function<bool(std::string_view)>* on_data) {
    const bool was_connected = connected;
    bool began = false;
    auto answer = Attempt(call, on_data, began);
    // A kept connection that the server closed between two calls fails before any byte of an answer.
    if (!answer.ok() && answer.error().code == ErrorCode::kUnavailable && was_connected && !began && !call.body_source) {
      answer = Attempt(call, on_data, began);
    }
    return answer;
  }

  Result<HttpAnswer> Attempt(const HttpCall& call, const std::function<bool(std::string_view)>* on_data, bool& began) {
    GODWIT_ASSIGN(std::string head, Head(call));
    GODWIT_TRY(Connect());
    Status sent = Write(call, call.body_source ? head : head + call.body);
    if (sent.ok() && call.body_source) sent = SendBody(call);
    // A server may answer and close before it has read everything (413): then its answer counts, not the failed write.
    if (!sent.ok() && (sent.error().code != ErrorCode::kUnavailable || !connected)) {
      Disconnect();
      return sent.error();
    }

    http::response_parser<http::buffer_body> parser;
    parser.header_limit(static_cast<std::uint32_t>(kHttpHeaderBytesMax.value));
    parser.body_limit(boost::none);
    if (call.method == "HEAD") parser.skip(true);
    error_code error;
    GODWIT_TRY(Wait(call.timeout, "waiting for the answer", error,
                    [&](auto done) { http::async_read_header(stream, buffer, parser, std::move(done)); }));
    if (error) {
      Disconnect();
      if (!sent.ok()) return sent.error();
      return Unavailable(fmt::format("{}: no answer: {}", Where(), error.message()));
    }
    began = true;
    HttpAnswer answer;
    answer.status = static_cast<int>(parser.get().result_int());
    for (const auto& field : parser.get()) answer.headers.push_back({std::string(field.name_string()), std::string(field.value())});
    const bool streamed = on_data && answer.status / 100 == 2;
    std::array<char, 64 << 10> piece;
    while (!parser.is_done()) {
      parser.get().body().data = piece.data();
      parser.get().body().size = piece.size();
      parser.get().body().more = true;
      GODWIT_TRY(Wait(call.timeout, "reading the answer", error,
                      [&](auto done) { http::async_read_some(stream, buffer, parser, std::move(done)); }));
      if (error == http::error::need_buffer) error = {};
      if (error) {
        Disconnect();
        return Unavailable(fmt::format("{}: the answer was cut: {}", Where(), error.message()));
      }
      const std::string_view got(piece.data(), piece.size() - parser.get().body().size);
      if (got.empty()) continue;
      if (streamed) {
        if (!(*on_data)(got)) {
          Disconnect();
          return Aborted("the reader of the HTTP answer wanted no more");
        }
        continue;
      }
      if (answer.body.size() + got.size() > options.answer_bytes_max.value) {
        Disconnect();
        return ResourceExhausted(fmt::format("{}: the answer is larger than {} bytes", Where(), options.answer_bytes_max.value));
      }
      answer.body.append(got);
    }
    if (base.secure && parser.need_eof() && !stream.ended()) {
      Disconnect();
      return Unavailable(fmt::format("{}: the answer was cut: the server did not end its TLS stream", Where()));
    }
    if (!parser.keep_alive() || !sent.ok()) Disconnect();
    return answer;
  }
};

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;

Result<std::unique_ptr<HttpClient>> HttpClient::Create(std::string_view url, Options options) {
  GODWIT_ASSIGN(Url base, ParseUrl(url));
  if (base.secure && !options.token.empty()) return InvalidArgument(fmt::format("{}: the cluster's token is for the cluster's own servers (http://), which prove that they hold it", url));
  auto impl = std::make_unique<Impl>();
  impl->prefix = base.target.substr(0, base.target.find('?'));
  while (!impl->prefix.empty() && impl->prefix.back() == '/') impl->prefix.pop_back();
  impl->base = std::move(base);
  impl->options = std::move(options);
  return std::unique_ptr<HttpClient>(new HttpClient(std::move(impl)));
}

Result<HttpAnswer> HttpClient::Call(const HttpCall& call) { return impl_->Run(call, nullptr); }

Result<HttpAnswer> HttpClient::Stream(const HttpCall& call, const std::function<bool(std::string_view)>& on_data) {
  return impl_->Run(call, &on_data);
}

Result<HttpAnswer> HttpClient::Watch(const HttpCall& call, const std::function<bool(const ServerEvent&)>& on_event) {
  ServerEventParser parser;
  Status failed;
  auto answer = Stream(call, [&](std::string_view bytes) {
    bool more = true;
    failed = parser.Feed(bytes, [&](const ServerEvent& event) { more = more && on_event(event); });
    return more && failed.ok();
  });
  if (!failed.ok()) return failed.error();
  return answer;
}

void HttpClient::Cancel() {
  impl_->cancelled = true;
  asio::post(impl_->context, [] {});  // Wakes the call that waits.
}

}  // namespace godwit::transport
