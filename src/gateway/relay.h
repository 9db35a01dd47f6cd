// Relay: the asking side of the request protocol (docs/formats/channel.md, Requests): opens a request at the
// instance that should serve it and follows it wherever that instance goes.
//
// Used by the HTTP gateway and, for service-to-service calls, by agents. Invariants: each byte of the body reaches
// the guest once and in order, and each byte of the response the caller, however often the instance moves; at most
// kRequestWindowBytes of each direction are held here, and of all requests together Options::held_bytes_max; a request that may have had an effect is opened again only
// if its method is safe (RFC 9110, 9.2.1) or the agent said that it had not begun.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>

#include "base/bytes.h"
#include "base/result.h"
#include "gateway/directory.h"
#include "transport/channel_pool.h"
#include "transport/http.h"

namespace godwit::gateway {

inline constexpr int kHopsMax = 16;  // Moves that one request follows.

// Why a request ended without (the rest of) an answer.
struct Failure {
  int status = 502;  // HTTP
  ErrorCode code = ErrorCode::kUnavailable;
  std::string message;
  std::string problem;  // RFC 9457 JSON from the agent; may be empty.
  std::chrono::milliseconds retry_after{0};
};

// Bytes of bodies and responses that requests hold in memory, counted together against one limit. Loop-bound.
class HeldBytes {
 public:
  explicit HeldBytes(ByteCount most) : most_(most.value) {}
  HeldBytes(const HeldBytes&) = delete;
  bool full() const { return now_ >= most_; }
  std::uint64_t now() const { return now_; }
  std::uint64_t most() const { return most_; }
  // False, and nothing is counted, if the limit would be passed.
  [[nodiscard]] bool Add(std::uint64_t bytes);
  void Remove(std::uint64_t bytes);

 private:
  const std::uint64_t most_;
  std::uint64_t now_ = 0;
};

struct RelayRequest {
  RouteMatch match;  // Directory::Match or MatchWithin.
  std::string method, target;
  transport::HttpHeaders headers;
  std::chrono::milliseconds timeout{60'000};
  bool body_follows = false;
  std::optional<std::uint64_t> body_bytes;
  bool web_socket = false;  // May be answered with 101.
  std::string caller_service, caller_instance;  // Empty for requests from outside.
};

// On the loop. After on_end or on_failed nothing more is called.
struct RelayHandlers {
  std::function<void(int status, transport::HttpHeaders headers, std::optional<std::uint64_t> body_bytes)> on_head;
  std::function<void(ByteView bytes)> on_body;  // Tell Consumed when they have been passed on.
  std::function<void()> on_end;
  std::function<void(const Failure&)> on_failed;  // Also after on_head: the response stays incomplete.
  std::function<void()> on_body_wanted;           // body_room() has grown to at least kChunkBytes.
};

class Relay;

// One request on its way. Loop-bound.
class RelayedCall : public std::enable_shared_from_this<RelayedCall> {
 public:
  // Bytes that WriteBody would take now without holding more than the window.
  std::size_t body_room() const;
  // The body's next bytes, in order; `last` with its last ones (or with none). The request fails, before this
  // returns, where all requests together hold too many.
  void WriteBody(ByteView bytes, bool last);
  // `bytes` more of what on_body gave have been passed on.
  void Consumed(std::size_t bytes);
  // Gives the request up; nothing is called any more.
  void Cancel();
  // The instance that serves it, once known.
  const Place& place() const { return place_; }

 private:
  friend class Relay;
  enum class Phase { kWaiting, kConnecting, kOpen, kAttaching, kEnded };

  Relay* relay_ = nullptr;  // Null once ended.
  std::uint64_t number_ = 0;
  RelayRequest request_;
  RelayHandlers handlers_;
  Phase phase_ = Phase::kWaiting;
  std::chrono::steady_clock::time_point deadline_, wait_until_;
  transport::Timer deadline_timer_, retry_timer_;
  std::chrono::milliseconds backoff_{0};

