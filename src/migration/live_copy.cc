#include "migration/live_copy.h"

#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include <fmt/format.h>

namespace godwit::migration {

using transport::RawStream;
using Clock = std::chrono::steady_clock;

namespace {

// Smaller rounds are not worth a thread for each stream.
constexpr std::uint64_t kThreadedPages = (8 << 20) / kPageBytes;
// Looked at, and then sent while the processor's caches still have it.
constexpr std::uint64_t kBatchBytes = 512 << 10;
// What a slowed guest is made to sleep and run in turn.
constexpr std::chrono::microseconds kSlowPeriod{4'000};
constexpr int kBulkNice = 10;

std::chrono::microseconds Since(Clock::time_point begin) {
  return std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin);
}

iovec Piece(const void* begin, std::size_t bytes) { return {const_cast<void*>(begin), bytes}; }

}  // namespace

// One memory and what was sent of it.
struct LiveCopy::Copied {
  std::shared_ptr<const runtime::LiveMemory> memory;
  std::unique_ptr<PageTracker> tracker;
  std::vector<std::uint64_t> sent;  // A bit per page that the target may have otherwise than as initial.
  std::uint64_t announced_bytes = 0;  // The target knows an older size from its preparation: a guest may grow meanwhile.
  std::uint64_t harvested_bytes = 0;  // From the base on, at least once.

