#include "gateway/gateway.h"

#include <algorithm>
#include <random>

#include <fmt/format.h>

namespace godwit::gateway {

using transport::HttpExchange;
using transport::HttpHeader;
using transport::HttpHeaders;
using Clock = std::chrono::steady_clock;

namespace {

// Metrics' code for a client that went away before its answer.
constexpr int kClientGone = 499;
constexpr std::chrono::hours kWebSocketMost{24};  // How long one lasts at most.

// RFC 9110, 7.6.1, and what the gateway sets itself.
bool HopByHop(std::string_view name) {
  for (const std::string_view hop : {"Connection", "Keep-Alive", "Proxy-Connection", "Proxy-Authenticate", "Proxy-Authorization", "TE",
                                     "Trailer", "Transfer-Encoding", "Upgrade", "Expect", "Content-Length", "X-Request-Id", "traceparent"}) {
    if (transport::SameHeaderName(name, hop)) return true;
  }
  return false;
}

bool WebSocketHandshake(std::string_view name) {
  return transport::SameHeaderName(name, "Sec-WebSocket-Key") || transport::SameHeaderName(name, "Sec-WebSocket-Version") ||
         transport::SameHeaderName(name, "Sec-WebSocket-Extensions") || transport::SameHeaderName(name, "Sec-WebSocket-Accept");
}

bool NamedBy(const std::string* connection, std::string_view name) {
  if (!connection) return false;
  std::string_view rest = *connection;
  while (!rest.empty()) {
    std::string_view one = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), one.size() + 1));
    while (one.starts_with(' ')) one.remove_prefix(1);
    while (one.ends_with(' ')) one.remove_suffix(1);
    if (transport::SameHeaderName(one, name)) return true;
  }
  return false;
}

HttpHeaders EndToEnd(HttpHeaders headers) {
  const std::string* connection = transport::FindHeader(headers, "Connection");
  const std::optional<std::string> named = connection ? std::optional(*connection) : std::nullopt;
  std::erase_if(headers, [&](const HttpHeader& header) { return HopByHop(header.name) || NamedBy(named ? &*named : nullptr, header.name); });
  return headers;
}

std::string RandomHex(int words) {
  // Names, not secrets.
  static thread_local std::mt19937_64 random{std::random_device()()};
  std::string hex;
  for (int i = 0; i < words; ++i) hex += fmt::format("{:016x}", random() | 1);
  return hex;
}

std::string RequestId(const std::string* given) {
  constexpr std::size_t kMost = 128;
  const auto plain = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '-' || c == '_' || c == '.';
  };
  if (given && !given->empty() && given->size() <= kMost && std::all_of(given->begin(), given->end(), plain)) return *given;
  return RandomHex(2);
}

