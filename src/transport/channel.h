// Channel: one connection between two agents, carrying every message of messages.fbs in both directions.
//
// Problem: many requests, bulk transfers and questions share one TCP connection, either end may be slow, hostile
// or gone, and memory must stay bounded. So: everything is inside TLS 1.3, by which both ends prove that they hold the
// cluster's token before anything else is read (docs/formats/channel.md); a frame is at most 1 MiB and is verified before
// anyone sees it, and the first bad one ends the channel; the write queue is bounded, and a silent peer is a lost peer.
// Nothing is retried or reconnected here: users of a lost channel decide what that means for them.
//
// Sending is for any thread. Handlers and callbacks run on the loop, frames in the order in which they were sent.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include <flatbuffers/flatbuffers.h>

#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"
#include "transport/event_loop.h"
#include "transport/messages_generated.h"

namespace godwit::transport {

inline constexpr std::uint32_t kChannelVersion = 3;
inline constexpr std::size_t kFrameBytesMax = 1 << 20;         // Of a frame: message and payload.
inline constexpr std::size_t kMessageBytesMax = 512 << 10;     // Of the message alone.
inline constexpr std::size_t kPayloadBytesMax = 512 << 10;     // Of the payload alone.
inline constexpr std::size_t kWriteQueueBytesMax = 4 << 20;    // Frames with payload are refused beyond this...
inline constexpr std::size_t kWriteQueueBytesHard = 16 << 20;  // ...and all beyond this.
inline constexpr std::size_t kRequestWindowBytes = 256 << 10;  // BodyChunk, ResponseChunk: unacknowledged bytes.
inline constexpr std::size_t kChunkBytes = 64 << 10;           // What senders here put into one chunk.
inline constexpr std::size_t kCallsMax = 4096;                 // Unanswered calls of one channel.

// A message that arrived and was verified; owns its bytes.
class Frame {
 public:
  Frame(Bytes bytes, std::size_t message_bytes) : bytes_(std::move(bytes)), message_bytes_(message_bytes) {}
  const wire::Message& message() const { return *wire::GetMessage(bytes_.data()); }
  wire::Body type() const { return message().body_type(); }
  // The body as the table that type() says; nullptr if it is another.
  template <typename T>
  const T* as() const {
    return message().body_type() == wire::BodyTraits<T>::enum_value ? static_cast<const T*>(message().body()) : nullptr;
  }
  ByteView payload() const { return ByteView(bytes_).subspan(message_bytes_); }
  std::uint64_t call() const { return message().call(); }

