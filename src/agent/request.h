// Requests as an instance's host sees them: what comes in, what goes out, and what of one travels when its
// instance moves. No wire format and no threads here.
#pragma once

#include <chrono>
#include <compare>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"

namespace godwit::agent {

// Names a request for as long as it lives: drawn by the gateway (or calling agent) that opened it.
struct RequestId {
  std::uint64_t boot = 0;  // Of the process that opened it.
  std::uint64_t number = 0;
  friend auto operator<=>(const RequestId&, const RequestId&) = default;
};

struct Header {
  std::string name, value;
};

// Bytes of a body or of a response that may be sent beyond what was acknowledged.
inline constexpr std::size_t kWindowBytes = 256 << 10;

struct NewRequest {
  RequestId id;
  std::string method;
  std::string target;  // Path and query, as the client sent it.
  std::string route;   // The route that matched, for example "/orders/{key}".
  std::vector<Header> headers;
  std::chrono::steady_clock::time_point deadline;
  bool body_follows = false;
  std::int64_t body_bytes = -1;  // Where the length is known.
  std::string caller;            // The calling service, empty for requests from outside.
};

// Where an instance went.
struct Location {
  model::DeviceName device;
  std::string channel;  // host:port
  model::Epoch epoch;
};

// Why a request ended without an answer from the guest.
struct Failure {
  std::uint16_t status = 500;  // HTTP
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string problem;         // RFC 9457 JSON; may be empty.
  bool begun = true;           // false: the guest never saw it; it may be opened again.
  std::uint32_t retry_after_ms = 0;
};

// The side that asked. Called on any thread, in order for one request, with the host's lock held: it must queue
// and return, and must not call the host.
class RequestSink {
 public:
  virtual ~RequestSink() = default;
  virtual void BodyConsumed(const RequestId& id, std::uint64_t offset) = 0;  // Bytes before it are not needed again.
  virtual void Head(const RequestId& id, std::uint16_t status, const std::vector<Header>& headers,
                    std::int64_t body_bytes) = 0;  // -1: not known yet.
  virtual void Chunk(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) = 0;  // `last` ends it.
  virtual void Failed(const RequestId& id, const Failure& failure) = 0;  // Ends it.
  // Ends it here. body_offset: first body byte that the target does not have. carried: it went with the instance.
  virtual void Moved(const RequestId& id, const Location& to, std::uint64_t body_offset, bool carried) = 0;
};

}  // namespace godwit::agent
