// An instance as a snapshot and back. What comes from a snapshot is checked against the module before any of
// it is believed: frames against the safepoint records, references against the function count, sizes
// against limits.
#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "runtime/guest_instance.h"
#include "runtime/pages.h"
#include "runtime/store.h"

namespace godwit::runtime {
namespace {

// Saved pointers may lead this far below a memory's base: address arithmetic the optimiser moved.
constexpr std::int64_t kPointerBelowMax = 64 * 1024;
constexpr std::uint64_t kFrameTrailerBytes = 2 * sizeof(std::uint32_t);

Error BadSnapshot(std::string what) { return Corrupt("snapshot: " + std::move(what)); }

}  // namespace

// --- Capture ---

Status GuestInstance::CaptureBlockedTasks() {
  std::vector<TaskId> blocked;
  for (const auto& [id, task] : tasks_) {
    if (task->ended) return FailedPrecondition(fmt::format("call {} has ended: run it to collect its result", id));
    if (task->phase == Task::Phase::kBlocked) blocked.push_back(id);
  }
  if (blocked.empty()) return {};
  stops_->capturing = true;
  SetInAll(abi::kStop);
  Status status;
  for (TaskId id : blocked) {
    Outcome outcome = Run(id);
    if (std::holds_alternative<Captured>(outcome)) continue;
    if (std::holds_alternative<Blocked>(outcome)) {
      status = FailedPrecondition(fmt::format("call {} waits in a host function that cannot be interrupted", id));
      break;
    }
    // It reached its end before a safepoint. Its result must not be lost.
    auto ended = std::make_unique<Task>();
    ended->id = id;
    ended->ended = std::move(outcome);
    tasks_.emplace(id, std::move(ended));
    status = FailedPrecondition(fmt::format("call {} has ended: run it to collect its result", id));
    break;
  }
  stops_->capturing = false;
  if (!stops_->requested.load()) {
    ClearInAll(abi::kStop);
    if (stops_->requested.load()) SetInAll(abi::kStop);
  }
  return status;
}

std::shared_ptr<const LiveMemory> GuestInstance::memory() const {
  auto pages = store_ == nullptr ? own_memory_.Share() : nullptr;
  return pages ? LiveMemory::Of(std::move(pages), module_) : nullptr;
}

Result<snapshot::Snapshot> GuestInstance::Capture(Pages pages, std::span<const std::uint8_t> blank) {
  if (store_ != nullptr && !store_->capturing()) {
    return FailedPrecondition("an instance that is linked with others is captured together with them: use Store::Capture");
  }
  GODWIT_CHECK(current() == nullptr, "Capture was called from inside the guest");
  GODWIT_TRY(CaptureBlockedTasks());
  const fbs::Module& description = module_->module();
  snapshot::Snapshot snapshot;
  snapshot.package_digest = module_->package().digest();
  snapshot.ir_hash.assign(description.ir_hash()->begin(), description.ir_hash()->end());
  for (const auto& [id, task] : tasks_) {
    snapshot::Stack stack;
    stack.id = id;
    stack.function = task->function;
    stack.shadow_stack_pointer = task->shadow_stack_pointer;
    stack.shadow_stack = task->shadow_stack;
    stack.preempted = preempted_ == id;
    if (task->phase == Task::Phase::kCaptured) {
      stack.frames.assign(task->capture.base(), task->capture.base() + task->frame_bytes);
    } else {
      const auto* parameters = module_->type_of(task->function).params();
      for (std::size_t i = 0; parameters != nullptr && i < parameters->size(); ++i) {
        stack.arguments.insert(stack.arguments.end(), task->cells[i].begin(), task->cells[i].end());
      }
    }
    snapshot.stacks.push_back(std::move(stack));
  }
  if (own_memory_.base() != nullptr) {
    snapshot.memories.push_back({memory_->pages(), {}});
    if (pages == Pages::kChanged) {
      snapshot.memories[0].runs = ChangedPages(memory_->base(), memory_->bytes(), module_->initial_pages(), blank);
    }
  }
  for (auto i = static_cast<std::uint32_t>(imported_globals_.size()); i < global_count(); ++i) {
    Cell cell;
    std::memcpy(cell.data(), global(i), cell.size());
    snapshot.globals.push_back(cell);
  }
  for (const abi::Table& table : std::span(tables_).last(table_elements_.size())) {
    snapshot.tables.push_back({std::vector<std::uint32_t>(table.elements, table.elements + table.size)});
  }
  snapshot.dropped_data = dropped_data_;
  snapshot.dropped_elements = dropped_elements_;
  for (const auto& host : hosts_) {
    auto state = host->Save();
    if (!state.ok()) return state.error().Within(host->name());
    snapshot.host_states.push_back({std::string(host->name()), std::move(state).value()});
  }
  return snapshot;
}

// --- Restore ---

Status GuestInstance::Load(const snapshot::Snapshot& snapshot, std::unique_ptr<ArrivingMemory> memory) {
  const fbs::Module& description = module_->module();
  if (snapshot.package_digest != module_->package().digest()) {
    return FailedPrecondition(fmt::format("the snapshot is of package {}, not of {}", snapshot.package_digest,
                                          module_->package().digest()));
  }
  if (!std::equal(snapshot.ir_hash.begin(), snapshot.ir_hash.end(), description.ir_hash()->begin(),
                  description.ir_hash()->end())) {
    return FailedPrecondition("the snapshot was taken of other code than this package holds");
  }
  if (snapshot.dropped_data.size() != dropped_data_.size() || snapshot.dropped_elements.size() != dropped_elements_.size()) {
    return BadSnapshot("it counts other segments than the module has");
  }
  dropped_data_ = snapshot.dropped_data;
  dropped_elements_ = snapshot.dropped_elements;
  start_ran_ = true;
  GODWIT_TRY(LoadMemory(snapshot, std::move(memory)));
  GODWIT_TRY(LoadGlobals(snapshot));
  GODWIT_TRY(LoadTables(snapshot));
  FindShadowStack();
  return LoadHostStates(snapshot);
}

Status GuestInstance::LoadStacks(const snapshot::Snapshot& snapshot) {
  if (snapshot.stacks.size() > limits_.tasks_max) {
    return ResourceExhausted(fmt::format("the snapshot holds {} running calls, the limit is {}", snapshot.stacks.size(),
                                         limits_.tasks_max));
  }
  for (const snapshot::Stack& stack : snapshot.stacks) {
    GODWIT_TRY(LoadStack(stack, store_ != nullptr ? store_->RunsOf(*this) : std::vector<FrameRun>()));
  }
  return {};
}

Status GuestInstance::LoadMemory(const snapshot::Snapshot& snapshot, std::unique_ptr<ArrivingMemory> arrived) {
  constexpr std::uint64_t kPage = snapshot::kPageBytes;
  const auto* memories = module_->module().memories();
  const std::size_t count = memories != nullptr ? memories->size() : 0;
  if (snapshot.memories.size() != count) return BadSnapshot("it counts other memories than the module has");
  const std::uint64_t wasm_pages = count != 0 ? snapshot.memories[0].wasm_pages : 0;
  if (count != 0 && wasm_pages < memories->Get(0)->minimum()) return BadSnapshot("its memory is smaller than the module's");
  const bool has_arrived = arrived != nullptr;
  if (has_arrived && count == 0) return BadSnapshot("it has no memory, and one was sent");
  GODWIT_TRY(CreateMemory(wasm_pages, std::move(arrived)));
  if (count == 0) return {};
  const std::vector<snapshot::PageRun>& runs = snapshot.memories[0].runs;
  const std::uint64_t pages = memory_->bytes() / kPage;
  std::uint64_t end = 0;
  for (const snapshot::PageRun& run : runs) {
    const std::uint64_t run_pages = run.bytes.size() / kPage;
    if (run.bytes.size() % kPage != 0 || run.first_page < end || run.first_page > pages ||
        run_pages > pages - run.first_page) {
      return BadSnapshot("a run of pages is outside its memory or out of order");
    }
    end = run.first_page + run_pages;
  }
  const InitialPages& initial = module_->initial_pages();
  std::size_t run = 0;
  for (std::size_t i = 0; !has_arrived && i < initial.numbers.size(); ++i) {
    const std::uint64_t number = initial.numbers[i];
    while (run < runs.size() && runs[run].first_page + runs[run].bytes.size() / kPage <= number) ++run;
    const bool covered = run < runs.size() && runs[run].first_page <= number;
    if (!covered && number < pages) std::memcpy(memory_->base() + number * kPage, initial.page(i), kPage);
  }
  for (const snapshot::PageRun& changed : runs) {
    if (changed.bytes.empty()) continue;
    if (!has_arrived) memory_->Populate(changed.first_page * kPage, changed.bytes.size());
    std::memcpy(memory_->base() + changed.first_page * kPage, changed.bytes.data(), changed.bytes.size());
  }
  return {};
}

Status GuestInstance::LoadGlobals(const snapshot::Snapshot& snapshot) {
  const auto imported = static_cast<std::uint32_t>(imported_globals_.size());
  if (snapshot.globals.size() != global_count() - imported) return BadSnapshot("it counts other globals than the module has");
  for (std::uint32_t i = 0; i < snapshot.globals.size(); ++i) {
    std::uint32_t reference;
    std::memcpy(&reference, snapshot.globals[i].data(), sizeof reference);
    if (module_->module().globals()->Get(i)->type() == fbs::ValueType::funcref && reference >= reference_limit()) {
      return BadSnapshot(fmt::format("global {} refers to a function that does not exist", imported + i));
    }
    std::memcpy(global(imported + i), snapshot.globals[i].data(), abi::kGlobalBytes);
  }
  return {};
}

Status GuestInstance::LoadTables(const snapshot::Snapshot& snapshot) {
  const std::size_t imported = tables_.size() - table_elements_.size();
  if (snapshot.tables.size() != table_elements_.size()) return BadSnapshot("it counts other tables than the module has");
  for (std::size_t i = imported; i < tables_.size(); ++i) {
    const std::vector<std::uint32_t>& elements = snapshot.tables[i - imported].elements;
    if (elements.size() < tables_[i].size) return BadSnapshot(fmt::format("table {} is smaller than the module's", i));
    if (elements.size() > tables_[i].maximum) {
      return ResourceExhausted(fmt::format("table {} of the snapshot has {} elements, the limit is {}", i, elements.size(),
                                           tables_[i].maximum));
    }
    if (table_types_[i] == fbs::ValueType::funcref &&
        std::any_of(elements.begin(), elements.end(), [&](std::uint32_t e) { return e >= reference_limit(); })) {
      return BadSnapshot(fmt::format("table {} refers to a function that does not exist", i));
    }
    std::copy(elements.begin(), elements.end(), tables_[i].elements);
    tables_[i].size = static_cast<std::uint32_t>(elements.size());
  }
  return {};
}

Status GuestInstance::LoadHostStates(const snapshot::Snapshot& snapshot) {
  for (const snapshot::HostState& state : snapshot.host_states) {
    if (state.module == kLinkedRecord) continue;
    HostModule* found = host(state.module);
    if (found == nullptr) {
      return FailedPrecondition(fmt::format("the snapshot holds state of host module '{}', which this instance lacks",
                                            state.module));
    }
    const Status loaded = found->Load(state.bytes);
    if (!loaded.ok()) return loaded.error().Within(state.module);
  }
  return {};
}

static bool SameResults(const fbs::FunctionType& one, const fbs::FunctionType& other) {
  const auto *x = one.results(), *y = other.results();
  const std::size_t count = x ? x->size() : 0;
  return count == (y ? y->size() : 0) && (count == 0 || std::equal(x->begin(), x->end(), y->begin()));
}

// Walks the frames from their end, the outermost first, as resuming will.
Status GuestInstance::CheckFrames(const snapshot::Stack& stack, const std::vector<FrameRun>& runs) const {
  std::uint64_t top = stack.frames.size();
  const auto bad = [&](std::string_view what) {
    return BadSnapshot(fmt::format("the frame of call {} that ends at byte {} {}", stack.id, top, what));
  };
  bool outermost = true;
  while (top != 0) {
    if (top < kFrameTrailerBytes) return bad("is cut off");
    std::uint32_t function, safepoint;
    std::memcpy(&function, stack.frames.data() + top - 8, sizeof function);
    std::memcpy(&safepoint, stack.frames.data() + top - 4, sizeof safepoint);
    const Module& module = *OwnerOfFrame(runs, top).module_;
    const fbs::Module& description = module.module();
    const auto* functions = description.functions();
    if (function >= module.function_count()) return bad("is of a function that does not exist");
    // Not always the function itself: a frame whose call is followed by its return alone is left out, so the
    // outermost one may be of what it called last, which leaves the same results.
    if (outermost && !SameResults(module.type_of(function), module_->type_of(stack.function))) {
      return bad("has other results than the function that was called");
    }
    outermost = false;
    const std::uint64_t begin = functions->Get(function)->safepoints_begin();
    const std::uint64_t end = functions->Get(function + 1)->safepoints_begin();
    const std::uint64_t index = begin + safepoint;
    if (begin > end || index >= end || description.safepoints() == nullptr || index >= description.safepoints()->size() ||
        module.image().resume(function) == nullptr) {
      return bad("is of a safepoint that does not exist");
    }
    const fbs::Safepoint& record = *description.safepoints()->Get(static_cast<std::uint32_t>(index));
    const std::uint64_t payload = (std::uint64_t{record.payload_bytes()} + 7) / 8 * 8;
    if (top < kFrameTrailerBytes + payload) return bad("is cut off");
    const std::uint8_t* values = stack.frames.data() + top - kFrameTrailerBytes - payload;
    for (std::uint64_t i = record.pointers_begin(); i < record.pointers_end(); ++i) {
      if (description.pointer_offsets() == nullptr || i >= description.pointer_offsets()->size()) {
        return bad("has no record of its pointers");
      }
      const std::uint64_t at = description.pointer_offsets()->Get(static_cast<std::uint32_t>(i));
      std::int64_t pointer;
      if (at + sizeof pointer > record.payload_bytes()) return bad("has a pointer outside it");
      std::memcpy(&pointer, values + at, sizeof pointer);
      if (pointer < -kPointerBelowMax || pointer > static_cast<std::int64_t>(abi::kMemoryReservation)) {
        return bad("has a pointer that leaves linear memory");
      }
    }
    top -= kFrameTrailerBytes + payload;
  }
  return {};
}

Status GuestInstance::LoadStack(const snapshot::Stack& stack, std::vector<FrameRun> runs) {
  if (tasks_.count(stack.id) != 0) return BadSnapshot(fmt::format("call {} is in it twice", stack.id));
  if (stack.function >= module_->function_count()) return BadSnapshot("a call of a function that does not exist");
  const fbs::FunctionType& type = module_->type_of(stack.function);
  const std::uint32_t type_index = module_->module().functions()->Get(stack.function)->type();
  const std::size_t parameters = type.params() != nullptr ? type.params()->size() : 0;
  const std::size_t results = type.results() != nullptr ? type.results()->size() : 0;
  auto task = std::make_unique<Task>();
  task->id = stack.id;
  task->function = stack.function;
  task->cells.resize(std::max<std::size_t>({parameters, results, 1}));
  GODWIT_ASSIGN(task->capture, CaptureBuffer::Create(limits_.stack));
  if (stack.frames.empty()) {
    if (stack.arguments.size() != parameters * sizeof(Cell) || module_->image().function(stack.function) == nullptr ||
        module_->image().entry(type_index) == nullptr) {
      return BadSnapshot(fmt::format("call {} cannot begin: its arguments or its function do not fit", stack.id));
    }
    std::memcpy(task->cells.data(), stack.arguments.data(), stack.arguments.size());
    for (std::size_t i = 0; i < parameters; ++i) {
      std::uint32_t reference;
      std::memcpy(&reference, task->cells[i].data(), sizeof reference);
      if (static_cast<fbs::ValueType>(type.params()->Get(i)) == fbs::ValueType::funcref && reference >= reference_limit()) {
        return BadSnapshot(fmt::format("an argument of call {} refers to a function that does not exist", stack.id));
      }
    }
  } else {
    if (stack.frames.size() > task->capture.capacity()) {
      return ResourceExhausted(fmt::format("the frames of call {} need {} bytes, the limit is {}", stack.id,
                                           stack.frames.size(), task->capture.capacity()));
    }
    if (module_->image().reentry(type_index) == nullptr) return BadSnapshot("a call of a type that cannot be resumed");
    GODWIT_TRY(CheckFrames(stack, runs));
    std::memcpy(task->capture.base(), stack.frames.data(), stack.frames.size());
    task->frame_bytes = stack.frames.size();
    task->runs = std::move(runs);
    task->phase = Task::Phase::kCaptured;
  }
  task->shadow_stack_pointer = stack.shadow_stack_pointer;
  const std::uint64_t stack_begin = ShadowStackBegin(*task);
  if (stack_begin > memory_->bytes() || stack.shadow_stack.size() > memory_->bytes() - stack_begin) {
    return BadSnapshot(fmt::format("the C stack of call {} does not fit its memory", stack.id));
  }
  if (shadow_global_) {
    task->shadow_stack = stack.shadow_stack;
  } else if (!stack.shadow_stack.empty()) {  // It is the only call.
    std::memcpy(memory_->base() + stack_begin, stack.shadow_stack.data(), stack.shadow_stack.size());
  }
  if (stack.preempted && std::exchange(preempted_, stack.id)) return BadSnapshot("two calls in the middle of their code");
  if (task->phase == Task::Phase::kCaptured && task->shadow_stack.empty()) shadow_owner_ = task.get();
  next_task_ = std::max(next_task_, stack.id + 1);
  tasks_.emplace(stack.id, std::move(task));
  return {};
}

}  // namespace godwit::runtime