 private:
  Bytes bytes_;
  std::size_t message_bytes_;
};

// Who an end says it is; believed because it proved to hold the token.
struct ChannelIdentity {
  model::DeviceName device;
  model::BootId boot;
};

// Emulates a link: this end's sends take bytes / bytes_per_second, and arrive `latency` later.
struct LinkShape {
  std::uint64_t bytes_per_second = 0;  // 0: not limited.
  std::chrono::microseconds latency{0};
};

struct ChannelOptions {
  ChannelIdentity self;
  std::string token;  // The cluster's shared secret; empty only where everything is on loopback.
  bool plaintext = false;  // No TLS, at both ends: only to measure what it costs, on loopback.
  std::chrono::milliseconds handshake_timeout{5'000};
  std::chrono::milliseconds ping_interval{2'000};
  std::chrono::milliseconds loss_timeout{10'000};  // Nothing received for so long: the peer is lost.
  LinkShape shape;
};

// Finishes `builder` as a message whose body is `body`.
template <typename T>
void FinishMessage(flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<T> body, std::uint64_t call = 0,
                   std::uint64_t reply_to = 0) {
  builder.Finish(wire::CreateMessage(builder, call, reply_to, wire::BodyTraits<T>::enum_value, body.Union()),
                 wire::MessageIdentifier());
}

struct ChannelCounters {
  std::uint64_t bytes_sent = 0, bytes_received = 0;  // On the socket, handshake and frame heads included.
  std::uint64_t frames_sent = 0, frames_received = 0;
};

// Lives until it is closed, lost or dropped, whoever holds it.
class Channel : public std::enable_shared_from_this<Channel> {
 public:
  using FrameHandler = std::function<void(const std::shared_ptr<Channel>&, Frame)>;
  using ClosedHandler = std::function<void(const std::shared_ptr<Channel>&, const Error&)>;
  using ReplyHandler = std::function<void(Result<Frame>)>;

  virtual ~Channel() = default;

  virtual const ChannelIdentity& peer() const = 0;
  // "address:port" of the other end.
  virtual const std::string& peer_address() const = 0;
  virtual EventLoop& loop() = 0;

  // Queues a finished message (FinishMessage) and its payload; the bytes are copied. kUnavailable: closed, nothing
  // was sent. kResourceExhausted: the queue is full, nothing was queued; WhenWritable says when to try again.
  // kInvalidArgument: larger than a frame may be.
  virtual Status Send(const flatbuffers::FlatBufferBuilder& message, ByteView payload = {}) = 0;
  // Runs `ready` on the loop, once, when the queue is at most half full; never if the channel is closed before.
  virtual void WhenWritable(std::function<void()> ready) = 0;
  virtual std::size_t queued_bytes() const = 0;

  // Number for the next call, to be put into FinishMessage and Call.
  virtual std::uint64_t NextCall() = 0;
  // Sends a message that was finished with number `call` and gives its answer to `done`, on the loop:
  // kDeadlineExceeded after `timeout`, kUnavailable if the channel is lost, Send's errors.
  virtual void Call(std::uint64_t call, const flatbuffers::FlatBufferBuilder& message, ByteView payload,
                    std::chrono::milliseconds timeout, ReplyHandler done) = 0;

  // Sends `body` built by the caller: channel.Ask<wire::AskOwner>(builder, offset, timeout, done).
  template <typename T>
  void Ask(flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<T> body, std::chrono::milliseconds timeout,
           ReplyHandler done, ByteView payload = {}) {
    const std::uint64_t call = NextCall();
    FinishMessage(builder, body, call);
    Call(call, builder, payload, timeout, std::move(done));
  }
  template <typename T>
  Status Tell(flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<T> body, ByteView payload = {}) {
    FinishMessage(builder, body);
    return Send(builder, payload);
  }
  // Answers the call `call` of the peer (Frame::call).
  template <typename T>
  Status Reply(std::uint64_t call, flatbuffers::FlatBufferBuilder& builder, flatbuffers::Offset<T> body,
               ByteView payload = {}) {
    FinishMessage(builder, body, 0, call);
    return Send(builder, payload);
  }

  // Ends the channel after what is queued has been written (at most a second); `closed` handlers run once.
  virtual void Close(const std::string& reason) = 0;
  // Ends it at once: when this returns, no handler or callback runs any more, and none is told. For destructors.
  virtual void Drop() = 0;
  virtual bool open() const = 0;
  virtual ChannelCounters counters() const = 0;
  virtual void SetShape(LinkShape shape) = 0;
};

// What a channel's user hears: on_frame every message but pings and answers to Call.
// on_closed is the last call.
struct ChannelHandlers {
  Channel::FrameHandler on_frame;
  Channel::ClosedHandler on_closed;
};

// Accepts channels. Self-synchronised.
class ChannelServer {
 public:
  struct Options {
    std::string address = "127.0.0.1";
    std::uint16_t port = 0;
    std::size_t channels_max = 256;
    ChannelOptions channel;
  };
  // Called on the loop for each peer that proved itself, before its first frame is handled; returns the handlers.
  using AcceptHandler = std::function<ChannelHandlers(const std::shared_ptr<Channel>&)>;
  // kUnavailable, kInvalidArgument as HttpServer::Listen; kPermissionDenied: beyond loopback with an empty token or in
  // plaintext.
  static Result<std::unique_ptr<ChannelServer>> Listen(EventLoop& loop, Options options, AcceptHandler on_accept);
  // Closes all channels; no handler runs afterwards.
  virtual ~ChannelServer() = default;
  virtual std::uint16_t port() const = 0;
  virtual std::string address() const = 0;
};

// Connects to "host:port" and proves both ends; `done` on the loop, once: the channel (its handlers are already in
// place), or kUnavailable, kDeadlineExceeded, kPermissionDenied (another token), kUnsupported (another version).
void ConnectChannel(EventLoop& loop, const std::string& address, ChannelOptions options, ChannelHandlers handlers,
                    std::function<void(Result<std::shared_ptr<Channel>>)> done);

// The message's verification alone: kCorrupt with the reason unless `bytes` is one whole, valid Message.
Status VerifyMessage(ByteView bytes);

}  // namespace godwit::transport
