// ChannelSession: the serving side of the request protocol on one accepted channel: frames in, host calls; host
// answers, frames out. Frames that the channel's full queue refuses wait here; a peer that lets too many of them wait,
// or too many requests be, loses the channel.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>

#include "agent/instance_host.h"
#include "agent/request.h"
#include "transport/channel.h"

namespace godwit::agent {

inline constexpr std::size_t kSessionQueueBytesMax = 256 << 20;
inline constexpr std::size_t kSessionRequestsMax = 65536;  // That the peer has not acknowledged, cancelled or lost.

class ChannelSession final : public RequestSink, public std::enable_shared_from_this<ChannelSession> {
 public:
  explicit ChannelSession(std::shared_ptr<transport::Channel> channel) : channel_(std::move(channel)) {}

  // --- On the loop. True if the frame was one of a request.
  bool OnFrame(const transport::Frame& frame);
  void OnOpen(const wire::OpenRequest& open, const std::shared_ptr<InstanceHost>& host);
  void OnAttach(const wire::AttachRequest& attach, const std::shared_ptr<InstanceHost>& host);
  void OnClosed();
  // Answers a request that no host takes.
  void Refuse(const RequestId& id, std::uint16_t status, ErrorCode code, const std::string& message, bool begun);
  void Redirect(const RequestId& id, const std::string& instance, const Location& to);

  // --- RequestSink
  void BodyConsumed(const RequestId& id, std::uint64_t offset) override;
  void Head(const RequestId& id, std::uint16_t status, const std::vector<Header>& headers, std::int64_t body_bytes) override;
  void Chunk(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) override;
  void Failed(const RequestId& id, const Failure& failure) override;
  void Moved(const RequestId& id, const Location& to, std::uint64_t body_offset, bool carried) override;

 private:
  struct Outgoing {
    std::unique_ptr<flatbuffers::FlatBufferBuilder> message;
    Bytes payload;
  };
  struct Served {
    std::shared_ptr<InstanceHost> host;
    std::string instance;
  };
  template <typename T>
  void Tell(std::unique_ptr<flatbuffers::FlatBufferBuilder> builder, flatbuffers::Offset<T> body, ByteView payload = {});
  void Pump();  // mutex_ is held.
  // False: the peer has too many, and the channel ends.
  bool Remember(const RequestId& id, Served served);
  void GiveUp(const std::string& reason);  // mutex_ is held.
  std::shared_ptr<InstanceHost> HostOf(const RequestId& id);
  void Forget(const RequestId& id);

  const std::shared_ptr<transport::Channel> channel_;
  std::mutex mutex_;
  std::map<RequestId, Served> served_;
  std::deque<Outgoing> queue_;
  std::size_t queue_bytes_ = 0;
  bool waiting_ = false, closed_ = false;
};

RequestId GetRequestId(const wire::RequestId& id);

}  // namespace godwit::agent
