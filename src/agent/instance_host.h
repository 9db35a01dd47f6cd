// InstanceHost: one instance of a service on this device, its threads, and its requests.
//
// A `reactor` host owns one runtime::Instance whose export godwit_handle is called once per request, at most
// `concurrency` at a time. A `command` host runs `_start` of a fresh Instance per request, at most
// kCommandInstancesMax at a time, with CGI variables (RFC 3875). The rest wait in order, at most
// kWaitingRequestsMax; more are answered 503. Either kind can be paused at any moment, captured (every running
// Instance, every request begun or waiting), and created again from that elsewhere, where the gateways attach to
// their requests.
//
// A trap ends its request with a 500 problem. A stateless reactor gets a fresh instance afterwards; a stateful one
// keeps its memory as the trap left it, as a process does whose handler threw, because dropping what was
// acknowledged to others would be worse.
//
// Threads: self-synchronised; every public function may be called by any thread but the host's own ones.
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "agent/environment.h"
#include "agent/recent_use.h"
#include "agent/request.h"
#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"
#include "model/manifest.h"
#include "model/records.h"
#include "runtime/instance.h"
#include "runtime/live_memory.h"

namespace godwit::agent {

inline constexpr std::size_t kWaitingRequestsMax = 8192;
inline constexpr std::size_t kCommandInstancesMax = 8;
inline constexpr std::uint64_t kBundleBytesMax = 8ull << 30;

using LiveMemories = std::vector<std::shared_ptr<const runtime::LiveMemory>>;
using ArrivingMemories = std::vector<std::unique_ptr<runtime::ArrivingMemory>>;

// A paused host's state, for sending. Points into the host, which stays paused while this lives.
class CapturedHost {
 public:
  virtual ~CapturedHost() = default;
  // Writes the bundle (docs/formats/bundle.md) in order; may be called once.
  virtual Status Encode(const std::function<Status(ByteView)>& sink) = 0;
  virtual std::uint64_t bytes_estimate() const = 0;  // Of the encoding, a little too large.
  virtual std::uint64_t memory_bytes() const = 0;    // Linear memory of all instances.
  virtual std::size_t running() const = 0;           // Instances of guest code (0..1 for a reactor).
  virtual std::size_t requests() const = 0;          // Begun and waiting.
  // Which of the memories that PauseAndCapture was given still belong to a guest here: their pages are not in the
  // bundle.
  virtual const std::vector<bool>& elsewhere() const = 0;
};

class InstanceHost {
 public:
  struct Options {
    model::InstanceRecord record;
    model::ServiceRecord service;
    std::shared_ptr<const runtime::LoadedModule> module;
    std::shared_ptr<Environment> environment;
  };

  // A new instance: started and initialised (a reactor's start function and `_initialize` have run).
  // kInvalidArgument if the module lacks what its kind needs; kFailedPrecondition if initialising trapped.
  static Result<std::unique_ptr<InstanceHost>> Create(Options options);
  // Makes the next CreateFromBundle with such options faster. Blocks, for as long as it takes to make an instance.
  static void Rehearse(Options options);
  // From the bundle of a host of the same service and package. It is paused: nothing runs before Resume. `bundle`
  // need not outlive the call. kCorrupt, kFailedPrecondition (other package or service) change nothing.
  // `memories` came ahead, and those that the bundle names are used up.
  static Result<std::unique_ptr<InstanceHost>> CreateFromBundle(Options options, ByteView bundle, ArrivingMemories memories = {});
  // Fails what is left with 503 and joins the threads.
  virtual ~InstanceHost() = default;

  // --- Requests. Unknown ids are ignored except where said.
  // Opens a request, or fails it through `sink` (503 queue full, 413). If the id is known already, as after a lost
  // channel, it is attached to instead. After Release: sink->Moved.
  virtual void Open(NewRequest request, std::shared_ptr<RequestSink> sink) = 0;
  virtual void Body(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) = 0;
  // True if the request is over and forgotten.
  virtual bool ResponseAck(const RequestId& id, std::uint64_t offset) = 0;
  virtual void Cancel(const RequestId& id) = 0;
  // Goes on with a request that came with a bundle or lost its channel: BodyConsumed with the first body byte
  // needed, then the head unless head_received, then the response from response_offset. Failed{kNotFound} if unknown.
  virtual void Attach(const RequestId& id, std::uint64_t response_offset, bool head_received,
                      std::shared_ptr<RequestSink> sink) = 0;
  // The channel of this sink is gone: its requests go on and may be attached to until their deadline.
  virtual void Detach(const RequestSink* sink) = 0;
  // The instance is no longer wanted: its requests end when they do, but WebSockets, which may last for hours, end now.
  virtual void EndWebSockets() = 0;

  // --- Moving.
  // The memories of the guests that run now, to be read while they run.
  virtual LiveMemories Memories() = 0;
  // Makes every running guest sleep so long at its next safepoint.
  virtual void Nap(std::chrono::microseconds length) = 0;
  // What its guests computed since the last call, and how many do now; those that had more than `share` of their time, and `credit` of what was before, sleep.
  struct Computed {
    std::chrono::nanoseconds time{0};
    std::size_t running = 0;
  };
  virtual Computed Pace(double share, std::chrono::steady_clock::duration credit) = 0;
  // Stops every task at its next safepoint and captures. New requests wait meanwhile. Blocks until captured or
  // `timeout` has passed (kDeadlineExceeded; the host then runs on). kFailedPrecondition says what cannot move.
  // Calls to other services that are not idempotent are waited for. Pages of the memories in `elsewhere` are left out:
  // the caller takes them from there. A reactor without requests is captured without waking its thread.
  virtual Result<std::unique_ptr<CapturedHost>> PauseAndCapture(std::chrono::milliseconds timeout, const LiveMemories& elsewhere) = 0;
  Result<std::unique_ptr<CapturedHost>> PauseAndCapture(std::chrono::milliseconds timeout) { return PauseAndCapture(timeout, {}); }
  // Goes on after PauseAndCapture (the CapturedHost must be gone), or begins after CreateFromBundle.
  virtual void Resume() = 0;
  // The instance lives elsewhere now: frees it, answers Moved for its requests and later ones.
  virtual void Release(const Location& to) = 0;

  // --- Looking.
  struct Statistics {
    std::uint64_t requests_total = 0, failed_total = 0, traps_total = 0;
    std::size_t running = 0, waiting = 0;
    std::uint64_t memory_bytes = 0;  // Linear memory now.
    std::optional<std::chrono::steady_clock::time_point> running_since;  // When the guest could first run here.
    bool paused = false, released = false;
    std::optional<RecentUse::Figures> recent;
    std::uint64_t open_files = 0;  // Of this device: with one the instance cannot move.
  };
  virtual Statistics statistics() const = 0;
  virtual const model::InstanceRecord& record() const = 0;
  virtual const model::ServiceRecord& service() const = 0;
};

}  // namespace godwit::agent
