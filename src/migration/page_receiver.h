// PageReceiver: the target's side of the page streams of one migration: what comes is checked and written straight into
// the memories that were prepared for it.
//
// Each stream has a thread that reads it: the owner calls Serve for stream 0, the others run by themselves. Which pages
// a stream carries is the source's business; it does not send a page on one stream before all others have acknowledged
// the round in which they carried it. Shut is for any thread, everything else for one.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "migration/page_wire.h"
#include "model/ids.h"
#include "runtime/live_memory.h"
#include "transport/raw_stream.h"

namespace godwit::migration {

class PageReceiver {
 public:
  struct Options {
    transport::ChannelOptions channel;  // `self` and the cluster's token.
    model::MigrationId migration;
    model::Epoch epoch;
    model::DeviceName source;
    std::size_t streams = 1;
    std::uint64_t state_bytes_max = kStateBytesMax;
    std::chrono::milliseconds open_timeout{30'000};
  };
  // Listens on `address`; nothing is accepted before Open.
  static Result<std::unique_ptr<PageReceiver>> Create(const std::string& address, Options options,
                                                      std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories);
  ~PageReceiver();

  std::uint16_t port() const { return listener_->port(); }
  // Waits for all streams. kDeadlineExceeded, kAborted after Shut, kPermissionDenied: not the source's.
  Status Open();
  // Reads stream 0 until one of these.
  struct StateArrived {};   // state() has it, and all pages are in place.
  struct TokenArrived {};
  using Arrived = std::variant<StateArrived, TokenArrived>;
  // kUnavailable: a stream was lost or Shut; kCorrupt, kResourceExhausted: the source breaks the protocol.
  Result<Arrived> Serve();
  ByteView state() const { return state_; }
  void FreeState() { Bytes().swap(state_); }
  // The memories, by their numbers, once the state has arrived.
  std::vector<std::unique_ptr<runtime::ArrivingMemory>> TakeMemories();
  // Answers the token, or a state that cannot be restored. Any thread.
  Status Reply(bool accepted, const std::string& reason);
  std::uint64_t bytes_received() const { return received_.load(); }
  void Shut();

 private:
  PageReceiver(Options options, std::unique_ptr<transport::RawListener> listener,
               std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories)
      : options_(std::move(options)), listener_(std::move(listener)), memories_(std::move(memories)) {}
  // Reads one head, checks it against the limits and does it; heads that only stream 0 may carry are given back.
  Result<PageHead> Next(transport::RawStream& stream, bool first);
  Status Pages(transport::RawStream& stream, const PageHead& head);
  Status Compressed(transport::RawStream& stream, const PageHead& head);
  Result<runtime::ArrivingMemory*> MemoryOf(const PageHead& head) const;
  void ServeOther(transport::RawStream& stream);

  const Options options_;
  const std::unique_ptr<transport::RawListener> listener_;
  std::vector<std::unique_ptr<runtime::ArrivingMemory>> memories_;
  std::mutex mutex_;  // Of streams_ and shut_.
  std::shared_mutex memories_mutex_;  // Shared while pages are written; alone to grow or take the memories.
  std::vector<std::unique_ptr<transport::RawStream>> streams_;
  bool shut_ = false;
  std::vector<std::thread> threads_;
  Bytes state_;
  std::atomic<std::uint64_t> received_{0};
};

}  // namespace godwit::migration
