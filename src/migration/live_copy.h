// LiveCopy: the source's side of the page streams of one migration: copies memories in rounds while their guest runs,
// then what is left, the rest of the state and the token while it stands still.
//
//   Open ... CopyRounds ... (the guest is stopped) ... SendPages, SendState, SendToken, AwaitReply
//
// Never sent: pages as initial, untouched ones, and pages that were not written since they were sent. Without a tracker
// there are no rounds and SendPages sends all that differs. Where the link is slower than the codec, pages are compressed (block_codec.h). One thread calls all of this but Abort.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "migration/block_codec.h"
#include "migration/page_tracker.h"
#include "migration/page_wire.h"
#include "migration/rounds.h"
#include "model/ids.h"
#include "runtime/live_memory.h"
#include "transport/raw_stream.h"

namespace godwit::migration {

class LiveCopy {
 public:
  struct Round {
    std::uint64_t bytes = 0;        // Of the pages sent, before any compression.
    std::uint64_t pages = 0;        // Sent.
    std::uint64_t dirty_pages = 0;  // Written while that was sent: what the next round begins with.
    std::chrono::microseconds length{0};
  };
  struct Options {
    transport::ChannelOptions channel;
    std::string host;
    std::uint16_t port = 0;
    model::MigrationId migration;
    model::Epoch epoch;  // Of the token.
    std::size_t streams = 1;
    TrackerKind tracker = TrackerKind::kNone;
    RoundPolicy::Options policy;
    std::uint64_t page_bytes = kPageBytes;  // The larger of both ends' pages: what is sent is whole pages of it.
    std::uint64_t bytes_per_second = 0;     // Of all streams together; 0: no limit.
    // Makes the guest sleep so long at its next safepoint. Any thread.
    std::function<void(std::chrono::microseconds)> nap;
    std::function<void(const Round&)> on_round;
  };
  // Connects all streams. kUnavailable, kPermissionDenied, ...: RawStream::Connect's.
  static Result<std::unique_ptr<LiveCopy>> Open(Options options, std::vector<std::shared_ptr<const runtime::LiveMemory>> memories);
  ~LiveCopy();  // Ends the tracking.

  // Until what is left can be sent within the limit on the downtime. kFailedPrecondition: it does not get there, with
  // the reason; kUnavailable: a stream was lost; kAborted.
  Status CopyRounds();
  // Says that the guest is being stopped, so that the target does not sleep now.
  Status AnnounceStop();
  // The guest stands still. `moving`: which memories still belong to a guest that moves.
  Status SendPages(const std::vector<bool>& moving);
  // Has the bundle written, whose parts are copied.
  Status SendState(const std::function<Status(const std::function<Status(ByteView)>& sink)>& encode);
  Status SendToken();
  struct Reply {
    bool accepted = false;
    std::string reason;
  };
  // `spin`: waits that long without sleeping.
  Result<Reply> AwaitReply(std::chrono::microseconds spin);
  // Any thread: everything that runs fails soon, with kAborted.
  void Abort();

  const std::vector<Round>& rounds() const { return rounds_; }  // SendPages' is the last.
  double slowest_share() const { return slowest_share_; }       // The most the guest was made to sleep of its time.
  std::uint64_t bytes_sent() const;

 private:
  struct Copied;
  struct Work;
  class Slower;
  LiveCopy(Options options, std::vector<std::shared_ptr<const runtime::LiveMemory>> memories);
  Status Connect();
  Status Harvest(std::vector<Work>& work);
  Status SendWork(const std::vector<Work>& work, std::uint64_t& pages, std::uint64_t& bytes);
  Status FirstRound(std::uint64_t& pages, std::uint64_t& bytes);
  Status SendRanges(const Work& work, std::uint64_t& pages, std::uint64_t& bytes);
  Status OnAllStreams(const std::function<Status(std::size_t stream)>& run);
  Status EndRound();
  Status AnnounceSizes();
  void Pace(std::uint64_t bytes);
  Status Alive(Status status) const;

  const Options options_;
  std::vector<std::unique_ptr<Copied>> memories_;
  std::vector<std::unique_ptr<transport::RawStream>> streams_;
  std::vector<BlockCodec> codecs_;  // Of each stream.
  std::vector<Round> rounds_;
  std::vector<Work> pending_;  // Harvested and not sent.
  bool standing_ = false;      // The guest has been stopped.
  double slowest_share_ = 0;
  std::uint64_t round_number_ = 0;
  std::unique_ptr<Slower> slower_;
  std::atomic<bool> aborted_{false};
  std::mutex mutex_;  // Of the trackers, and of streams_ while they are connected.
  std::mutex pace_mutex_;
  std::chrono::steady_clock::time_point paced_until_{};
};

}  // namespace godwit::migration