// W3C Trace Context, 3.2: version-traceid-parentid-flags in lower-case hexadecimal; ids are not all zero.
bool ValidTraceparent(std::string_view text) {
  if (text.size() < 55 || (text.size() > 55 && (text[55] != '-' || text.starts_with("00")))) return false;
  for (std::size_t i = 0; i < 55; ++i) {
    const bool dash = i == 2 || i == 35 || i == 52;
    const bool hex = (text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f');
    if (dash ? text[i] != '-' : !hex) return false;
  }
  return !text.starts_with("ff") && text.substr(3, 32).find_first_not_of('0') != std::string_view::npos &&
         text.substr(36, 16).find_first_not_of('0') != std::string_view::npos;
}

// Metrics have no unbounded labels.
std::string KnownMethod(const std::string& method) {
  for (const char* known : {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    if (method == known) return method;
  }
  return "other";
}

}  // namespace

void LatencyHistogram::Add(double seconds) {
  const auto slot = std::lower_bound(bounds.begin(), bounds.end(), seconds) - bounds.begin();
  ++counts[static_cast<std::size_t>(slot)];
  sum += seconds;
}

// One request from a client. Loop-bound; kept by the callbacks of the exchange and of the call.
struct Gateway::Flight : std::enable_shared_from_this<Gateway::Flight> {
  std::shared_ptr<Gateway*> gateway;
  std::shared_ptr<HttpExchange> exchange;
  std::shared_ptr<RelayedCall> call;
  std::string service, method, request_id;
  Clock::time_point begun = Clock::now();
  std::uint64_t body_bytes = 0, body_limit = 0;
  std::optional<std::uint64_t> body_length;
  bool body_done = false, reading = false, head = false, ended = false;
  int status = 0;

  void End(int final_status) {
    if (ended) return;
    ended = true;
    if (*gateway) {
      (*gateway)->Count(service, final_status, method, std::chrono::duration<double>(Clock::now() - begun).count());
    }
    call.reset();
  }

  void Problem(int code, const std::string& detail, std::chrono::milliseconds retry_after = {}, const std::string& ready = {}) {
    if (ended) return;
    HttpHeaders headers{{"Content-Type", "application/problem+json"}, {"X-Request-Id", request_id}};
    if (retry_after.count() > 0) headers.push_back({"Retry-After", std::to_string((retry_after.count() + 999) / 1000)});
    std::vector<std::pair<std::string, std::string>> extra;
    if (!service.empty()) extra.emplace_back("service", service);
    if (call && !call->place().instance.empty()) {
      extra.emplace_back("instance", call->place().instance.value);
      extra.emplace_back("device", call->place().device.value);
    }
    extra.emplace_back("request_id", request_id);
    exchange->Respond(code, std::move(headers), ready.empty() ? transport::ProblemJson(code, detail, extra) : ready);
    End(code);
  }

  void PumpBody() {
    if (ended || body_done || reading || !call || call->body_room() < transport::kChunkBytes) return;
    reading = true;
    exchange->Read([self = shared_from_this()](Result<std::string> piece) {
      self->reading = false;
      self->OnBody(std::move(piece));
    });
  }

  void OnBody(Result<std::string> piece) {
    if (ended || !call) return;
    if (!piece.ok()) {
      call->Cancel();
      return End(piece.error().code == ErrorCode::kInvalidArgument ? 400 : kClientGone);
    }
    body_bytes += piece->size();
    if (body_bytes > body_limit) {
      call->Cancel();
      if (head) {
        exchange->Abort();
        return End(status);
      }
      return TooLarge();
    }
    body_done = piece->empty() || (body_length && body_bytes >= *body_length);
    call->WriteBody(AsBytes(*piece), body_done);
    PumpBody();
  }

  void TooLarge() {
    Problem(413, fmt::format("the body is larger than {} bytes, the limit of service {} (limits.body_bytes)", body_limit, service));
  }

  void OnHead(int code, HttpHeaders headers, std::optional<std::uint64_t> length) {
    head = true;
    status = code;
    headers = EndToEnd(std::move(headers));
    if (code == 101) std::erase_if(headers, [](const HttpHeader& header) { return WebSocketHandshake(header.name); });
    headers.push_back({"X-Request-Id", request_id});
    exchange->Begin(code, std::move(headers), length);
  }

  void OnResponse(ByteView bytes) {
    // Counted until it was written, or the connection dropped it.
    auto held = Hold(bytes.size());
    if (!held) {
      if (call) call->Cancel();
      exchange->Abort();
      return End(status);
    }
    exchange->Write(std::string(AsText(bytes)), [call = call, held = std::move(held), n = bytes.size()](const Status& written) mutable {
      held.reset();
      if (written.ok() && call) call->Consumed(n);
    });
  }

  // Null where all requests together would hold too much.
  std::shared_ptr<void> Hold(std::size_t bytes) {
    if (!*gateway || !(*gateway)->relay_.held()->Add(bytes)) return nullptr;
    auto count = (*gateway)->relay_.held();
    HeldBytes* const counted = count.get();
    return {counted, [count = std::move(count), bytes](HeldBytes* of) { of->Remove(bytes); }};
  }

  void OnFailed(const Failure& failure) {
    if (ended) return;
    if (head) {
      exchange->Abort();
      return End(status);
    }
    Problem(failure.status, failure.message, failure.retry_after, failure.problem);
  }
};

Gateway::Gateway(Relay& relay, Fallback fallback)
    : relay_(relay), fallback_(std::move(fallback)), self_(std::make_shared<Gateway*>(this)) {}

Gateway::~Gateway() {
  relay_.loop().Run([this] { *self_ = nullptr; });
}

void Gateway::Handle(const std::shared_ptr<HttpExchange>& exchange) {
  const transport::HttpRequest& request = exchange->request();
  auto match = relay_.directory().Match(request.path());
  if (!match && fallback_ && fallback_(exchange)) return;

  auto flight = std::make_shared<Flight>();
  flight->gateway = self_;
  flight->exchange = exchange;
  flight->method = KnownMethod(request.method);
  flight->request_id = RequestId(request.header("X-Request-Id"));
  if (!match) return flight->Problem(404, fmt::format("no service has a route for {}", request.path()));
  const model::ServiceRecord* service = relay_.directory().service(match->service);
  flight->service = match->service.value;
  const auto trigger = std::ranges::find(service->manifest.http, match->route, &model::HttpTrigger::route);
  const bool web_socket = request.web_socket && trigger != service->manifest.http.end() && trigger->web_socket;
  flight->body_limit = web_socket ? UINT64_MAX : service->manifest.limits.body.value;
  flight->body_length = request.content_length;
  flight->body_done = !request.has_body && !web_socket;
  if (request.content_length.value_or(0) > flight->body_limit) return flight->TooLarge();

  RelayRequest relayed;
  relayed.match = *std::move(match);
  relayed.method = request.method;
  relayed.target = request.target;
  relayed.headers = EndToEnd(request.headers);
  const std::string* trace = request.header("traceparent");
  relayed.headers.push_back({"traceparent", trace && ValidTraceparent(*trace) ? *trace : fmt::format("00-{}-{}-01", RandomHex(2), RandomHex(1))});
  relayed.headers.push_back({"X-Request-Id", flight->request_id});
  if (web_socket) {
    // Its handshake is between the client and the gateway; that there is one, the agent learns by the header, which only gateways send.
    std::erase_if(relayed.headers, [](const HttpHeader& header) { return WebSocketHandshake(header.name); });
    relayed.headers.push_back({"Upgrade", "websocket"});
  }
  relayed.web_socket = web_socket;
  relayed.timeout = web_socket ? kWebSocketMost : service->manifest.limits.request_timeout;
  relayed.body_follows = request.has_body || web_socket;
  relayed.body_bytes = request.has_body ? request.content_length : std::nullopt;

  RelayHandlers handlers;
  handlers.on_head = [flight](int code, HttpHeaders headers, std::optional<std::uint64_t> length) { flight->OnHead(code, std::move(headers), length); };
  handlers.on_body = [flight](ByteView bytes) { flight->OnResponse(bytes); };
  handlers.on_end = [flight] {
    flight->exchange->Finish();
    flight->End(flight->status);
  };
  handlers.on_failed = [flight](const Failure& failure) { flight->OnFailed(failure); };
  handlers.on_body_wanted = [flight] { flight->PumpBody(); };
  flight->call = relay_.Open(std::move(relayed), std::move(handlers));
  exchange->OnDisconnect([flight] {
    if (flight->ended) return;
    if (flight->call) flight->call->Cancel();
    flight->End(kClientGone);
  });
  flight->PumpBody();
}

void Gateway::Count(const std::string& service, int status, const std::string& method, double seconds) {
  ++requests_[{service, status, method}];
  durations_[service].Add(seconds);
}

std::string Gateway::MetricsText() {
  std::string text;
  relay_.loop().Run([&] {
    text += "# TYPE godwit_http_requests counter\n";
    for (const auto& [labels, count] : requests_) {
      const auto& [service, code, method] = labels;
      text += fmt::format("godwit_http_requests_total{{service=\"{}\",code=\"{}\",method=\"{}\"}} {}\n", service, code, method, count);
    }
    text += "# TYPE godwit_http_request_duration_seconds histogram\n# UNIT godwit_http_request_duration_seconds seconds\n";
    for (const auto& [service, histogram] : durations_) {
      std::uint64_t total = 0;
      for (std::size_t i = 0; i < histogram.counts.size(); ++i) {
        total += histogram.counts[i];
        const std::string bound = i < histogram.bounds.size() ? fmt::format("{}", histogram.bounds[i]) : "+Inf";
        text += fmt::format("godwit_http_request_duration_seconds_bucket{{service=\"{}\",le=\"{}\"}} {}\n", service, bound, total);
      }
      text += fmt::format("godwit_http_request_duration_seconds_count{{service=\"{}\"}} {}\n", service, total);
      text += fmt::format("godwit_http_request_duration_seconds_sum{{service=\"{}\"}} {}\n", service, histogram.sum);
    }
  });
  return text;
}

}  // namespace godwit::gateway
