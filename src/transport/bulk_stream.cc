#include "transport/bulk_stream.h"

#include <algorithm>

#include <fmt/format.h>

namespace godwit::transport {

namespace {

constexpr std::size_t kBulkChunkBytes = 256 << 10;

Error FromOutcome(const wire::Outcome& outcome) {
  const bool known = outcome.code() > 0 && outcome.code() <= static_cast<std::uint8_t>(ErrorCode::kAborted);
  return {known ? static_cast<ErrorCode>(outcome.code()) : ErrorCode::kInternal,
          "the peer ended the stream: " + (outcome.message() ? outcome.message()->str() : "no reason given")};
}

}  // namespace

struct BulkStreams::Outgoing {
  std::function<Result<Bytes>(std::uint64_t, std::size_t)> source;
  std::function<void(Status)> done;
  std::uint64_t sent = 0, acknowledged = 0;
  bool at_end = false;
  bool waiting = false;        // For the channel's queue.
  std::optional<Bytes> piece;  // Read but not yet queued.
};

struct BulkStreams::Incoming {
  std::uint64_t bytes_max = 0;
  std::function<Status(ByteView)> sink;
  std::function<void(Status)> done;
  std::uint64_t received = 0, acknowledged = 0;
};

std::uint64_t BulkStreams::Send(std::function<Result<Bytes>(std::uint64_t, std::size_t)> source, std::function<void(Status)> done) {
  const std::uint64_t id = next_++;
  auto stream = std::make_shared<Outgoing>();
  stream->source = std::move(source);
  stream->done = std::move(done);
  outgoing_[id] = stream;
  // After the caller's own message that announces the stream.
  channel_->loop().Post([this, id, alive = std::weak_ptr(alive_)] {
    if (alive.expired()) return;
    if (outgoing_.size() > kStreamsMax) return EndOutgoing(id, ResourceExhausted(fmt::format("more than {} streams on one channel", kStreamsMax)));
    Pump(id);
  });
  return id;
}

std::uint64_t BulkStreams::Send(ByteView bytes, std::function<void(Status)> done) {
  return Send(
      [bytes](std::uint64_t offset, std::size_t wanted) -> Result<Bytes> {
        const auto piece = bytes.subspan(offset, std::min<std::size_t>(wanted, bytes.size() - offset));
        return Bytes(piece.begin(), piece.end());
      },
      std::move(done));
}

void BulkStreams::Pump(std::uint64_t id) {
  const auto found = outgoing_.find(id);
  if (found == outgoing_.end()) return;
  const auto stream = found->second;
  while (!stream->waiting && !stream->at_end) {
    const std::size_t window = kStreamWindowBytes - static_cast<std::size_t>(stream->sent - stream->acknowledged);
    if (window < kBulkChunkBytes) return;
    if (!stream->piece) {
      auto piece = stream->source(stream->sent, kBulkChunkBytes);
      if (!piece.ok() || piece->size() > kBulkChunkBytes) {
        const Error error = piece.ok() ? Internal("a stream's source gave more than was asked for") : piece.error();
        SendReset(id, error, true);
        return EndOutgoing(id, error);
      }
      stream->piece = *std::move(piece);
    }
    const bool last = stream->piece->empty();
    flatbuffers::FlatBufferBuilder builder(128);
    const Status sent = channel_->Tell(builder, wire::CreateStreamChunk(builder, id, stream->sent, last), *stream->piece);
    if (!sent.ok() && sent.error().code == ErrorCode::kResourceExhausted) {
      stream->waiting = true;
      channel_->WhenWritable([this, id, stream, alive = std::weak_ptr(alive_)] {
        stream->waiting = false;
        if (!alive.expired()) Pump(id);
      });
      return;
    }
    if (!sent.ok()) return EndOutgoing(id, sent);
    stream->sent += stream->piece->size();
    stream->piece.reset();
    stream->at_end = last;
  }
}

Status BulkStreams::Receive(std::uint64_t id, std::uint64_t bytes_max, std::function<Status(ByteView)> sink,
                            std::function<void(Status)> done) {
  if (incoming_.size() >= kStreamsMax) return ResourceExhausted(fmt::format("more than {} streams on one channel", kStreamsMax));
  if (incoming_.count(id)) return InvalidArgument(fmt::format("stream {} is already being received", id));
  auto stream = std::make_shared<Incoming>();
  stream->bytes_max = bytes_max;
  stream->sink = std::move(sink);
  stream->done = std::move(done);
  incoming_[id] = std::move(stream);
  return {};
}

void BulkStreams::Reset(std::uint64_t id, const Error& reason) {
  if (outgoing_.count(id)) {
    SendReset(id, reason, true);
    EndOutgoing(id, reason);
  }
  if (incoming_.count(id)) {
    SendReset(id, reason, false);
    EndIncoming(id, reason);
  }
}

bool BulkStreams::Handle(const Frame& frame) {
  if (const auto* ack = frame.as<wire::StreamAck>()) {
    const auto found = outgoing_.find(ack->stream());
    if (found == outgoing_.end()) return true;
    Outgoing& stream = *found->second;
    if (ack->offset() < stream.acknowledged || ack->offset() > stream.sent) {
      SendReset(ack->stream(), Corrupt("acknowledged what was not sent"), true);
      EndOutgoing(ack->stream(), Corrupt(fmt::format("the receiver of stream {} acknowledged what was not sent", ack->stream())));
      return true;
    }
    stream.acknowledged = ack->offset();
    if (ack->last() && stream.at_end && stream.acknowledged == stream.sent) EndOutgoing(ack->stream(), {});
    else Pump(ack->stream());
    return true;
  }
  if (const auto* reset = frame.as<wire::StreamReset>()) {
    const Error reason = FromOutcome(*reset->outcome());
    if (reset->by_sender()) EndIncoming(reset->stream(), reason);
    else EndOutgoing(reset->stream(), reason);
    return true;
  }
  if (const auto* chunk = frame.as<wire::StreamChunk>()) {
    OnChunk(*chunk, frame.payload());
    return true;
  }
  return false;
}

void BulkStreams::OnChunk(const wire::StreamChunk& chunk, ByteView bytes) {
  const std::uint64_t id = chunk.stream();
  const auto found = incoming_.find(id);
  if (found == incoming_.end()) return;  // Reset a moment ago.
  const auto stream = found->second;
  const auto refuse = [&](const Error& error) {
    SendReset(id, error, false);
    EndIncoming(id, error);
  };
  if (chunk.offset() != stream->received) return refuse(Corrupt(fmt::format("stream {} goes on at {} instead of {}", id, chunk.offset(), stream->received)));
  if (bytes.size() > stream->bytes_max - stream->received) return refuse(ResourceExhausted(fmt::format("stream {} is larger than {} bytes", id, stream->bytes_max)));
  stream->received += bytes.size();
  if (!bytes.empty()) {
    if (const Status taken = stream->sink(bytes); !taken.ok()) return refuse(taken.error());
    if (!incoming_.count(id)) return;  // The sink reset it.
  }
  if (chunk.last() || stream->received - stream->acknowledged >= kStreamWindowBytes / 4) {
    stream->acknowledged = stream->received;
    flatbuffers::FlatBufferBuilder builder(64);
    const Status sent = channel_->Tell(builder, wire::CreateStreamAck(builder, id, stream->received, chunk.last()));
    if (!sent.ok()) return EndIncoming(id, sent);
  }
  if (chunk.last()) EndIncoming(id, {});
}

void BulkStreams::Fail(const Error& reason) {
  while (!outgoing_.empty()) EndOutgoing(outgoing_.begin()->first, reason);
  while (!incoming_.empty()) EndIncoming(incoming_.begin()->first, reason);
}

void BulkStreams::EndOutgoing(std::uint64_t id, Status status) {
  const auto found = outgoing_.find(id);
  if (found == outgoing_.end()) return;
  const auto stream = found->second;
  outgoing_.erase(found);
  if (stream->done) stream->done(std::move(status));
}

void BulkStreams::EndIncoming(std::uint64_t id, Status status) {
  const auto found = incoming_.find(id);
  if (found == incoming_.end()) return;
  const auto stream = found->second;
  incoming_.erase(found);
  if (stream->done) stream->done(std::move(status));
}

void BulkStreams::SendReset(std::uint64_t id, const Error& reason, bool by_sender) {
  flatbuffers::FlatBufferBuilder builder(256);
  const auto outcome = wire::CreateOutcomeDirect(builder, static_cast<std::uint8_t>(reason.code), reason.message.substr(0, 1024).c_str());
  // Where this fails the channel is closed or about to be, and the peer's streams end with it.
  (void)channel_->Tell(builder, wire::CreateStreamReset(builder, id, outcome, by_sender)).ok();
}

}  // namespace godwit::transport
