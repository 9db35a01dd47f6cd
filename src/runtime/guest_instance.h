// The one implementation of Instance, split by what the parts know: link.cc lays an instance out, store.cc finds
// what it imports from others, instance.cc runs its tasks, builtins.cc serves generated code, capture.cc turns it into a snapshot and back.
#pragma once

#include <atomic>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/capture_buffer.h"
#include "runtime/fiber.h"
#include "runtime/instance.h"
#include "runtime/live_memory.h"
#include "runtime/memory.h"
#include "runtime/module.h"
#include "runtime/recycled.h"
#include "runtime/trap.h"

namespace godwit::runtime {

// Name of the record in Snapshot::host_states of a linked instance: how it hangs together with the others.
inline constexpr std::string_view kLinkedRecord = "godwit:linked";
// Stack of a resumed task, in stacks of Limits::stack.
inline constexpr std::uint64_t kResumedStackFactor = 4;

// What others asked of an instance, or of all that are linked together. kStop in Context::state only mirrors it: others
// set the bit, the instance's thread clears it.
struct StopRequests {
  std::atomic<bool> requested{false};
  bool capturing = false;
  std::uint64_t every = 0;
  std::uint64_t since_last = 0;
  std::uint64_t safepoints_reached = 0;
};

// Frames of one of the linked instances, up to byte `end` of a task's frames.
struct FrameRun {
  std::uint32_t instance;  // Position in its store.
  std::uint64_t end;
};

struct Task {
  enum class Phase { kFresh, kCaptured, kRunning, kBlocked };
  // How the fiber came back.
  enum class Left { kNone, kReturned, kCaptured, kBlocked, kExited, kTrapped };

  TaskId id = 0;
  std::uint32_t function = 0;
  Phase phase = Phase::kFresh;
  std::vector<Cell> cells;  // Parameters at first, results at the end.
  CaptureBuffer capture;
  std::uint64_t frame_bytes = 0;  // Valid when captured.
  std::vector<FrameRun> runs;     // Whose its frames are, in a store; else all are the instance's.
  bool was_captured = false;      // Ever.
  std::unique_ptr<Fiber> fiber;   // While running or blocked.
  RunningGuest guest{};
  std::optional<Outcome> ended;  // Ended while Capture ran it; the next Run says so.

  Left left = Left::kNone;
  Blocked blocked;
  std::uint32_t exit_code = 0;
  abi::TrapCode trap_code = abi::TrapCode::kNone;
  std::uintptr_t trap_pc = 0;
  std::string trap_message;

  // Its C stack in linear memory. All tasks have theirs in one place: what they had there when another one took it over
  // is in `shadow_stack`.
  std::uint32_t shadow_stack_pointer = 0;
  Bytes shadow_stack;
};

class GuestStore;

class GuestInstance final : public Instance {
 public:
  static GuestInstance& From(abi::Context* context) { return *static_cast<GuestInstance*>(context->owner); }
  ~GuestInstance() override;

  // --- link.cc ---
  // Context, imports, functions and empty tables; no memory, globals or elements yet. `store` is null for an
  // instance that only host modules offer something to. `providers`: who provided each import before, if known.
  static Result<std::unique_ptr<GuestInstance>> Link(std::shared_ptr<const Module> module,
                                                     std::vector<std::shared_ptr<HostModule>> hosts,
                                                     const Limits& limits, GuestStore* store,
                                                     std::vector<std::uint32_t> providers = {});
  // Memory, globals and tables as the module's initialisers have them.
  Status Instantiate();
  // --- capture.cc ---
  // All but the calls that were running. `memory`: the one to use, filled; null: a new one.
  Status Load(const snapshot::Snapshot& snapshot, std::unique_ptr<ArrivingMemory> memory);
  Status LoadStacks(const snapshot::Snapshot& snapshot);

