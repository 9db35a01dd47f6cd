// Gateway: HTTP in, requests to instances out.
//
// Finds the service by route, streams body and response through the relay in bounded memory, enforces the
// manifest's body and time limits, and answers what goes wrong with a problem (RFC 9457) that names the service:
// 404 no such route, 413, 502 lost, 503 with Retry-After, 504. Passes W3C trace context on or starts one, and gives
// each request an X-Request-Id.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <tuple>

#include "gateway/relay.h"
#include "transport/http_server.h"

namespace godwit::gateway {

// What OpenMetrics text needs of a histogram: seconds, upper bounds as in `bounds`.
struct LatencyHistogram {
  static constexpr std::array<double, 12> bounds{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5, 30};
  std::array<std::uint64_t, bounds.size() + 1> counts{};
  double sum = 0;
  void Add(double seconds);
};

// Loop-bound, but for MetricsText.
class Gateway {
 public:
  // Requests that no route takes, for example /healthz and /metrics of the agent. False: answered with 404.
  using Fallback = std::function<bool(const std::shared_ptr<transport::HttpExchange>&)>;
  // `relay` outlives the gateway.
  explicit Gateway(Relay& relay, Fallback fallback = nullptr);
  ~Gateway();

  // HttpServer's handler.
  void Handle(const std::shared_ptr<transport::HttpExchange>& exchange);
  // godwit_http_requests_total and godwit_http_request_duration_seconds as OpenMetrics text, without the final EOF line.
  std::string MetricsText();

 private:
  struct Flight;
  void Count(const std::string& service, int status, const std::string& method, double seconds);

  Relay& relay_;
  const Fallback fallback_;
  std::map<std::tuple<std::string, int, std::string>, std::uint64_t> requests_;
  std::map<std::string, LatencyHistogram> durations_;
  std::shared_ptr<Gateway*> self_;  // Null inside once the gateway is gone.
};

}  // namespace godwit::gateway