  bool Sent(std::uint64_t page) const { return (sent[page / 64] >> (page % 64) & 1) != 0; }
  // Slices of different streams share no word.
  void MarkSent(std::uint64_t page, bool value) {
    const std::uint64_t bit = 1ull << (page % 64);
    sent[page / 64] = value ? sent[page / 64] | bit : sent[page / 64] & ~bit;
  }
};

// Ranges of one slice of a memory. The slice decides the stream, so that a page never overtakes its older content.
struct LiveCopy::Work {
  std::uint32_t memory;
  std::uint64_t slice;
  std::vector<PageRange> ranges;
  std::uint64_t pages() const {
    std::uint64_t sum = 0;
    for (const PageRange& range : ranges) sum += range.count;
    return sum;
  }
};

// Makes the guest sleep a share of its time, until destroyed.
class LiveCopy::Slower {
 public:
  Slower(double share, const std::function<void(std::chrono::microseconds)>& nap) : share_(share) {
    thread_ = std::thread([this, nap] {
      std::unique_lock lock(mutex_);
      while (!ending_) {
        const double sleeping = share_ * static_cast<double>(kSlowPeriod.count()) / (1 - share_);
        const std::chrono::microseconds length(std::clamp<std::int64_t>(static_cast<std::int64_t>(sleeping), 1, runtime::kNapMax.count()));
        nap(length);
        changed_.wait_for(lock, length + kSlowPeriod, [this] { return ending_; });
      }
    });
  }
  ~Slower() {
    {
      const std::lock_guard lock(mutex_);
      ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void Set(double share) {
    const std::lock_guard lock(mutex_);
    share_ = share;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  double share_;
  bool ending_ = false;
  std::thread thread_;
};

LiveCopy::LiveCopy(Options options, std::vector<std::shared_ptr<const runtime::LiveMemory>> memories)
    : options_(std::move(options)) {
  for (auto& memory : memories) {
    auto copied = std::make_unique<Copied>();
    copied->memory = std::move(memory);
    copied->sent.resize(copied->memory->bytes_max() / kPageBytes / 64 + 1);
    memories_.push_back(std::move(copied));
  }
}

LiveCopy::~LiveCopy() = default;

Result<std::unique_ptr<LiveCopy>> LiveCopy::Open(Options options, std::vector<std::shared_ptr<const runtime::LiveMemory>> memories) {
  std::unique_ptr<LiveCopy> copy(new LiveCopy(std::move(options), std::move(memories)));
  GODWIT_TRY(copy->Connect());
  return copy;
}

Status LiveCopy::Connect() {
  codecs_.resize(options_.streams);
  for (std::uint32_t i = 0; i < options_.streams; ++i) {
    GODWIT_ASSIGN(auto stream, RawStream::Connect(options_.host, options_.port, options_.channel));
    const std::string& id = options_.migration.value;
    PageHead head{PageKind::kHello, i, kPageStreamVersion, options_.epoch.value, id.size()};
    iovec pieces[] = {Piece(&head, sizeof head), Piece(id.data(), id.size())};
    GODWIT_TRY(stream->Write(pieces));
    streams_.push_back(std::move(stream));
  }
  return {};
}

void LiveCopy::Abort() {
  aborted_.store(true);
  for (const auto& stream : streams_) stream->Shut();
}

Status LiveCopy::Alive(Status status) const {
  if (aborted_.load()) return Aborted("the migration was given up");
  return status;
}

std::uint64_t LiveCopy::bytes_sent() const {
  std::uint64_t sum = 0;
  for (const auto& stream : streams_) sum += stream->bytes_written();
  return sum;
}

// --- Rounds

Status LiveCopy::CopyRounds() {
  if (options_.tracker == TrackerKind::kNone) return {};
  for (const auto& copied : memories_) {
    GODWIT_ASSIGN(copied->tracker, CreateTracker(options_.tracker, copied->memory->base(), copied->memory->bytes_max()));
  }
  RoundPolicy policy(options_.policy);
  for (bool first = true;; first = false) {
    const auto begin = Clock::now();
    Round round;
    if (first) GODWIT_TRY(FirstRound(round.pages, round.bytes));
    else GODWIT_TRY(SendWork(pending_, round.pages, round.bytes));
    GODWIT_TRY(EndRound());
    pending_.clear();
    round.length = Since(begin);
    GODWIT_TRY(Harvest(pending_));
    for (const Work& work : pending_) round.dirty_pages += work.pages();
    rounds_.push_back(round);
    if (options_.on_round) options_.on_round(round);
    const RoundDecision decision = policy.Next({round.bytes, round.dirty_pages * kPageBytes, round.length});
    if (std::holds_alternative<StopNow>(decision)) return Alive({});
    if (const auto* give_up = std::get_if<GiveUpCopying>(&decision)) return FailedPrecondition(give_up->reason);
    if (const auto* slow = std::get_if<SlowDown>(&decision)) {
      slowest_share_ = std::max(slowest_share_, slow->share);
      if (slower_) slower_->Set(slow->share);
      else slower_ = std::make_unique<Slower>(slow->share, options_.nap);
    }
  }
}

// Finds and sends slice by slice, so that a page is watched no longer than it has to be.
Status LiveCopy::FirstRound(std::uint64_t& pages, std::uint64_t& bytes) {
  std::uint64_t total = 0;
  for (const auto& copied : memories_) total += copied->harvested_bytes = copied->memory->bytes();
  GODWIT_TRY(AnnounceSizes());
  const auto copy = [&](std::size_t stream, std::size_t streams, std::uint64_t& pages_here, std::uint64_t& bytes_here) -> Status {
    for (std::uint32_t m = 0; m < memories_.size(); ++m) {
      Copied& copied = *memories_[m];
      const std::uint64_t end = copied.announced_bytes;
      for (std::uint64_t slice = 0; slice * kSliceBytesMax < end; ++slice) {
        if (slice % options_.streams % streams != stream) continue;
        Work work{m, slice, {}};
        {
          const std::lock_guard lock(mutex_);
          GODWIT_TRY(copied.tracker->Harvest(slice * kSliceBytesMax, std::min(end, (slice + 1) * kSliceBytesMax), work.ranges));
        }
        GODWIT_TRY(SendRanges(work, pages_here, bytes_here));
      }
    }
    return {};
  };
  if (total / kPageBytes < kThreadedPages || options_.streams == 1) return copy(0, 1, pages, bytes);
  std::mutex sums;
  return OnAllStreams([&](std::size_t stream) {
    std::uint64_t pages_here = 0, bytes_here = 0;
    const Status copied = copy(stream, options_.streams, pages_here, bytes_here);
    const std::lock_guard lock(sums);
    pages += pages_here;
    bytes += bytes_here;
    return copied;
  });
}

Status LiveCopy::Harvest(std::vector<Work>& found) {
  for (std::uint32_t m = 0; m < memories_.size(); ++m) {
    Copied& copied = *memories_[m];
    const std::uint64_t end = copied.memory->bytes();
    for (std::uint64_t slice = 0; slice * kSliceBytesMax < end; ++slice) {
      Work work{m, slice, {}};
      GODWIT_TRY(copied.tracker->Harvest(slice * kSliceBytesMax, std::min(end, (slice + 1) * kSliceBytesMax), work.ranges));
      if (!work.ranges.empty()) found.push_back(std::move(work));
    }
    copied.harvested_bytes = end;
  }
  return {};
}

Status LiveCopy::SendWork(const std::vector<Work>& all, std::uint64_t& pages, std::uint64_t& bytes) {
  GODWIT_TRY(AnnounceSizes());
  std::uint64_t total = 0;
  for (const Work& work : all) total += work.pages();
  if (total < kThreadedPages || options_.streams == 1) {
    for (const Work& work : all) GODWIT_TRY(SendRanges(work, pages, bytes));
    return {};
  }
  std::mutex sums;
  return OnAllStreams([&](std::size_t stream) -> Status {
    std::uint64_t pages_here = 0, bytes_here = 0;
    for (const Work& work : all) {
      if (work.slice % options_.streams != stream) continue;
      GODWIT_TRY(SendRanges(work, pages_here, bytes_here));
    }
    const std::lock_guard lock(sums);
    pages += pages_here;
    bytes += bytes_here;
    return {};
  });
}

Status LiveCopy::OnAllStreams(const std::function<Status(std::size_t)>& run) {
  std::vector<Status> results(options_.streams);
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < options_.streams; ++i) {
    threads.emplace_back([&, i] {
      // While the guest runs, it and its requests go first: a bulk copy takes whole cores. Linux: of this thread only.
      if (!standing_) setpriority(PRIO_PROCESS, 0, kBulkNice);
      results[i] = run(i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Status& result : results) GODWIT_TRY(result);
  return {};
}

// The target makes a memory larger before pages of the new part come: all streams are idle when this is called.
Status LiveCopy::AnnounceSizes() {
  bool changed = false;
  for (std::uint32_t m = 0; m < memories_.size(); ++m) {
    Copied& copied = *memories_[m];
    const std::uint64_t bytes = copied.tracker ? copied.harvested_bytes : copied.memory->bytes();
    if (bytes <= copied.announced_bytes) continue;
    PageHead head{PageKind::kSize, m, 0, bytes, 0};
    copied.announced_bytes = bytes;
    changed = true;
    GODWIT_TRY(Alive(streams_[0]->Write({reinterpret_cast<const std::uint8_t*>(&head), sizeof head})));
  }
  return changed && options_.streams > 1 ? EndRound() : Status();
}

// Everything that was sent is in place when this returns.
Status LiveCopy::EndRound() {
  ++round_number_;
  for (const auto& stream : streams_) {
    PageHead head{PageKind::kRound, 0, round_number_, 0, 0};
    GODWIT_TRY(Alive(stream->Write({reinterpret_cast<const std::uint8_t*>(&head), sizeof head})));
  }
  for (const auto& stream : streams_) {
    PageHead head;
    GODWIT_TRY(Alive(stream->Read({reinterpret_cast<std::uint8_t*>(&head), sizeof head})));
    if (head.kind == PageKind::kReply && head.bytes <= kReasonBytesMax) {
      std::string reason(head.bytes, '\0');
      GODWIT_TRY(Alive(stream->Read({reinterpret_cast<std::uint8_t*>(reason.data()), reason.size()})));
      return Unavailable("the target gave up: " + reason);
    }
    if (head.kind != PageKind::kRoundDone || head.first != round_number_) return Corrupt("the target acknowledged another round");
  }
  return {};
}

namespace {

// Makes pages in `pieces`, each of which follows its head, frames of the codec where that makes them smaller. They live in `packed`.
void PackPieces(BlockCodec& codec, std::vector<iovec>& pieces, Bytes& packed) {
  std::size_t room = 0;
  for (const iovec& piece : pieces) room += piece.iov_len;
  packed.reserve(room);  // Pointed to by `pieces`.
  for (std::size_t i = 0; i < pieces.size(); ++i) {
    auto* head = static_cast<PageHead*>(pieces[i].iov_base);
    if (head->kind != PageKind::kPages) continue;
    iovec& pages = pieces[++i];
    const std::size_t at = packed.size();
    const auto bytes = codec.Pack({static_cast<const std::uint8_t*>(pages.iov_base), pages.iov_len}, packed);
    if (!bytes) continue;
    head->kind = PageKind::kCompressed;
    head->bytes = *bytes;
    pages = {packed.data() + at, *bytes};
  }
}

}  // namespace

Status LiveCopy::SendRanges(const Work& work, std::uint64_t& pages, std::uint64_t& bytes) {
  RawStream& stream = *streams_[work.slice % options_.streams];
  BlockCodec& codec = codecs_[work.slice % options_.streams];
  Copied& copied = *memories_[work.memory];
  const runtime::LiveMemory& memory = *copied.memory;
  const std::uint64_t unit = options_.page_bytes / kPageBytes, memory_pages = copied.announced_bytes / kPageBytes;
  std::vector<PageHead> heads;
  std::vector<iovec> pieces;
  heads.reserve(2 * kBatchBytes / kPageBytes);  // Pointed to by `pieces`.
  std::uint64_t batch = 0;
  Bytes packed;
  const auto flush = [&]() -> Status {
    if (pieces.empty()) return {};
    CodecPolicy::Sent sent{batch, 0};
    const auto begin = Clock::now();
    if (codec.policy().packs()) PackPieces(codec, pieces, packed);
    const auto packed_at = Clock::now();
    for (const iovec& piece : pieces) sent.wire_bytes += piece.iov_len;
    Pace(sent.wire_bytes);
    const Status written = stream.Write(pieces);
    sent.packing = packed_at - begin;
    sent.writing = Clock::now() - packed_at;
    codec.policy().Add(sent);
    packed.clear();
    pieces.clear();
    heads.clear();
    batch = 0;
    return Alive(written);
  };
  // Units that follow each other and are of one kind share a head.
  const auto add = [&](PageKind kind, std::uint64_t first, std::uint64_t count) {
    PageHead* last = heads.empty() ? nullptr : &heads.back();
    const bool joins = last != nullptr && last->kind == kind && last->first + last->count == first &&
                       last->bytes + count * kPageBytes <= kBlockBytesMax;
    if (!joins) {
      heads.push_back({kind, work.memory, first, 0, 0});
      last = &heads.back();
      pieces.push_back(Piece(last, sizeof *last));
      if (kind == PageKind::kPages) pieces.push_back(Piece(memory.base() + first * kPageBytes, 0));
    }
    last->count += count;
    if (kind != PageKind::kPages) return;
    last->bytes += count * kPageBytes;
    pieces.back().iov_len += count * kPageBytes;
    batch += count * kPageBytes;
    pages += count;
    bytes += count * kPageBytes;
  };
  std::uint64_t next = 0;  // Units that two ranges share are sent once.
  for (const PageRange& range : work.ranges) {
    std::uint64_t first = std::max(next, range.first / unit * unit);
    const std::uint64_t end = std::min(memory_pages, (range.first + range.count + unit - 1) / unit * unit);
    for (; first < end; first += unit) {
      const std::uint64_t count = std::min(unit, end - first);
      bool initial = true, sent = false;
      for (std::uint64_t page = first; page < first + count; ++page) {
        initial = initial && memory.AsInitial(page);
        sent = sent || copied.Sent(page);
      }
      if (initial && sent) add(PageKind::kInitial, first, count);
      if (!initial) add(PageKind::kPages, first, count);
      for (std::uint64_t page = first; page < first + count; ++page) copied.MarkSent(page, !initial);
      if (batch >= kBatchBytes || heads.size() + 1 >= heads.capacity()) GODWIT_TRY(flush());
    }
    next = std::max(next, end);
  }
  return flush();
}

// Keeps all streams together within the limit.
void LiveCopy::Pace(std::uint64_t bytes) {
  if (options_.bytes_per_second == 0) return;
  Clock::time_point until;
  {
    const std::lock_guard lock(pace_mutex_);
    const auto now = Clock::now();
    until = std::max(paced_until_, now);
    paced_until_ = until + std::chrono::nanoseconds(static_cast<std::int64_t>(
                               1e9 * static_cast<double>(bytes) / static_cast<double>(options_.bytes_per_second)));
  }
  std::this_thread::sleep_until(until);
}

// --- The guest stands still

Status LiveCopy::AnnounceStop() {
  PageHead head{PageKind::kStopping};
  return Alive(streams_[0]->Write({reinterpret_cast<const std::uint8_t*>(&head), sizeof head}));
}

Status LiveCopy::SendPages(const std::vector<bool>& moving) {
  const auto begin = Clock::now();
  slower_.reset();
  standing_ = true;
  Round round;
  if (options_.tracker == TrackerKind::kNone) {
    for (std::uint32_t m = 0; m < memories_.size(); ++m) {
      if (m >= moving.size() || !moving[m]) continue;
      for (const auto& run : memories_[m]->memory->Changed()) {
        const std::uint64_t end = run.first_page + run.bytes.size() / kPageBytes;
        constexpr std::uint64_t kSlicePages = kSliceBytesMax / kPageBytes;
        for (std::uint64_t first = run.first_page; first < end;) {
          const std::uint64_t slice = first / kSlicePages, count = std::min(end, (slice + 1) * kSlicePages) - first;
          if (pending_.empty() || pending_.back().memory != m || pending_.back().slice != slice) pending_.push_back({m, slice, {}});
          pending_.back().ranges.push_back({first, count});
          first += count;
        }
      }
    }
  } else {
    GODWIT_TRY(Harvest(pending_));
  }
  std::erase_if(pending_, [&](const Work& work) { return work.memory >= moving.size() || !moving[work.memory]; });
  // Both lists are in order; a page that was found twice is sent twice only if it lies in different lists.
  GODWIT_TRY(SendWork(pending_, round.pages, round.bytes));
  // Another stream's pages must be in place before the state is: stream 0 is in order by itself.
  const bool others = std::any_of(pending_.begin(), pending_.end(), [&](const Work& work) { return work.slice % options_.streams != 0; });
  pending_.clear();
  if (others) GODWIT_TRY(EndRound());
  round.length = Since(begin);
  rounds_.push_back(round);
  return {};
}

Status LiveCopy::SendState(const std::function<Status(const std::function<Status(ByteView)>& sink)>& encode) {
  Bytes state;
  GODWIT_TRY(encode([&](ByteView part) -> Status {
    if (aborted_.load()) return Aborted("the migration was given up");
    state.insert(state.end(), part.begin(), part.end());
    return {};
  }));
  PageHead head{PageKind::kState, 0, 0, 0, state.size()};
  iovec pieces[] = {Piece(&head, sizeof head), Piece(state.data(), state.size())};
  Pace(state.size());
  return Alive(streams_[0]->Write(pieces));
}

Status LiveCopy::SendToken() {
  PageHead head{PageKind::kCommit};
  return Alive(streams_[0]->Write({reinterpret_cast<const std::uint8_t*>(&head), sizeof head}));
}

Result<LiveCopy::Reply> LiveCopy::AwaitReply(std::chrono::microseconds spin) {
  streams_[0]->SpinForInput(spin);
  PageHead head;
  GODWIT_TRY(Alive(streams_[0]->Read({reinterpret_cast<std::uint8_t*>(&head), sizeof head})));
  if (head.kind != PageKind::kReply || head.bytes > kReasonBytesMax) return Corrupt("the target answered something else");
  Reply reply{head.first == 1, std::string(head.bytes, '\0')};
  GODWIT_TRY(Alive(streams_[0]->Read({reinterpret_cast<std::uint8_t*>(reply.reason.data()), reply.reason.size()})));
  return reply;
}

}  // namespace godwit::migration
