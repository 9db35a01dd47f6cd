#include "gateway/relay.h"

#include <algorithm>
#include <utility>

#include <fmt/format.h>

namespace godwit::gateway {

using transport::Channel;
using transport::Frame;
using transport::kChunkBytes;
using transport::kRequestWindowBytes;
using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

constexpr milliseconds kBackoffFirst{5}, kBackoffMost{500};
constexpr milliseconds kRetryAfter{1'000};

wire::RequestId IdOf(const transport::ChannelOptions& options, std::uint64_t number) { return {options.self.boot.value, number}; }

// RFC 9110, 9.2.1: asking twice does no more than asking once.
bool SafeMethod(const std::string& method) { return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE"; }

}  // namespace

bool HeldBytes::Add(std::uint64_t bytes) {
  if (bytes > most_ - now_) return false;
  now_ += bytes;
  return true;
}

void HeldBytes::Remove(std::uint64_t bytes) {
  GODWIT_CHECK(bytes <= now_, "more bytes of requests were let go than were held");
  now_ -= bytes;
}

// --- RelayedCall

std::size_t RelayedCall::body_room() const {
  return phase_ == Phase::kEnded || body_ended_ || held_.size() >= kRequestWindowBytes ? 0 : kRequestWindowBytes - held_.size();
}

void RelayedCall::WriteBody(ByteView bytes, bool last) {
  if (!relay_ || body_ended_) return;
  GODWIT_CHECK(bytes.size() <= body_room(), "a request body was written beyond its window");
  const auto self = shared_from_this();
  if (!relay_->held_->Add(bytes.size())) {
    relay_->SendCancel(self);
    return relay_->Fail(self, relay_->HoldsTooMuch());
  }
  held_.append(AsText(bytes));
  body_ended_ = last;
  relay_->PumpBody(self);
}

void RelayedCall::Consumed(std::size_t bytes) {
  consumed_ += bytes;
  if (relay_ && consumed_ - acknowledged_ >= kRequestWindowBytes / 4) relay_->SendResponseAck(shared_from_this());
}

void RelayedCall::Cancel() {
  if (!relay_) return;
  const auto self = shared_from_this();
  relay_->SendCancel(self);
  relay_->End(self);
}

// --- Relay: finding the instance

Relay::Relay(transport::EventLoop& loop, Options options)
    : loop_(loop), options_(std::move(options)), held_(std::make_shared<HeldBytes>(options_.held_bytes_max)) {
  pool_ = std::make_unique<transport::ChannelPool>(
      loop_, options_.channel,
      transport::ChannelHandlers{
          .on_frame = [this](const std::shared_ptr<Channel>& channel, Frame frame) { OnFrame(channel, frame); },
          .on_closed = [this](const std::shared_ptr<Channel>& channel, const Error& error) { OnClosed(channel, error); }});
}

Relay::~Relay() {
  loop_.Run([this] {
    alive_.reset();
    while (!calls_.empty()) End(calls_.begin()->second);
    pool_.reset();
  });
}

void Relay::Update(std::function<void(Directory&)> change) {
  const auto apply = [this, change = std::move(change)] {
    change(directory_);
    const auto waiting = waiting_;
    for (const std::uint64_t number : waiting) {
      const auto found = calls_.find(number);
      if (found == calls_.end()) continue;
      const Call call = found->second;
      if (call->recovering_) Recover(call);
      else Resolve(call);
    }
  };
  if (loop_.OnLoop()) return apply();
  loop_.Post([alive = std::weak_ptr(alive_), apply] {
    if (!alive.expired()) apply();
  });
}

std::shared_ptr<RelayedCall> Relay::Open(RelayRequest request, RelayHandlers handlers) {
  auto call = std::make_shared<RelayedCall>();
  call->relay_ = this;
  call->number_ = next_number_++;
  call->request_ = std::move(request);
  call->handlers_ = std::move(handlers);
  const auto now = Clock::now();
  call->deadline_ = now + call->request_.timeout;
  call->wait_until_ = now + options_.start_wait;
  call->body_ended_ = !call->request_.body_follows;
  call->body_end_sent_ = call->body_ended_;
  const bool full = calls_.size() >= options_.requests_max;
  calls_[call->number_] = call;
  call->deadline_timer_ = loop_.After(call->request_.timeout, [this, weak = std::weak_ptr(call)] {
    const auto late = weak.lock();
    if (!late || !late->relay_) return;
    const std::string where = late->place_.instance.empty() ? "" : fmt::format(" (instance {} on {})", late->place_.instance.value, late->place_.device.value);
    SendCancel(late);
    Fail(late, {504, ErrorCode::kDeadlineExceeded, fmt::format("no answer within {} ms{}", late->request_.timeout.count(), where), "", {}});
  });
  loop_.Post([this, call, full, alive = std::weak_ptr(alive_)] {
    if (alive.expired() || !call->relay_) return;
    if (full) return Fail(call, {503, ErrorCode::kResourceExhausted, fmt::format("{} requests are under way here already", options_.requests_max), "", kRetryAfter});
    if (held_->full()) return Fail(call, HoldsTooMuch());
    Resolve(call);
  });
  return call;
}

void Relay::Resolve(const Call& call) {
  if (call->phase_ != RelayedCall::Phase::kWaiting) return;
  const auto places = directory_.Candidates(call->request_.match);
  if (places.empty()) {
    if (!directory_.service(call->request_.match.service)) {
      return Fail(call, {404, ErrorCode::kNotFound, "there is no such service", "", {}});
    }
    if (waiting_.size() >= options_.waiting_max && waiting_.count(call->number_) == 0) {
      return Fail(call, {503, ErrorCode::kResourceExhausted, fmt::format("{} requests wait for instances already", options_.waiting_max), "", kRetryAfter});
    }
    waiting_.insert(call->number_);
    if (Clock::now() >= call->wait_until_) {
      return Fail(call, {503, ErrorCode::kUnavailable, directory_.WhyNone(call->request_.match), "", kRetryAfter});
    }
    const auto left = std::chrono::duration_cast<milliseconds>(call->wait_until_ - Clock::now()) + milliseconds(1);
    call->retry_timer_ = loop_.After(left, [this, call] { Resolve(call); });
    return;
  }
  waiting_.erase(call->number_);
  call->retry_timer_ = transport::Timer();
  const auto load = [this](const Place& place) {
    const auto found = load_.find(place.instance.value);
    return found == load_.end() ? 0u : found->second;
  };
  const auto least = std::min_element(places.begin(), places.end(), [&](const Place& a, const Place& b) { return load(a) < load(b); });
  call->place_ = *least;
  ++load_[call->place_.instance.value];
  Connect(call);
}

void Relay::Connect(const Call& call) {
  call->phase_ = RelayedCall::Phase::kConnecting;
  const std::uint64_t attempt = ++call->attempt_;
  pool_->Get(call->place_.channel, [this, call, attempt, alive = std::weak_ptr(alive_)](Result<std::shared_ptr<Channel>> result) {
    if (alive.expired() || !call->relay_ || call->attempt_ != attempt) return;
    OnConnected(call, std::move(result));
  });
}

void Relay::OnConnected(const Call& call, Result<std::shared_ptr<Channel>> result) {
  if (result.ok() && (*result)->peer().device != call->place_.device) {
    result = Unavailable(fmt::format("{} is the channel of {}, not of {}", call->place_.channel, (*result)->peer().device.value, call->place_.device.value));
  }
  if (!result.ok()) return RetryLater(call, result.error().message);
  // Another process than the one that had the request: it does not know it.
  if (call->recovering_ && call->boot_.value != 0 && (*result)->peer().boot != call->boot_) {
    return RetryLater(call, fmt::format("the agent of {} has started anew", call->place_.device.value));
  }
  call->channel_ = *result;
  call->boot_ = call->channel_->peer().boot;
  if (call->opened_) SendAttach(call);
  else SendOpen(call);
}

// The instance cannot be reached now: looks again after a while, until the time for that is over.
void Relay::RetryLater(const Call& call, const std::string& why) {
  call->channel_.reset();
  if (Clock::now() >= call->wait_until_) {
    if (!call->recovering_) return Fail(call, {503, ErrorCode::kUnavailable, why, "", kRetryAfter});
    // All that is known is that the agent is gone, with the request in it.
    return Fail(call, {502, ErrorCode::kUnavailable, fmt::format("instance {} was lost while it served this request: {}", call->place_.instance.value, why), "", kRetryAfter});
  }
  call->phase_ = RelayedCall::Phase::kWaiting;
  ++call->attempt_;
  call->backoff_ = std::clamp(call->backoff_ * 2, kBackoffFirst, kBackoffMost);
  if (call->recovering_) {
    waiting_.insert(call->number_);
    call->retry_timer_ = loop_.After(call->backoff_, [this, call] { Recover(call); });
    return;
  }
  if (auto load = load_.find(call->place_.instance.value); load != load_.end() && --load->second == 0) load_.erase(load);
  call->place_ = {};
  call->retry_timer_ = loop_.After(call->backoff_, [this, call] { Resolve(call); });
}

// The agent that has the request was lost, or this end's channel to it.
void Relay::Recover(const Call& call) {
  if (!call->relay_ || call->phase_ != RelayedCall::Phase::kWaiting) return;
  const auto place = directory_.Find(call->place_.instance);
  if (place && place->epoch > call->place_.epoch) {
    call->place_ = *place;
    call->boot_ = {};
  }
  waiting_.erase(call->number_);
  Connect(call);
}

// From the start, where that is known to do no harm.
void Relay::Reopen(const Call& call) {
  call->opened_ = false;
  call->recovering_ = false;
  call->body_sent_ = 0;
  call->body_end_sent_ = call->body_ended_ && !call->request_.body_follows;
}

// --- Relay: sending

std::uint32_t Relay::MsLeft(const Call& call) const {
  const auto left = std::chrono::duration_cast<milliseconds>(call->deadline_ - Clock::now()).count();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(left, 1, UINT32_MAX));
}

void Relay::SendOpen(const Call& call) {
  const RelayRequest& request = call->request_;
  flatbuffers::FlatBufferBuilder builder(1024);
  std::vector<flatbuffers::Offset<wire::Header>> headers;
  headers.reserve(request.headers.size());
  for (const auto& header : request.headers) headers.push_back(wire::CreateHeaderDirect(builder, header.name.c_str(), header.value.c_str()));
  const auto header_list = builder.CreateVector(headers);
  const auto instance = builder.CreateString(call->place_.instance.value);
  const auto method = builder.CreateString(request.method);
  const auto target = builder.CreateString(request.target);
  const auto service = builder.CreateString(request.match.service.value);
  const auto route = builder.CreateString(request.match.route);
  flatbuffers::Offset<wire::Caller> caller;
  if (!request.caller_service.empty()) caller = wire::CreateCallerDirect(builder, request.caller_service.c_str(), request.caller_instance.c_str());
  const auto id = IdOf(options_.channel, call->number_);
  const std::int64_t body_bytes = request.body_bytes ? static_cast<std::int64_t>(*request.body_bytes) : -1;
  const auto open = wire::CreateOpenRequest(builder, &id, instance, call->place_.epoch.value, method, target, header_list, MsLeft(call),
                                            request.body_follows, body_bytes, caller, service, route);
  if (const Status sent = call->channel_->Tell(builder, open); !sent.ok()) return RetryLater(call, sent.error().message);
  call->opened_ = true;
  call->phase_ = RelayedCall::Phase::kOpen;
  PumpBody(call);
}

void Relay::SendAttach(const Call& call) {
  flatbuffers::FlatBufferBuilder builder(256);
  const auto id = IdOf(options_.channel, call->number_);
  const auto attach = wire::CreateAttachRequestDirect(builder, &id, call->place_.instance.value.c_str(), call->place_.epoch.value, call->received_,
                                                      call->head_, MsLeft(call), call->request_.match.service.value.c_str());
  if (const Status sent = call->channel_->Tell(builder, attach); !sent.ok()) return RetryLater(call, sent.error().message);
  call->phase_ = RelayedCall::Phase::kAttaching;
}

void Relay::PumpBody(const Call& call) {
  while (call->phase_ == RelayedCall::Phase::kOpen && !call->body_blocked_ && !call->body_end_sent_) {
    const auto at = static_cast<std::size_t>(call->body_sent_ - call->held_from_);
    const std::size_t n = std::min(kChunkBytes, call->held_.size() - at);
    const bool last = call->body_ended_ && at + n == call->held_.size();
    if (n == 0 && !last) return;
    flatbuffers::FlatBufferBuilder builder(128);
    const auto id = IdOf(options_.channel, call->number_);
    const Status sent = call->channel_->Tell(builder, wire::CreateBodyChunk(builder, &id, call->body_sent_, last),
                                             AsBytes(std::string_view(call->held_).substr(at, n)));
    if (!sent.ok() && sent.error().code == ErrorCode::kResourceExhausted) {
      call->body_blocked_ = true;
      call->channel_->WhenWritable([this, call, alive = std::weak_ptr(alive_)] {
        if (alive.expired()) return;
        call->body_blocked_ = false;
        PumpBody(call);
      });
      return;
    }
    if (!sent.ok()) return;  // OnClosed follows.
    call->body_sent_ += n;
    call->body_end_sent_ = last;
  }
}

// The agent needs no byte before `until` any more.
void Relay::DropHeld(const Call& call, std::uint64_t until) {
  const std::size_t room = call->body_room();
  const auto bytes = static_cast<std::size_t>(until - call->held_from_);
  call->held_.erase(0, bytes);
  if (call->held_.size() < call->held_.capacity() / 4) call->held_.shrink_to_fit();  // What is held is what is counted.
  held_->Remove(bytes);
  call->held_from_ = until;
  if (room < kChunkBytes && call->body_room() >= kChunkBytes && call->handlers_.on_body_wanted) call->handlers_.on_body_wanted();
}

void Relay::SendResponseAck(const Call& call) {
  if (!call->channel_ || call->phase_ != RelayedCall::Phase::kOpen) return;
  call->acknowledged_ = call->consumed_;
  flatbuffers::FlatBufferBuilder builder(128);
  const auto id = IdOf(options_.channel, call->number_);
  // A refused one is made good by the next, or the channel is lost and an attach says where to go on.
  (void)call->channel_->Tell(builder, wire::CreateResponseAck(builder, &id, call->consumed_)).ok();
}

void Relay::SendCancel(const Call& call) {
  if (!call->channel_ || !call->opened_) return;
  flatbuffers::FlatBufferBuilder builder(128);
  const auto id = IdOf(options_.channel, call->number_);
  // If it cannot be sent, the request's deadline ends it at the agent.
  (void)call->channel_->Tell(builder, wire::CreateCancelRequest(builder, &id)).ok();
}

// --- Relay: receiving

Relay::Call Relay::Find(const wire::RequestId* id, const std::shared_ptr<Channel>& channel) const {
  if (id->boot() != options_.channel.self.boot.value) return nullptr;
  const auto found = calls_.find(id->number());
  // What comes from a place that the request has left is old news.
  return found == calls_.end() || found->second->channel_ != channel ? nullptr : found->second;
}

void Relay::OnFrame(const std::shared_ptr<Channel>& channel, const Frame& frame) {
  const auto pass = [&](const auto* message, const auto&... rest) {
    if (const Call call = Find(message->request(), channel)) On(call, *message, rest...);
  };
  switch (frame.type()) {
    case wire::Body::BodyAck: return pass(frame.as<wire::BodyAck>());
    case wire::Body::ResponseHead: return pass(frame.as<wire::ResponseHead>());
    case wire::Body::ResponseChunk: return pass(frame.as<wire::ResponseChunk>(), frame.payload());
    case wire::Body::Moved: return pass(frame.as<wire::Moved>());
    case wire::Body::RequestFailed: return pass(frame.as<wire::RequestFailed>(), frame.payload());
    default: return;  // An agent that says more than it was asked is not refused: messages are append only.
  }
}

void Relay::On(const Call& call, const wire::BodyAck& ack) {
  const std::uint64_t end = call->held_from_ + call->held_.size();
  if (call->phase_ == RelayedCall::Phase::kAttaching) {
    if (ack.offset() < call->held_from_ || ack.offset() > end) {
      return Broken(call, fmt::format("asks for the body from {} on, held are {} to {}", ack.offset(), call->held_from_, end));
    }
    call->phase_ = RelayedCall::Phase::kOpen;
    call->recovering_ = false;
    call->backoff_ = {};
    call->body_sent_ = ack.offset();
    call->body_end_sent_ = !call->request_.body_follows;
    call->acknowledged_ = std::min(call->acknowledged_, call->consumed_);
    DropHeld(call, ack.offset());
    if (!call->relay_) return;
    return PumpBody(call);
  }
  if (ack.offset() < call->held_from_) return;  // Repeated.
  if (ack.offset() > call->body_sent_) return Broken(call, fmt::format("acknowledges {} bytes of a body of which {} were sent", ack.offset(), call->body_sent_));
  DropHeld(call, ack.offset());
}

void Relay::On(const Call& call, const wire::ResponseHead& head) {
  if (call->head_) return;
  const bool upgraded = head.status() == 101 && call->request_.web_socket;
  if (!upgraded && (head.status() < 200 || head.status() > 599)) return Broken(call, fmt::format("answers with status {}", head.status()));
  call->head_ = true;
  transport::HttpHeaders headers;
  if (head.headers()) {
    for (const auto* header : *head.headers()) headers.push_back({header->name()->str(), header->value()->str()});
  }
  std::optional<std::uint64_t> bytes;
  if (head.body_bytes() >= 0) bytes = static_cast<std::uint64_t>(head.body_bytes());
  if (call->handlers_.on_head) call->handlers_.on_head(head.status(), std::move(headers), bytes);
}

void Relay::On(const Call& call, const wire::ResponseChunk& chunk, ByteView bytes) {
  if (!call->head_) return Broken(call, "sends a response before its head");
  if (chunk.offset() > call->received_) return Broken(call, fmt::format("skips from {} to {} in the response", call->received_, chunk.offset()));
  const std::uint64_t again = call->received_ - chunk.offset();
  if (again > bytes.size()) return;  // All of it is known.
  bytes = bytes.subspan(static_cast<std::size_t>(again));
  call->received_ += bytes.size();
  if (call->received_ - call->acknowledged_ > 2 * kRequestWindowBytes) return Broken(call, "sends more of the response than its window allows");
  if (!bytes.empty() && call->handlers_.on_body) call->handlers_.on_body(bytes);
  if (!chunk.last() || !call->relay_) return;
  call->consumed_ = call->received_;  // It is here in whole: the agent may forget it.
  call->phase_ = RelayedCall::Phase::kOpen;
  SendResponseAck(call);
  const auto handlers = std::move(call->handlers_);
  End(call);
  if (handlers.on_end) handlers.on_end();
}

void Relay::On(const Call& call, const wire::Moved& moved) {
  const Place place{model::InstanceId(moved.instance()->str()), model::DeviceName(moved.device()->str()), moved.channel()->str(), model::Epoch{moved.epoch()}};
  if (place.instance != call->place_.instance) return Broken(call, fmt::format("moves instance {} under a request of {}", place.instance.value, call->place_.instance.value));
  if (++call->hops_ > kHopsMax) {
    return Fail(call, {502, ErrorCode::kUnavailable, fmt::format("instance {} moved more than {} times during this request", place.instance.value, kHopsMax), "", kRetryAfter});
  }
  if (moved.carried() && (moved.body_offset() < call->held_from_ || moved.body_offset() > call->held_from_ + call->held_.size())) {
    return Broken(call, fmt::format("moves the request with {} bytes of its body, held are {} to {}", moved.body_offset(), call->held_from_,
                                    call->held_from_ + call->held_.size()));
  }
  call->place_ = place;
  call->channel_.reset();
  call->boot_ = {};
  call->backoff_ = {};
  call->wait_until_ = Clock::now() + options_.recover_wait;
  if (moved.carried()) {
    call->recovering_ = true;
  } else {
    if (call->head_ || call->held_from_ > 0) return Broken(call, "moves a request that it had begun as one that it had not");
    Reopen(call);
  }
  Update([place](Directory& directory) { directory.Learn(place); });
  Connect(call);
}

void Relay::On(const Call& call, const wire::RequestFailed& failed, ByteView problem) {
  const auto code = static_cast<ErrorCode>(failed.code());
  const std::string message = failed.message() ? failed.message()->str() : "no reason given";
  const bool untouched = !call->head_ && call->held_from_ == 0;
  // It is not (or not yet, or no longer) there.
  const bool elsewhere = code == ErrorCode::kNotFound || code == ErrorCode::kUnavailable || code == ErrorCode::kFailedPrecondition;
  if (!failed.begun() && untouched && elsewhere) {
    Reopen(call);
    return RetryLater(call, message);
  }
  if (call->phase_ == RelayedCall::Phase::kAttaching && code == ErrorCode::kNotFound) {
    if (untouched && SafeMethod(call->request_.method)) {
      Reopen(call);
      return RetryLater(call, message);
    }
    return Fail(call, {502, ErrorCode::kUnavailable, fmt::format("the request was lost with its device: {}", message), "", kRetryAfter});
  }
  const int status = failed.status() >= 400 && failed.status() <= 599 ? failed.status() : 502;
  Fail(call, {status, code, message, std::string(AsText(problem)), milliseconds(failed.retry_after_ms())});
}

void Relay::OnClosed(const std::shared_ptr<Channel>& channel, const Error& error) {
  std::vector<Call> lost;
  for (const auto& [number, call] : calls_) {
    if (call->channel_ == channel) lost.push_back(call);
  }
  for (const Call& call : lost) {
    if (!call->relay_) continue;
    call->recovering_ = true;
    call->wait_until_ = Clock::now() + options_.recover_wait;
    call->backoff_ = {};
    RetryLater(call, error.message);
  }
}

// --- Relay: ends

Failure Relay::HoldsTooMuch() const {
  return {503, ErrorCode::kResourceExhausted, fmt::format("the requests under way here hold {} of {} bytes already", held_->now(), held_->most()), "", kRetryAfter};
}

void Relay::Broken(const Call& call, const std::string& what) {
  SendCancel(call);
  Fail(call, {502, ErrorCode::kCorrupt, fmt::format("the agent of {} {}", call->place_.device.value, what), "", {}});
}

void Relay::Fail(const Call& call, Failure failure) {
  if (!call->relay_) return;
  const auto handlers = std::move(call->handlers_);
  End(call);
  if (handlers.on_failed) handlers.on_failed(failure);
}

void Relay::End(const Call& call) {
  if (!call->relay_) return;
  const Call keep = call;  // The reference may be the one in calls_.
  if (auto load = load_.find(keep->place_.instance.value); load != load_.end() && --load->second == 0) load_.erase(load);
  keep->relay_ = nullptr;
  keep->phase_ = RelayedCall::Phase::kEnded;
  // Later: one of them may be what ends the call, and they may hold who called.
  if (keep->handlers_.on_failed) loop_.Post([ended = std::exchange(keep->handlers_, {})] {});
  keep->deadline_timer_ = transport::Timer();
  keep->retry_timer_ = transport::Timer();
  keep->channel_.reset();
  held_->Remove(keep->held_.size());
  std::string().swap(keep->held_);
  waiting_.erase(keep->number_);
  calls_.erase(keep->number_);
}

}  // namespace godwit::gateway
