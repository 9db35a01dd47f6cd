// Engine: the device side (CSE and CSEE): function data memory, functions and their life cycle, and cores that run them.
//
// Requests of one tenant run in order of arrival, those of several tenants take turns. Work is cut in small steps, so that
// an abort, a deadline, an energy budget or a time slice ends it soon, with a state to go on from. Commands that only touch
// a little memory, and work that is brief, run at once on the submitter's thread; nothing there blocks.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
#include "device/fair_turns.h"
#include "device/foreground.h"
#include "device/function.h"
#include "device/memory.h"
#include "device/profile.h"

namespace godwit::device {

// The device's own storage. Self-synchronised.
class Storage {
 public:
  virtual ~Storage() = default;
  // kNotFound, kPermissionDenied. The object can be read until it is dropped.
  virtual Result<std::shared_ptr<const Source>> Open(const std::string& tenant, const std::string& object) = 0;
  // A new object, whole and durable when this returns. kFailedPrecondition: there is one of that name.
  virtual Status Create(const std::string& tenant, const std::string& object, ByteView bytes) = 0;
};

// What user programs are loaded by. Self-synchronised.
class Programs {
 public:
  virtual ~Programs() = default;
  virtual Result<std::shared_ptr<const Function>> Load(const std::string& tenant, const std::string& name, ByteView program) = 0;
};

inline constexpr std::size_t kOutputBytes = 128 << 10;        // An Execute ends early once it has so many.
// How far ahead of a tenant that waits another may get, until its work ends a piece though its slice is not over: two that always want more take turns of twice as much.
inline constexpr std::uint64_t kAheadUs = 1500;
inline constexpr std::size_t kLoadedPerTenantMax = 64;
inline constexpr std::size_t kUnderWayPerTenantMax = 1024;
inline constexpr std::size_t kParkedMax = 8;

class Engine final : public Device {
 public:
  struct Options {
    Profile profile;
    std::shared_ptr<Storage> storage;    // Null: no objects.
    std::shared_ptr<Programs> programs;  // Null: built-in functions alone.
    std::vector<std::shared_ptr<const Function>> built_in;
    std::shared_ptr<Foreground> foreground;  // What goes before the work here; null: nothing does.
    // Work that ended a piece over data that lies here is kept so long for its next piece, which then needs no more than to go on;
    // of at most kParkedMax.
    std::chrono::milliseconds parked_for{1000};
  };
  explicit Engine(Options options);
  // Aborts what is under way; its completions come before this returns.
  ~Engine() override;
  void Submit(Request request, Done done) override;
  // Requests that occupy a core now.
  std::size_t running() const {
    const std::lock_guard lock(mutex_);
    return running_;
  }

 private:
  struct Loaded {
    std::shared_ptr<const Function> function;
    std::string tenant;  // Empty: built in, for everybody.
    Bytes program;       // That it was loaded from.
    bool built_in = false, active = false;
    std::size_t running = 0;
    std::uint64_t executions = 0, busy_us = 0, cpu_us = 0, least_us = ~0ull, most_us = 0;
  };
  struct Job;
  struct BatchRun;
  struct Parked;
  struct Core;
  class JobPace;
  using Clock = std::chrono::steady_clock;
  using Lock = std::unique_lock<std::mutex>;

  void Finish(const std::shared_ptr<Job>& job, Completion completion);
  Completion Fast(const Request& request);
  Status Functions(const Request& request, Completion* completion);
  Status Memory(const Request& request, Completion* completion);
  Status StorageIo(const Request& request, Completion* completion);
  Status Configure(const Request& request);
  Result<bool> Abort(const Request& request);
  std::string Describe() const;
  std::string Statistics() const;
  // Of one tenant: before (`first`) or behind what waits.
  void Enqueue(const std::vector<std::shared_ptr<Job>>& jobs, bool first);
  // `core`: where work runs that goes behind the foreground; null: here.
  void Run(const std::shared_ptr<Job>& job, Core* core = nullptr);
  Completion Execute(Job& job, Core* core);
  // One piece of work: its output, how far it came, and in `state` what to go on from.
  Status RunPiece(const Job& job, JobPace& pace, std::shared_ptr<const Source> source, Completion* completion, Result<Bytes>* state);
  // What the same work was when it gave the state that the request is to go on from; null: it is not here (any more).
  std::unique_ptr<Parked> TakeParked(const Request& request);
  void Park(std::unique_ptr<Parked> parked);
  void RunBatch(const std::shared_ptr<Job>& job);
  void StartReady(const std::shared_ptr<BatchRun>& batch);
  void CoreMain();
  // Whose turn it is. Something waits.
  std::shared_ptr<Job> Next();
  // Does another tenant wait that has had less than a job that ran so long?
  bool OtherIsDue(const Job& job, std::uint64_t ran_us) const;

  const Options options_;
  FunctionMemory memory_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::map<std::uint32_t, Loaded> functions_;
  std::deque<std::unique_ptr<Parked>> parked_;  // The oldest first.
  std::uint32_t next_function_ = 1;
  std::map<std::string, std::deque<std::shared_ptr<Job>>> waiting_;  // By tenant.
  FairTurns turns_;
  std::size_t running_ = 0, cores_ = 1, queue_max_ = 1;
  std::atomic<std::size_t> waiting_count_{0};  // Changed with the lock.
  std::map<std::pair<std::string, std::uint64_t>, std::shared_ptr<Job>> under_way_;
  std::map<std::string, std::size_t> of_tenant_;
  std::uint64_t requests_ = 0, failed_ = 0, aborted_ = 0, pushed_back_ = 0, busy_us_ = 0, energy_uj_ = 0, storage_read_ = 0, storage_written_ = 0;
  const Clock::time_point started_ = Clock::now();
  std::vector<std::thread> threads_;
};

}  // namespace godwit::device