  Place place_;
  std::shared_ptr<transport::Channel> channel_;
  model::BootId boot_;         // Of the agent that has the request.
  bool opened_ = false;        // An OpenRequest was sent and may have arrived.
  bool recovering_ = false;    // The channel to the agent that has the request was lost.
  int hops_ = 0;
  std::uint64_t attempt_ = 0;  // Connection attempts, so that a late one is known as such.

  std::string held_;             // Body bytes from held_from_ on: not acknowledged.
  std::uint64_t held_from_ = 0, body_sent_ = 0;
  bool body_ended_ = false, body_end_sent_ = false, body_blocked_ = false;

  bool head_ = false;
  std::uint64_t received_ = 0, consumed_ = 0, acknowledged_ = 0;  // Of the response.
};

// Loop-bound, but for Update.
class Relay {
 public:
  struct Options {
    transport::ChannelOptions channel;  // self.boot names this process's requests.
    std::size_t requests_max = 16384;   // Open at once; more fail with 503.
    std::size_t waiting_max = 8192;     // Of them waiting for an instance.
    ByteCount held_bytes_max = 256_MiB;  // In memory for all of them; what would need more fails with 503.
    std::chrono::milliseconds start_wait{30'000};    // For an instance that is not there yet.
    std::chrono::milliseconds recover_wait{10'000};  // For news of an instance whose agent was lost.
  };
  Relay(transport::EventLoop& loop, Options options);
  // On the loop, or with the loop idle. Open calls end without a word.
  ~Relay();

  const Directory& directory() const { return directory_; }
  // Changes what is known, on the loop; requests that wait are looked at again. Any thread.
  void Update(std::function<void(Directory&)> change);

  // Never calls a handler before it returns.
  std::shared_ptr<RelayedCall> Open(RelayRequest request, RelayHandlers handlers);

  std::size_t open_requests() const { return calls_.size(); }
  // Who passes a response on counts here what on_body gave and has not left yet; it may outlive the relay.
  const std::shared_ptr<HeldBytes>& held() const { return held_; }
  // What a request is told that cannot be held.
  Failure HoldsTooMuch() const;
  transport::EventLoop& loop() { return loop_; }
  transport::ChannelPool& pool() { return *pool_; }

 private:
  friend class RelayedCall;
  using Call = std::shared_ptr<RelayedCall>;

  void Resolve(const Call& call);
  void Connect(const Call& call);
  void OnConnected(const Call& call, Result<std::shared_ptr<transport::Channel>> result);
  void SendOpen(const Call& call);
  void SendAttach(const Call& call);
  void RetryLater(const Call& call, const std::string& why);
  void Recover(const Call& call);
  void Reopen(const Call& call);
  void PumpBody(const Call& call);
  void DropHeld(const Call& call, std::uint64_t until);
  void SendResponseAck(const Call& call);
  void SendCancel(const Call& call);

  void OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame);
  void OnClosed(const std::shared_ptr<transport::Channel>& channel, const Error& error);
  void On(const Call& call, const wire::BodyAck& ack);
  void On(const Call& call, const wire::ResponseHead& head);
  void On(const Call& call, const wire::ResponseChunk& chunk, ByteView bytes);
  void On(const Call& call, const wire::Moved& moved);
  void On(const Call& call, const wire::RequestFailed& failed, ByteView problem);
  Call Find(const wire::RequestId* id, const std::shared_ptr<transport::Channel>& channel) const;

  void Fail(const Call& call, Failure failure);
  void Broken(const Call& call, const std::string& what);  // The agent broke the protocol.
  void End(const Call& call);
  std::uint32_t MsLeft(const Call& call) const;

  transport::EventLoop& loop_;
  const Options options_;
  Directory directory_;
  std::unique_ptr<transport::ChannelPool> pool_;
  std::unordered_map<std::uint64_t, Call> calls_;
  const std::shared_ptr<HeldBytes> held_;
  std::set<std::uint64_t> waiting_;  // Numbers of those that a change of the directory may help.
  std::unordered_map<std::string, std::uint32_t> load_;  // Open calls by instance.
  std::uint64_t next_number_ = 1;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace godwit::gateway
