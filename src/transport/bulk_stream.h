// Bulk streams over a channel: snapshots and other large bodies in bounded memory.
//
// A stream goes one way and has a number that its sender drew (StreamSender::id) and told the receiver in a message
// of its own. The sender keeps at most kStreamWindowBytes unacknowledged; the receiver acknowledges what its sink
// has consumed. Loop-bound: users pass the channel's StreamAck, StreamReset and StreamChunk frames to Handle.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/channel.h"

namespace godwit::transport {

inline constexpr std::size_t kStreamsMax = 64;  // Of one channel and direction.

// All streams of one channel. Loop-bound; drop it when the channel closes (Fail first, to tell the users).
class BulkStreams {
 public:
  explicit BulkStreams(std::shared_ptr<Channel> channel) : channel_(std::move(channel)) {}

  // Sends what `source` gives: it is called with the offset and the most that is wanted and returns that many bytes
  // or fewer; empty is the end. `done` once: ok when the receiver has consumed everything. Returns the number.
  std::uint64_t Send(std::function<Result<Bytes>(std::uint64_t offset, std::size_t wanted)> source,
                     std::function<void(Status)> done);
  // As above over bytes that live until `done`.
  std::uint64_t Send(ByteView bytes, std::function<void(Status)> done);

  // Expects stream `id`: `sink` gets each piece in order and may refuse (which resets the stream), `done` once. To be
  // called before its chunks come: in the handler of the message that announced it.
  Status Receive(std::uint64_t id, std::uint64_t bytes_max, std::function<Status(ByteView)> sink,
                 std::function<void(Status)> done);
  // Stops a stream of either direction and tells the peer; its `done` gets `reason`.
  void Reset(std::uint64_t id, const Error& reason);

  // True if the frame was a stream message of this channel (then it is dealt with).
  bool Handle(const Frame& frame);
  // The channel was lost: every stream ends with `reason`.
  void Fail(const Error& reason);

 private:
  struct Outgoing;
  struct Incoming;
  void Pump(std::uint64_t id);
  void EndOutgoing(std::uint64_t id, Status status);
  void EndIncoming(std::uint64_t id, Status status);
  void OnChunk(const wire::StreamChunk& chunk, ByteView bytes);
  void SendReset(std::uint64_t id, const Error& reason, bool by_sender);

  std::shared_ptr<Channel> channel_;
  std::uint64_t next_ = 1;
  std::map<std::uint64_t, std::shared_ptr<Outgoing>> outgoing_;
  std::map<std::uint64_t, std::shared_ptr<Incoming>> incoming_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace godwit::transport
