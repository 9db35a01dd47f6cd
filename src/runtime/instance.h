// Instances: a module running, stoppable at any safepoint, and its state as a snapshot.
//
// An Instance is bound to one thread at a time (its owner): everything but RequestStop, WithdrawStop, Cancel
// and Wake is called by that thread. Guest calls run as tasks, each on its own guarded stack (a fiber); one
// instance may have several (services with concurrency > 1), of which one runs at a time and which
// interleave only where a host function blocks.
#pragma once

#include <poll.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "package/native_abi.h"
#include "package/package.h"
#include "runtime/host.h"
#include "snapshot/snapshot.h"

namespace godwit::runtime {

// A package's code for this ISA, mapped and checked, ready to be instantiated. Immutable, shared.
class LoadedModule {
 public:
  static Result<std::shared_ptr<const LoadedModule>> Load(std::shared_ptr<const package::Package> package);
  virtual ~LoadedModule() = default;
  virtual const package::Package& package() const = 0;
  const fbs::Module& module() const { return package().module(); }
};

using Cell = std::array<std::uint8_t, 16>;  // One Wasm value, little-endian, in the low bytes.

struct Returned { std::vector<Cell> results; };
struct Exited { std::uint32_t code; };  // WASI proc_exit
struct Trapped {
  abi::TrapCode code;
  std::string function;  // Name of the Wasm function, or "func[N]".
  std::string message;   // "integer divide by zero in func[12] (parse_line) at parse.c:40" as far as known.
};
struct Captured {};  // Stopped at a safepoint: the task's frames are kept; Run continues it, Capture saves it.
// A host function waits. The owner calls Run again when `fds` are ready, the deadline (CLOCK_MONOTONIC) has
// passed, Wake was called, or a stop was requested.
struct Blocked {
  std::vector<pollfd> fds;
  std::optional<std::chrono::steady_clock::time_point> deadline;
};
using Outcome = std::variant<Returned, Exited, Trapped, Captured, Blocked>;

using TaskId = std::uint64_t;

// The longest sleep of one Instance::Nap.
inline constexpr std::chrono::microseconds kNapMax{100'000};

struct Limits {
  ByteCount memory_max{4ull << 30};
  ByteCount stack{8ull << 20};  // Native stack of a task; a resumed task gets four times that, since frames of clones and of other ISAs are larger.
  std::uint32_t table_elements_max = 10'000'000;
  std::uint32_t tasks_max = 1;
  // Large memories are made of huge pages. Not where little of one is used and what changed is looked for again and again.
  bool huge_pages = true;
};

class LiveMemory;
class ArrivingMemory;

class Instance {
 public:
  // Instantiates: links imports (kInvalidArgument names one that is missing or has another type), lays out
  // memory, tables and globals. Does not run the start function: RunStart() does if there is one.
  static Result<std::unique_ptr<Instance>> Create(std::shared_ptr<const LoadedModule> module,
                                                  std::vector<std::shared_ptr<HostModule>> hosts,
                                                  const Limits& limits);
  // Gets address space, `memory` bytes of touched pages and a stack ready for the next Create or Restore of this
  // process with these limits, so that they cost nothing while requests wait. Best effort. Any thread.
  static void Prepare(const Limits& limits, ByteCount memory);
  // From a snapshot of the same module (kFailedPrecondition if package or IR differ; kCorrupt if frames do not
  // fit the module's safepoint records). Its tasks are as Captured; Run continues them.
  static Result<std::unique_ptr<Instance>> Restore(std::shared_ptr<const LoadedModule> module,
                                                   std::vector<std::shared_ptr<HostModule>> hosts,
                                                   const Limits& limits, const snapshot::Snapshot& snapshot);
  // As above; the pages are in `memory` already (runtime/live_memory.h), and those of the snapshot are written over them.
  // Null: as above.
  static Result<std::unique_ptr<Instance>> Restore(std::shared_ptr<const LoadedModule> module,
                                                   std::vector<std::shared_ptr<HostModule>> hosts,
                                                   const Limits& limits, const snapshot::Snapshot& snapshot,
                                                   std::unique_ptr<ArrivingMemory> memory);
  virtual ~Instance() = default;

  // The start function's index if the module has one and it has not run.
  virtual std::optional<std::uint32_t> start_function() const = 0;
  // Module function index of an exported function.
  virtual Result<std::uint32_t> FindFunction(std::string_view export_name) const = 0;
  // The present value of an exported global.
  virtual Result<Cell> GetGlobal(std::string_view export_name) const = 0;
  // Begins a call; it runs in Run. kResourceExhausted past tasks_max; kInvalidArgument if arguments do not fit.
  virtual Result<TaskId> Start(std::uint32_t function, std::span<const Cell> arguments) = 0;
  virtual std::vector<TaskId> tasks() const = 0;
  // Runs the task until one of Outcome. Returned, Exited and Trapped end the task.
  //
  // Tasks take turns where they block: their code expects no other to run anywhere else. While a task is preempted(),
  // any other one is Captured at once.
  virtual Outcome Run(TaskId task) = 0;
  // The task that was captured in the middle of its code, not in a host function where it blocked.
  virtual std::optional<TaskId> preempted() const = 0;
  // Drops a task that is not running; its guest frames are abandoned.
  virtual void Abandon(TaskId task) = 0;

  // Any thread: the running task stops at its next safepoint (Captured); a blocked one when it is run next.
  // Sticky: until WithdrawStop, every Run comes back as Captured at its first safepoint.
  virtual void RequestStop() = 0;
  virtual void WithdrawStop() = 0;
  // Any thread: the running task ends as Trapped{kCancelled}.
  virtual void Cancel() = 0;
  // Any thread: makes wake_fd() readable, so that an owner waiting in poll() looks again. RequestStop and Cancel
  // do it too. Run reads it empty; an owner that wakes without a task to run reads (8 bytes) it itself.
  virtual void Wake() = 0;
  virtual int wake_fd() const = 0;
  // Every `every`-th safepoint reached ends in Captured (0: none). Counts reached ones in safepoints_reached.
  virtual void StopEvery(std::uint64_t every) = 0;
  virtual std::uint64_t safepoints_reached() const = 0;

  // The state, all tasks being captured or not begun (a blocked task is run once more to capture it).
  // The snapshot's pages point into this instance, which must not run while the snapshot is used. Does not
  // fill in `package`. kFailedPrecondition if a host module's state cannot move.
  // kElsewhere: without pages, which the caller takes from memory().
  enum class Pages { kChanged, kElsewhere };
  // `blank`: pages of its memory that nobody needs any more, whatever is there; those that the module does not fill are zeros after it.
  virtual Result<snapshot::Snapshot> Capture(Pages pages, std::span<const std::uint8_t> blank) = 0;
  Result<snapshot::Snapshot> Capture(Pages pages = Pages::kChanged) { return Capture(pages, {}); }
  // What others may read of its memory while it runs; null where it has none of its own.
  virtual std::shared_ptr<const LiveMemory> memory() const = 0;
  // Any thread: the running task sleeps so long at its next safepoint, once; a stop or a cancellation ends the sleep.
  virtual void Nap(std::chrono::microseconds length) = 0;

  virtual abi::Context* context() = 0;
  virtual HostModule* host(std::string_view name) = 0;
  virtual const LoadedModule& module() const = 0;

  // --- For host functions, on the guest's stack ---
  static Instance& Of(abi::Context* context);
  virtual TaskId current_task() const = 0;
  enum class Wait { kReady, kInterrupted };
  // Gives the thread back to the owner with Blocked{what}. Returns kInterrupted if a stop was requested: the
  // host function must then return Restart() if it has not taken effect, or its (partial) result if it has.
  virtual Wait Block(Blocked what) = 0;
  // Marks the present host call to be made again after resuming; the value returned to the guest is unused.
  virtual void Restart() = 0;
  [[noreturn]] virtual void Exit(std::uint32_t code) = 0;
  [[noreturn]] virtual void RaiseTrap(abi::TrapCode code, std::string message) = 0;
};

// Instances linked with each other, as the specification's store: what one exports another may import, and then both
// have the same function, table, memory or mutable global. They live as long as the store, since a table may refer
// to a function of any of them.
//
// Bound to one thread as Instance is; one call at a time runs in all of them. Stops, like Cancel, concern all of them
// whichever instance is asked; they are captured together.
class Store {
 public:
  static Result<std::unique_ptr<Store>> Create();
  virtual ~Store() = default;
  // As Instance::Create; what no host module offers is looked for in the instances registered under the import's
  // module name. Where an active segment does not fit (the message begins with "out of bounds"), what was written
  // before it remains, as the specification wants.
  virtual Result<Instance*> Instantiate(std::shared_ptr<const LoadedModule> module,
                                        std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits) = 0;
  // Makes what `instance`, of this store, exports importable under `name`, in place of any earlier one.
  virtual void Register(std::string name, const Instance& instance) = 0;
  // In the order of their instantiation, those that failed after they were linked too.
  virtual std::vector<Instance*> instances() const = 0;

  // The state of all instances, as Instance::Capture does it, in order. kFailedPrecondition if more than one call has
  // begun.
  virtual Result<std::vector<snapshot::Snapshot>> Capture() = 0;
  // One of the instances that were captured together: `snapshot` is what Capture gave for it.
  struct Part {
    std::shared_ptr<const LoadedModule> module;
    std::vector<std::shared_ptr<HostModule>> hosts;
    Limits limits;
    const snapshot::Snapshot* snapshot;
  };
  // All of them again, in the same order and registered under the same names. Errors as of Instance::Restore.
  static Result<std::unique_ptr<Store>> Restore(std::vector<Part> parts);
};

}  // namespace godwit::runtime