  // --- Instance ---
  std::optional<std::uint32_t> start_function() const override;
  Result<std::uint32_t> FindFunction(std::string_view export_name) const override;
  Result<Cell> GetGlobal(std::string_view export_name) const override;
  Result<TaskId> Start(std::uint32_t function, std::span<const Cell> arguments) override;
  std::vector<TaskId> tasks() const override;
  std::optional<TaskId> preempted() const override { return preempted_; }
  Outcome Run(TaskId task) override;
  void Abandon(TaskId task) override;
  void RequestStop() override;
  void WithdrawStop() override;
  void Cancel() override;
  void Wake() override;
  int wake_fd() const override { return wake_fd_; }
  void StopEvery(std::uint64_t every) override;
  std::uint64_t safepoints_reached() const override { return stops_->safepoints_reached; }
  using Instance::Capture;
  Result<snapshot::Snapshot> Capture(Pages pages, std::span<const std::uint8_t> blank) override;
  std::shared_ptr<const LiveMemory> memory() const override;
  void Nap(std::chrono::microseconds length) override;
  abi::Context* context() override { return context_; }
  HostModule* host(std::string_view name) override;
  const LoadedModule& module() const override { return *module_; }
  TaskId current_task() const override;
  Wait Block(Blocked what) override;
  void Restart() override;
  [[noreturn]] void Exit(std::uint32_t code) override;
  [[noreturn]] void RaiseTrap(abi::TrapCode code, std::string message) override;

  // --- For builtins, on the guest's stack ---
  void Poll(std::uintptr_t pc);
  // `pc`: an address in the guest function that trapped, 0 if unknown: then the nearest on the stack is used.
  [[noreturn]] void TrapAt(abi::TrapCode code, std::uintptr_t pc, std::string message = {});
  abi::Code NextResume();
  void Throw(std::uint32_t tag);
  std::uint32_t Catch();
  std::uint32_t GrowMemory(std::uint32_t memory_index, std::uint32_t delta_pages);
  abi::Table* table(std::uint32_t index) { return index < tables_.size() ? &tables_[index] : nullptr; }
  // The bytes of a segment; empty once dropped.
  ByteView DataSegment(std::uint32_t segment) const;
  void DropData(std::uint32_t segment) { if (segment < dropped_data_.size()) dropped_data_[segment] = true; }
  void DropElements(std::uint32_t segment) { if (segment < dropped_elements_.size()) dropped_elements_[segment] = true; }
  // The size before growing, or ~0u (and nothing changed) past the table's maximum.
  std::uint32_t GrowTable(std::uint32_t table, std::uint32_t reference, std::uint32_t delta);
  // False if the range is not inside the segment or the table.
  bool CopyElements(std::uint32_t segment, std::uint32_t table, std::uint32_t to, std::uint32_t from, std::uint32_t count);

 private:
  struct FreeContext {
    void operator()(void* memory) const { std::free(memory); }
  };

  friend class GuestStore;

  GuestInstance() = default;
  // Where a global of the module's index space has its place, and where it has its value.
  std::uint8_t* global_place(std::uint32_t index) const {
    return reinterpret_cast<std::uint8_t*>(context_) + abi::kGlobalsOffset + std::uint64_t{index} * abi::kGlobalBytes;
  }
  std::uint8_t* global(std::uint32_t index) const;
  std::uint32_t global_count() const;
  // The task whose fiber runs, in this instance or in one linked with it.
  Task* current() const;
  void SetCurrent(Task* task);
  // References are below this.
  std::uint32_t reference_limit() const;
  Cell Evaluate(const fbs::Init& init) const;
  Status LinkImports(const std::vector<std::shared_ptr<HostModule>>& hosts);
  Cell EvaluateExpression(const fbs::Init& init) const;
  Status LinkHostFunction(const fbs::Import& import, const std::vector<std::shared_ptr<HostModule>>& hosts);
  const fbs::Export* FindExport(std::string_view name) const;
  const GuestInstance& OwnerOfFrame(const std::vector<FrameRun>& runs, std::uint64_t end) const;
  void LinkTags();
  std::string TagName(std::uint32_t tag) const;
  const fbs::FunctionType& tag_type(std::uint32_t index) const;
  std::uint32_t exception_cells() const;
  std::uint8_t* exception_cell(std::uint32_t cell) const { return global_place(global_count() + cell); }
  void SetInAll(std::uint32_t bits);
  void ClearInAll(std::uint32_t bits);
  // `arrived`: the memory to use; null: a new one.
  Status CreateMemory(std::uint64_t pages, std::unique_ptr<ArrivingMemory> arrived = nullptr);
  void SleepIfWanted();
  Status CreateTables();
  Result<LinearMemory> OwnMemory(std::uint64_t pages, std::uint64_t pages_max);
  void LeaveRemains();
  void Spare(Task& task);
  void FindShadowStack();

