// MigrationDriver: carries out, on this device, the actions of migration/handoff.h - as source of instances that
// leave and as target of those that come - over channels, with the agent's hosts and the control plane.
//
// The downtime is between PauseAndCapture and the target's Resume; everything that can be done before is: the page
// streams are open, the code is mapped, and memory is copied in rounds while the guest runs (migration/live_copy.h). What
// remains goes straight into the target's memory.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "agent/instance_host.h"
#include "agent/migration_store.h"
#include "base/bytes.h"
#include "base/result.h"
#include "migration/page_tracker.h"
#include "model/ids.h"
#include "model/records.h"
#include "transport/channel.h"
#include "transport/event_loop.h"

namespace godwit::agent {

inline constexpr std::size_t kMigrationsMax = 16;           // Under way at once, per direction.
inline constexpr std::size_t kHandoffsRememberedMax = 4096; // Ended ones, so that late messages find them.

// The agent as the driver sees it. Called on the driver's own threads, never on the loop unless said; may block.
class MigrationSite {
 public:
  virtual ~MigrationSite() = default;

  // --- Source
  // The instance if it runs here. On the loop; must not block.
  virtual std::shared_ptr<InstanceHost> Find(const model::InstanceId& id) = 0;
  // It was released: the host answers with the new place and may be dropped after a while.
  virtual void OnLeft(const model::InstanceId& id, const Location& to) = 0;
  // It runs here on, now under `epoch` (which differs from the host's record after a claim).
  virtual void OnKept(const model::InstanceId& id, model::Epoch epoch) = 0;
  // Neither end has it any more: to be dropped.
  virtual void OnLost(const model::InstanceId& id, const std::string& reason) = 0;

  // --- Target
  // Makes ready for an instance: checks capacity (memory_bytes and what its manifest may grow to), gets the package's
  // blobs for this ISA, loads the code, reserves. `record` is already this device's, under the new epoch. Refuses with
  // an error whose message is shown to who asked for the move.
  virtual Result<InstanceHost::Options> Prepare(const model::InstanceRecord& record, const model::ServiceRecord& service,
                                                std::uint64_t memory_bytes) = 0;
  // Makes the paused host from its bundle; fakes do it their way.
  virtual Result<std::unique_ptr<InstanceHost>> Restore(InstanceHost::Options options, ByteView bundle, ArrivingMemories memories) {
    return InstanceHost::CreateFromBundle(std::move(options), bundle, std::move(memories));
  }
  // A memory of `bytes` for the instance's pages, which come before its bundle; fakes do it their way.
  virtual Result<std::unique_ptr<runtime::ArrivingMemory>> PrepareMemory(const InstanceHost::Options& options, ByteCount bytes);
  // A preparation or an arrival that is not confirmed ends: frees what Prepare reserved, forgets the host if adopted.
  virtual void Abandon(const model::InstanceId& id) = 0;
  // Must not block. The host belongs to the agent from now on and is resumed next; requests that are
  // attached or opened may be given to it. Its record is not to be written before OnArrived.
  virtual void Adopt(std::shared_ptr<InstanceHost> host) = 0;
  // Confirmed: the store has this device as owner. On the loop; must not block. The source hears of it afterwards.
  virtual void OnArrived(const model::InstanceId& id) = 0;
};

// On the loop, but for construction and destruction, which are for another thread.
class MigrationDriver {
 public:
  struct Options {
    transport::ChannelOptions channel;  // For the channels to targets; `self` names this device and boot.
    std::string isa;
    std::string listen_address = "127.0.0.1";  // For page streams.
    // How written pages are found while a guest runs; kNone: every move is by stop and copy.
    migration::TrackerKind tracker = migration::TrackerKind::kNone;
    std::size_t page_streams = 2;        // Of a move of much memory.
    std::uint64_t bytes_per_second = 0;  // The most that one move sends; 0: no limit.
    std::chrono::milliseconds prepare_timeout{30'000};
    std::chrono::milliseconds copy_stall_timeout{20'000};  // No round ended for so long.
    std::chrono::milliseconds stop_timeout{30'000};
    std::chrono::milliseconds commit_timeout{60'000};
    std::chrono::milliseconds retry_interval{500};
    // An accepted instance that could not be confirmed for so long stands still: shorter than a lease.
    std::chrono::milliseconds unconfirmed_max{5'000};
  };
  // `site` and `store` outlive the driver; the loop too.
  MigrationDriver(transport::EventLoop& loop, MigrationSite& site, MigrationStore& store, Options options);
  ~MigrationDriver();

  // The watch shows a migration's record: one whose source is this device and whose phase is Pending is begun; one
  // that was ended by others is cancelled.
  void OnRecord(const model::MigrationRecord& record);
  // A frame of a channel that the agent accepted. True if it was for the driver.
  bool OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame);
  void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel);
  // This device's lease ended.
  void OnLeaseLost();

  std::size_t leaving() const;   // Under way.
  std::size_t arriving() const;

 private:
  struct Impl;
  std::shared_ptr<Impl> impl_;
};

}  // namespace godwit::agent
