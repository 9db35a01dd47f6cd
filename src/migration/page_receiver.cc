#include "migration/page_receiver.h"

#include <zstd.h>

#include <algorithm>

#include <fmt/format.h>

#include "migration/page_tracker.h"

namespace godwit::migration {
namespace {

using transport::RawStream;

// Longer than stopping a guest takes as a rule, and short enough not to be felt by others.
constexpr std::chrono::microseconds kSpin{2'000};

Status WriteHead(RawStream& stream, PageHead head) {
  return stream.Write({reinterpret_cast<const std::uint8_t*>(&head), sizeof head});
}

Error Bad(const std::string& what) { return Corrupt("page stream: " + what); }

}  // namespace

Result<std::unique_ptr<PageReceiver>> PageReceiver::Create(const std::string& address, Options options,
                                                           std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories) {
  if (options.streams == 0 || options.streams > kPageStreamsMax || memories.size() > kMemoriesMax) {
    return InvalidArgument(fmt::format("{} page streams for {} memories: at most {} and {}", options.streams, memories.size(),
                                       kPageStreamsMax, kMemoriesMax));
  }
  GODWIT_ASSIGN(auto listener, transport::RawListener::Listen(address));
  return std::unique_ptr<PageReceiver>(new PageReceiver(std::move(options), std::move(listener), std::move(memories)));
}

PageReceiver::~PageReceiver() {
  Shut();
  for (std::thread& thread : threads_) thread.join();
}

void PageReceiver::Shut() {
  const std::lock_guard lock(mutex_);
  shut_ = true;
  listener_->Shut();
  for (const auto& stream : streams_) {
    if (stream) stream->Shut();
  }
}

Status PageReceiver::Open() {
  std::size_t open = 0;
  {
    const std::lock_guard lock(mutex_);
    streams_.resize(options_.streams);
  }
  while (open < options_.streams) {
    GODWIT_ASSIGN(auto stream, listener_->Accept(options_.channel, options_.open_timeout));
    PageHead head;
    GODWIT_TRY(stream->Read({reinterpret_cast<std::uint8_t*>(&head), sizeof head}));
    if (head.kind != PageKind::kHello || head.first != kPageStreamVersion || head.bytes > 512) {
      return Unsupported("the source speaks another version of page streams");
    }
    std::string migration(head.bytes, '\0');
    GODWIT_TRY(stream->Read({reinterpret_cast<std::uint8_t*>(migration.data()), migration.size()}));
    if (migration != options_.migration.value || head.count != options_.epoch.value || stream->peer().device != options_.source) {
      return PermissionDenied("a page stream of another migration came from " + stream->peer().device.value);
    }
    const std::lock_guard lock(mutex_);
    if (shut_) return Aborted("page streams are not wanted any more");
    if (head.memory >= options_.streams || streams_[head.memory]) return Bad("the same stream twice");
    streams_[head.memory] = std::move(stream);
    ++open;
  }
  for (std::size_t i = 1; i < options_.streams; ++i) {
    threads_.emplace_back([this, i] { ServeOther(*streams_[i]); });
  }
  return {};
}

void PageReceiver::ServeOther(RawStream& stream) {
  while (Next(stream, false).ok()) {
  }
  Shut();  // One that is lost or wrong ends all: Serve says so.
}

Result<PageReceiver::Arrived> PageReceiver::Serve() {
  RawStream& stream = *streams_[0];
  while (true) {
    GODWIT_ASSIGN(const PageHead head, Next(stream, true));
    switch (head.kind) {
      case PageKind::kStopping: stream.SpinForInput(kSpin); break;
      case PageKind::kState: {
        if (!state_.empty() || head.bytes == 0 || head.bytes > options_.state_bytes_max) {
          return Error(ResourceExhausted(fmt::format("a state of {} bytes, at most {} were prepared for", head.bytes, options_.state_bytes_max)));
        }
        // Memory grows with what has come, not with what a head claims.
        while (state_.size() < head.bytes) {
          const std::size_t before = state_.size();
          state_.resize(before + std::min<std::uint64_t>(head.bytes - before, 4 << 20));
          GODWIT_TRY(stream.Read(std::span(state_).subspan(before)));
        }
        received_ += head.bytes;
        return Arrived(StateArrived{});
      }
      case PageKind::kCommit: return Arrived(TokenArrived{});
      default: break;
    }
  }
}

Result<PageHead> PageReceiver::Next(RawStream& stream, bool first) {
  PageHead head;
  GODWIT_TRY(stream.Read({reinterpret_cast<std::uint8_t*>(&head), sizeof head}));
  switch (head.kind) {
    case PageKind::kPages: GODWIT_TRY(Pages(stream, head)); return head;
    case PageKind::kCompressed: GODWIT_TRY(Compressed(stream, head)); return head;
    case PageKind::kInitial: {
      const std::shared_lock lock(memories_mutex_);
      GODWIT_ASSIGN(runtime::ArrivingMemory* const memory, MemoryOf(head));
      memory->Reset(head.first, head.count);
      return head;
    }
    case PageKind::kSize: {
      const std::unique_lock lock(memories_mutex_);
      if (head.memory >= memories_.size()) return Bad("a memory that was not announced");
      GODWIT_TRY(memories_[head.memory]->GrowTo({head.count}));
      return head;
    }
    case PageKind::kRound: GODWIT_TRY(WriteHead(stream, {PageKind::kRoundDone, 0, head.first, 0, 0})); return head;
    case PageKind::kStopping:
    case PageKind::kState:
    case PageKind::kCommit:
      if (first) return head;
      break;
    default: break;
  }
  return Bad(fmt::format("a head of kind {} is not expected", static_cast<std::uint32_t>(head.kind)));
}

Result<runtime::ArrivingMemory*> PageReceiver::MemoryOf(const PageHead& head) const {
  if (head.memory >= memories_.size() || !memories_[head.memory]) return Bad("a memory that was not announced");
  runtime::ArrivingMemory* memory = memories_[head.memory].get();
  const std::uint64_t pages = memory->bytes() / kPageBytes;
  if (head.count == 0 || head.first > pages || head.count > pages - head.first) return Bad("pages outside their memory");
  return memory;
}

Status PageReceiver::Pages(RawStream& stream, const PageHead& head) {
  const std::shared_lock lock(memories_mutex_);
  GODWIT_ASSIGN(runtime::ArrivingMemory* const memory, MemoryOf(head));
  if (head.bytes != head.count * kPageBytes || head.bytes > kBlockBytesMax) return Bad("a block of a wrong size");
  memory->Populate(head.first, head.count);
  GODWIT_TRY(stream.Read({memory->base() + head.first * kPageBytes, head.bytes}));
  received_ += head.bytes;
  return {};
}

Status PageReceiver::Compressed(RawStream& stream, const PageHead& head) {
  const std::uint64_t bytes = head.count * kPageBytes;
  if (head.count > kBlockBytesMax / kPageBytes || head.bytes > kBlockBytesMax) return Bad("a block of a wrong size");
  Bytes packed(head.bytes);
  GODWIT_TRY(stream.Read(packed));
  const std::shared_lock lock(memories_mutex_);
  GODWIT_ASSIGN(runtime::ArrivingMemory* const memory, MemoryOf(head));
  memory->Populate(head.first, head.count);
  const std::size_t unpacked = ZSTD_decompress(memory->base() + head.first * kPageBytes, bytes, packed.data(), packed.size());
  if (ZSTD_isError(unpacked) || unpacked != bytes) return Bad("a compressed block does not unpack to its pages");
  received_ += head.bytes;
  return {};
}

std::vector<std::unique_ptr<runtime::ArrivingMemory>> PageReceiver::TakeMemories() {
  const std::unique_lock lock(memories_mutex_);
  return std::exchange(memories_, {});
}

Status PageReceiver::Reply(bool accepted, const std::string& reason) {
  const std::string text = reason.substr(0, kReasonBytesMax);
  PageHead head{PageKind::kReply, 0, accepted ? 1u : 0u, 0, text.size()};
  iovec pieces[] = {{&head, sizeof head}, {const_cast<char*>(text.data()), text.size()}};
  const std::lock_guard lock(mutex_);
  if (shut_ || streams_.empty() || !streams_[0]) return Unavailable("the page stream is closed");
  return streams_[0]->Write(pieces);
}

}  // namespace godwit::migration