  Task* Find(TaskId id);
  static void TaskMain(void* task);
  void CallGuest(Task& task);
  Outcome Finish(Task& task);
  std::string TrapMessage(const Task& task, std::string* function) const;
  void SwitchTo(Task& task);
  void SwitchFrom(Task& task);
  static std::uint64_t ShadowStackBegin(const Task& task);
  std::span<std::uint8_t> ShadowStack(const Task& task) const;
  Status PlaceShadowStack(Task& task);
  void Forget(Task& task);
  void ClearState(std::uint32_t bits) { context_->state.fetch_and(~bits); }
  // Code without safepoints (built to measure) cannot stop: interrupting its host calls would lead nowhere.
  bool StopWanted() const {
    return (stops_->requested.load() || stops_->capturing) && module_->module().safepoints_enabled();
  }
  std::uintptr_t GuestProgramCounter(const void* from) const;

  Status CaptureBlockedTasks();
  Status CheckFrames(const snapshot::Stack& stack, const std::vector<FrameRun>& runs) const;
  Status LoadStack(const snapshot::Stack& stack, std::vector<FrameRun> runs);
  Status LoadMemory(const snapshot::Snapshot& snapshot, std::unique_ptr<ArrivingMemory> arrived);
  Status LoadTables(const snapshot::Snapshot& snapshot);
  Status LoadGlobals(const snapshot::Snapshot& snapshot);
  Status LoadHostStates(const snapshot::Snapshot& snapshot);

  std::shared_ptr<const Module> module_;
  std::vector<std::shared_ptr<HostModule>> hosts_;
  std::vector<std::string_view> host_names_;  // Theirs, looked at in every call of a host function.
  Limits limits_;
  GuestStore* store_ = nullptr;  // Outlives this instance.
  LinearMemory own_memory_;
  LinearMemory* memory_ = &own_memory_;  // Another instance's if it is imported.
  std::optional<std::uint64_t> memory_declared_max_;
  std::unique_ptr<void, FreeContext> context_storage_;
  abi::Context* context_ = nullptr;
  std::vector<abi::FunctionEntry> imports_;
  std::vector<const fbs::Import*> imported_globals_;
  std::uint32_t globals_linked_ = 0;  // So many imported ones have their place filled.
  std::vector<std::uint32_t> providers_;  // By import: 0 for the host, else 1 + the instance's position in the store.
  std::vector<std::uint32_t> tags_;       // Numbers, imported ones first.
  std::uint32_t thrown_ = 0;              // Tag of the exception on its way, of an instance on its own.
  std::vector<abi::FunctionEntry> functions_;  // Empty in a store, which has one table for all.
  GuestPart part_{};                           // Of an instance on its own.
  std::vector<abi::Table> tables_;             // Imported ones first.
  std::vector<std::optional<std::uint64_t>> tables_declared_max_;
  std::vector<fbs::ValueType> table_types_;
  std::vector<TableElements> table_elements_;  // Of its own tables.
  std::unique_ptr<Remains> remains_;           // Of an earlier instance, as far as they are not taken yet.
  bool memory_is_initial_ = false;             // Taken over with the data segments in it.
  CaptureBuffer spare_capture_;                // For the next task.
  bool instantiated_ = false;
  std::vector<bool> dropped_data_, dropped_elements_;

  std::map<TaskId, std::unique_ptr<Task>> tasks_;
  TaskId next_task_ = 1;
  Task* own_current_ = nullptr;
  std::optional<TaskId> preempted_;
  bool start_ran_ = false;
  int wake_fd_ = -1;

  StopRequests own_stops_;
  StopRequests* stops_ = &own_stops_;  // The store's, in a store.
  std::atomic<std::uint64_t> nap_us_{0};

  std::optional<std::uint32_t> shadow_global_;  // Index of __stack_pointer, if tasks_max > 1.
  std::uint32_t shadow_resting_ = 0;            // Its value when nothing runs.
  Task* shadow_owner_ = nullptr;                // Whose C stack is in its place.
};

}  // namespace godwit::runtime
