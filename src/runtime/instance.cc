// Runs an instance's tasks: starts, stops and continues them, and says how each run ended.
#include "runtime/instance.h"

#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "runtime/guest_instance.h"
#include "runtime/store.h"

namespace godwit::runtime {

namespace {

std::size_t CellBytes(fbs::ValueType type) {
  switch (type) {
    case fbs::ValueType::i64: case fbs::ValueType::f64: return 8;
    case fbs::ValueType::v128: return 16;
    default: return 4;
  }
}

}  // namespace

Result<std::unique_ptr<Instance>> Instance::Create(std::shared_ptr<const LoadedModule> module,
                                                   std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits) {
  GODWIT_ASSIGN(auto instance, GuestInstance::Link(std::static_pointer_cast<const Module>(std::move(module)),
                                                   std::move(hosts), limits, nullptr));
  GODWIT_TRY(instance->Instantiate());
  return std::unique_ptr<Instance>(std::move(instance));
}

void Instance::Prepare(const Limits& limits, ByteCount memory) {
  LinearMemory::Prepare(memory.value);
  // A stack goes back to the pool when it is dropped.
  static_cast<void>(GuardedStack::Acquire({limits.stack.value * kResumedStackFactor}));
}

Result<std::unique_ptr<Instance>> Instance::Restore(std::shared_ptr<const LoadedModule> module,
                                                    std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits,
                                                    const snapshot::Snapshot& snapshot) {
  return Restore(std::move(module), std::move(hosts), limits, snapshot, nullptr);
}

Result<std::unique_ptr<Instance>> Instance::Restore(std::shared_ptr<const LoadedModule> module,
                                                    std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits,
                                                    const snapshot::Snapshot& snapshot, std::unique_ptr<ArrivingMemory> memory) {
  GODWIT_ASSIGN(auto instance, GuestInstance::Link(std::static_pointer_cast<const Module>(std::move(module)),
                                                   std::move(hosts), limits, nullptr));
  GODWIT_TRY(instance->Load(snapshot, std::move(memory)));
  GODWIT_TRY(instance->LoadStacks(snapshot));
  return std::unique_ptr<Instance>(std::move(instance));
}

Instance& Instance::Of(abi::Context* context) { return GuestInstance::From(context); }

GuestInstance::~GuestInstance() {
  GODWIT_CHECK(own_current_ == nullptr, "an instance was destroyed while its guest runs");
  for (auto& [id, task] : tasks_) Spare(*task);
  tasks_.clear();
  LeaveRemains();
  if (wake_fd_ >= 0) close(wake_fd_);
}

// Keeps the task's capture buffer for another one, if nothing was ever written to it: frames have gaps, which must not
// show what somebody else had there.
void GuestInstance::Spare(Task& task) {
  if (!task.was_captured && task.phase != Task::Phase::kCaptured) spare_capture_ = std::move(task.capture);
}

std::optional<std::uint32_t> GuestInstance::start_function() const {
  if (!module_->module().has_start() || start_ran_) return std::nullopt;
  return module_->module().start();
}

const fbs::Export* GuestInstance::FindExport(std::string_view name) const {
  for (const fbs::Export* exported : *module_->module().exports()) {
    if (exported->name()->string_view() == name) return exported;
  }
  return nullptr;
}

Result<std::uint32_t> GuestInstance::FindFunction(std::string_view export_name) const {
  const fbs::Export* found = FindExport(export_name);
  if (found != nullptr && found->kind() == fbs::ExternKind::function) return found->index();
  return NotFound(fmt::format("the module exports no function '{}'", export_name));
}

Result<Cell> GuestInstance::GetGlobal(std::string_view export_name) const {
  const fbs::Export* found = FindExport(export_name);
  if (found == nullptr || found->kind() != fbs::ExternKind::global) {
    return NotFound(fmt::format("the module exports no global '{}'", export_name));
  }
  Cell cell;
  std::memcpy(cell.data(), global(found->index()), cell.size());
  return cell;
}

HostModule* GuestInstance::host(std::string_view name) {
  for (std::size_t i = 0; i < hosts_.size(); ++i) {
    if (host_names_[i] == name) return hosts_[i].get();
  }
  return nullptr;
}

// --- What linked instances have together ---

Task* GuestInstance::current() const { return store_ != nullptr ? store_->current() : own_current_; }

void GuestInstance::SetCurrent(Task* task) { (store_ != nullptr ? store_->current() : own_current_) = task; }

std::uint32_t GuestInstance::reference_limit() const {
  return store_ != nullptr ? store_->reference_limit() : static_cast<std::uint32_t>(functions_.size());
}

void GuestInstance::SetInAll(std::uint32_t bits) {
  if (store_ != nullptr) return store_->SetInAll(bits);
  context_->state.fetch_or(bits);
}

void GuestInstance::ClearInAll(std::uint32_t bits) {
  if (store_ != nullptr) return store_->ClearInAll(bits);
  ClearState(bits);
}

// --- Tasks ---

Result<TaskId> GuestInstance::Start(std::uint32_t function, std::span<const Cell> arguments) {
  if (function >= module_->function_count() || module_->image().function(function) == nullptr) {
    return InvalidArgument(fmt::format("the module has no function {} that can be called", function));
  }
  const fbs::FunctionType& type = module_->type_of(function);
  const std::size_t parameters = type.params() != nullptr ? type.params()->size() : 0;
  const std::size_t results = type.results() != nullptr ? type.results()->size() : 0;
  if (arguments.size() != parameters) {
    return InvalidArgument(fmt::format("{} takes {} arguments, {} were given", module_->FunctionLabel(function),
                                       parameters, arguments.size()));
  }
  for (std::size_t i = 0; i < parameters; ++i) {
    std::uint32_t reference;
    std::memcpy(&reference, arguments[i].data(), sizeof reference);
    if (static_cast<fbs::ValueType>(type.params()->Get(i)) == fbs::ValueType::funcref && reference >= reference_limit()) {
      return InvalidArgument(fmt::format("argument {} is no reference to a function of this module", i));
    }
  }
  const std::uint32_t type_index = module_->module().functions()->Get(function)->type();
  if (module_->image().entry(type_index) == nullptr) {
    return InvalidArgument(fmt::format("{} cannot be called from outside", module_->FunctionLabel(function)));
  }
  if (tasks_.size() >= limits_.tasks_max) {
    return ResourceExhausted(fmt::format("the instance runs {} calls already, which is its limit", tasks_.size()));
  }
  auto task = std::make_unique<Task>();
  if (remains_ != nullptr && spare_capture_.base() == nullptr) spare_capture_ = std::move(remains_->capture);
  if (spare_capture_.Fits(limits_.stack)) {
    task->capture = std::move(spare_capture_);
  } else {
    GODWIT_ASSIGN(task->capture, CaptureBuffer::Create(limits_.stack));
  }
  task->shadow_stack_pointer = shadow_resting_;
  if (tasks_.empty()) ClearInAll(abi::kCancel);  // Meant for a call that has ended since.
  task->id = next_task_++;
  task->function = function;
  task->cells.assign(arguments.begin(), arguments.end());
  task->cells.resize(std::max<std::size_t>({parameters, results, 1}));
  if (start_function() == function) start_ran_ = true;
  const TaskId id = task->id;
  tasks_.emplace(id, std::move(task));
  return id;
}

std::vector<TaskId> GuestInstance::tasks() const {
  std::vector<TaskId> ids;
  for (const auto& [id, task] : tasks_) ids.push_back(id);
  return ids;
}

Task* GuestInstance::Find(TaskId id) {
  const auto found = tasks_.find(id);
  return found != tasks_.end() ? found->second.get() : nullptr;
}

void GuestInstance::Abandon(TaskId id) {
  Task* task = Find(id);
  if (task == nullptr) return;
  GODWIT_CHECK(task != current(), "a running task cannot be abandoned");
  Forget(*task);
}

void GuestInstance::Forget(Task& task) {
  if (shadow_owner_ == &task) shadow_owner_ = nullptr;
  if (preempted_ == task.id) preempted_.reset();
  tasks_.erase(task.id);
}

// Functions that call no other may use the 128 bytes below the pointer (LLVM's WebAssemblyFrameLowering::RedZoneSize).
std::uint64_t GuestInstance::ShadowStackBegin(const Task& task) {
  constexpr std::uint32_t kRedZoneBytes = 128;
  return task.shadow_stack_pointer - std::min(task.shadow_stack_pointer, kRedZoneBytes);
}

// The task's C stack, in its place, as far as its pointer makes sense.
std::span<std::uint8_t> GuestInstance::ShadowStack(const Task& task) const {
  const std::uint64_t begin = ShadowStackBegin(task), end = std::min<std::uint64_t>(shadow_resting_, memory_->bytes());
  if (begin >= end) return {};
  return {memory_->base() + begin, end - begin};
}

// Gives the task's C stack its place, and keeps what another one has there.
Status GuestInstance::PlaceShadowStack(Task& task) {
  if (!shadow_global_ || shadow_owner_ == &task) return {};
  if (shadow_owner_ != nullptr) {
    const std::span<std::uint8_t> kept = ShadowStack(*shadow_owner_);
    std::uint64_t bytes = kept.size();
    for (const auto& [id, other] : tasks_) bytes += other->shadow_stack.size();
    if (bytes > limits_.memory_max.value) {
      return ResourceExhausted(fmt::format("the stacks of {} calls at once would need {} bytes, more than the memory's limit",
                                           tasks_.size(), bytes));
    }
    shadow_owner_->shadow_stack.assign(kept.begin(), kept.end());
  }
  if (!task.shadow_stack.empty()) {
    std::memcpy(memory_->base() + ShadowStackBegin(task), task.shadow_stack.data(), task.shadow_stack.size());
    task.shadow_stack.clear();
  }
  shadow_owner_ = &task;
  return {};
}

void GuestInstance::SwitchTo(Task& task) {
  context_->resuming = 0;  // Set where resumed code had no stack left for its first instruction.
  context_->resume_top = task.capture.base() + task.frame_bytes;
  if (store_ != nullptr) {
    store_->SetFramesBase(task.capture.base());
  } else {
    context_->frames_base = context_->capture_top = task.capture.base();
  }
  if (shadow_global_) std::memcpy(global(*shadow_global_), &task.shadow_stack_pointer, sizeof task.shadow_stack_pointer);
  SetCurrent(&task);
}

void GuestInstance::SwitchFrom(Task& task) {
  if (shadow_global_) {
    std::memcpy(&task.shadow_stack_pointer, global(*shadow_global_), sizeof task.shadow_stack_pointer);
    // C code that returns has put it back. What has another value then is no stack pointer, and the guest's affair.
    if (task.left == Task::Left::kReturned) shadow_resting_ = task.shadow_stack_pointer;
    std::memcpy(global(*shadow_global_), &shadow_resting_, sizeof shadow_resting_);
  }
  SetCurrent(nullptr);
}

void GuestInstance::TaskMain(void* argument) {
  GuestInstance& instance = *static_cast<GuestInstance*>(argument);
  Task& task = *instance.current();
  instance.CallGuest(task);
  task.fiber->Leave();
}

void GuestInstance::CallGuest(Task& task) {
  using Entry = void (*)(abi::Context*, std::uint8_t*, abi::Code, void*);
  const Image& image = module_->image();
  const std::uint32_t type = module_->module().functions()->Get(task.function)->type();
  if (task.phase == Task::Phase::kCaptured) {
    const auto reentry = reinterpret_cast<Entry>(image.reentry(type));
    const abi::Code code = NextResume();
    reentry(context_->resume_context, context_->resume_memory, code, task.cells.data());
  } else {
    const auto entry = reinterpret_cast<Entry>(image.entry(type));
    entry(context_, context_->memory, image.function(task.function), task.cells.data());
  }
  const std::uint32_t state = context_->state.load();
  if (state & abi::kException) {
    task.left = Task::Left::kTrapped;
    task.trap_code = abi::TrapCode::kUncaughtException;
    task.trap_pc = 0;
    task.trap_message = "uncaught exception " + TagName(Catch());
  } else if (state & abi::kUnwinding) {
    const std::uint8_t* top = store_ != nullptr ? store_->EndFrames(task.runs) : context_->capture_top;
    task.frame_bytes = static_cast<std::uint64_t>(top - task.capture.base());
    task.left = Task::Left::kCaptured;
    task.was_captured = true;
  } else {
    task.left = Task::Left::kReturned;
  }
}

Outcome GuestInstance::Run(TaskId id) {
  GODWIT_CHECK(current() == nullptr, "Run was called from inside the guest");
  Task* found = Find(id);
  GODWIT_CHECK(found != nullptr, "Run of a task that does not exist");
  Task& task = *found;
  if (task.ended) {
    Outcome outcome = std::move(*task.ended);
    Forget(task);
    return outcome;
  }
  if (preempted_ == id) preempted_.reset();
  if (preempted_ && task.phase != Task::Phase::kBlocked) return Captured{};
  if (const Status placed = PlaceShadowStack(task); !placed.ok()) {
    Trapped trapped{abi::TrapCode::kHostFailure, module_->FunctionName(task.function), placed.error().message};
    Forget(task);
    return trapped;
  }
  std::uint64_t wakes;
  [[maybe_unused]] const auto drained = read(wake_fd_, &wakes, sizeof wakes);
  PrepareThreadForGuests();
  if (task.fiber == nullptr) {
    const std::uint64_t factor = task.phase == Task::Phase::kCaptured ? kResumedStackFactor : 1;
    auto stack = GuardedStack::Acquire({limits_.stack.value * factor});
    if (!stack.ok()) {
      Trapped trapped{abi::TrapCode::kHostFailure, module_->FunctionName(task.function), stack.error().message};
      Forget(task);
      return trapped;
    }
    task.fiber = std::make_unique<Fiber>(std::move(stack).value(), &GuestInstance::TaskMain, this);
    task.guest = RunningGuest{.fiber = task.fiber.get(),
                              .parts = {},
                              .capture_guard = task.capture.guard(),
                              .capture_guard_end = task.capture.guard_end()};
  }
  task.guest.parts = store_ != nullptr ? store_->parts() : std::span(&part_, 1);
  SwitchTo(task);
  task.left = Task::Left::kNone;
  {
    GuestScope scope(&task.guest);
    task.fiber->Enter();
  }
  SwitchFrom(task);
  return Finish(task);
}

// What the fiber left behind, as an outcome. Ends the task unless it was captured or blocks.
Outcome GuestInstance::Finish(Task& task) {
  if (task.guest.code != abi::TrapCode::kNone) {  // The fault handler took it off its fiber.
    task.left = Task::Left::kTrapped;
    task.trap_code = task.guest.code;
    task.trap_pc = task.guest.pc;
    if (task.guest.illegal_instruction) task.trap_message = "illegal instruction";
  }
  if (task.left == Task::Left::kBlocked) {
    task.phase = Task::Phase::kBlocked;
    return std::move(task.blocked);
  }
  if (task.guest.overflowed && stops_->every == 0) ClearInAll(abi::kSlow);
  const bool where_it_blocks = (context_->state.load() & abi::kRestart) != 0;
  ClearInAll(abi::kRestart | abi::kUnwinding | abi::kException);
  task.fiber.reset();
  if (task.left == Task::Left::kCaptured) {
    task.phase = Task::Phase::kCaptured;
    if (!where_it_blocks && store_ == nullptr) preempted_ = task.id;  // In a store one call runs at a time.
    return Captured{};
  }
  ClearInAll(abi::kCancel);
  Outcome outcome;
  switch (task.left) {
    case Task::Left::kReturned: {
      const auto* results = module_->type_of(task.function).results();
      task.cells.resize(results != nullptr ? results->size() : 0);
      for (std::size_t i = 0; i < task.cells.size(); ++i) {  // Behind narrow results may be what the parameters left.
        const std::size_t bytes = CellBytes(static_cast<fbs::ValueType>(results->Get(static_cast<std::uint32_t>(i))));
        std::fill(task.cells[i].begin() + static_cast<std::ptrdiff_t>(bytes), task.cells[i].end(), std::uint8_t{0});
      }
      outcome = Returned{std::move(task.cells)};
      break;
    }
    case Task::Left::kExited: outcome = Exited{task.exit_code}; break;
    case Task::Left::kTrapped: {
      Trapped trapped{task.trap_code, {}, {}};
      trapped.message = TrapMessage(task, &trapped.function);
      outcome = std::move(trapped);
      break;
    }
    default: GODWIT_CHECK(false, "a fiber left without saying why");
  }
  Spare(task);
  Forget(task);
  return outcome;
}

std::string GuestInstance::TrapMessage(const Task& task, std::string* function) const {
  std::string text(TrapCodeText(task.trap_code));
  if (!task.trap_message.empty()) text = task.trap_message;
  const std::optional<std::uint32_t> index = module_->image().FunctionAt(task.trap_pc);
  if (!index) {
    *function = module_->FunctionName(task.function);
    return fmt::format("{} in a call of {}", text, module_->FunctionLabel(task.function));
  }
  *function = module_->FunctionName(*index);
  const std::string source = module_->image().SourceAt(task.trap_pc);
  return fmt::format("{} in {}{}", text, module_->FunctionLabel(*index), source.empty() ? "" : " at " + source);
}

// --- What others ask for ---

void GuestInstance::RequestStop() {
  stops_->requested.store(true);
  SetInAll(abi::kStop);
  Wake();
}

// The bit stays until the instance's own thread finds that nobody wants it.
void GuestInstance::WithdrawStop() { stops_->requested.store(false); }

void GuestInstance::Cancel() {
  SetInAll(abi::kCancel);
  Wake();
}

void GuestInstance::Wake() {
  const std::uint64_t one = 1;
  // A full counter is readable already.
  [[maybe_unused]] const auto written = write(wake_fd_, &one, sizeof one);
}

void GuestInstance::StopEvery(std::uint64_t every) {
  stops_->every = every;
  stops_->since_last = 0;
  if (every != 0) {
    SetInAll(abi::kSlow);
  } else {
    ClearInAll(abi::kSlow);
  }
}

void GuestInstance::Nap(std::chrono::microseconds length) {
  if (store_ != nullptr) return;
  nap_us_.store(static_cast<std::uint64_t>(std::clamp<std::int64_t>(length.count(), 0, kNapMax.count())));
  context_->state.fetch_or(abi::kSlow);
}

// --- On the guest's stack ---

void GuestInstance::Poll(std::uintptr_t pc) {
  const std::uint32_t state = context_->state.load();
  if (state & abi::kException) {
    // It goes on up before anything else happens. Code that does not know exceptions leaves as if it were captured;
    // what it appends is dropped.
    if (!module_->module().catches_exceptions()) context_->state.fetch_or(abi::kUnwinding);
    return;
  }
  if (state & abi::kUnwinding) {
    if (store_ != nullptr) store_->AppendFrameOf(*this);
    return;
  }
  if (current()->guest.overflowed) TrapAt(abi::TrapCode::kStackOverflow, pc);
  if (state & abi::kCancel) TrapAt(abi::TrapCode::kCancelled, pc);
  bool due = (state & abi::kRestart) != 0;
  if ((state & abi::kSlow) && stops_->every != 0) {
    ++stops_->safepoints_reached;
    if (++stops_->since_last >= stops_->every) {
      stops_->since_last = 0;
      due = true;
    }
  }
  if ((state & abi::kSlow) && nap_us_.load() != 0) SleepIfWanted();
  if (state & abi::kStop) {
    if (StopWanted()) {
      due = true;
    } else {
      ClearInAll(abi::kStop);
      if (stops_->requested.load()) SetInAll(abi::kStop);  // Asked again in between.
    }
  }
  if (!due) return;
  SetInAll(abi::kUnwinding);
  if (store_ != nullptr) store_->AppendFrameOf(*this);
}

void GuestInstance::SleepIfWanted() {
  const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(nap_us_.exchange(0));
  if (stops_->every == 0) ClearState(abi::kSlow);  // A nap that is asked for right now is lost: it was only a hint.
  while ((context_->state.load() & (abi::kStop | abi::kCancel)) == 0) {
    const auto left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - std::chrono::steady_clock::now());
    if (left.count() <= 0) return;
    const timespec timeout{.tv_sec = 0, .tv_nsec = left.count()};  // kNapMax is less than a second.
    pollfd waker{wake_fd(), POLLIN, 0};
    if (ppoll(&waker, 1, &timeout, nullptr) <= 0) continue;
    // Woken by its owner, maybe, which stays so until Run reads it: in short steps then, so that neither a stop nor a cancellation waits.
    constexpr timespec kStep{.tv_sec = 0, .tv_nsec = 50'000};
    nanosleep(&kStep, nullptr);
  }
}

abi::Code GuestInstance::NextResume() {
  // Frames were checked when they were loaded, or were written by the image's own code.
  GODWIT_CHECK(context_->resume_top > context_->frames_base, "resuming past the innermost frame");
  std::uint32_t function;
  std::memcpy(&function, context_->resume_top - 2 * sizeof(std::uint32_t), sizeof function);
  const GuestInstance& owner = OwnerOfFrame(current()->runs, static_cast<std::uint64_t>(context_->resume_top - context_->frames_base));
  GODWIT_CHECK(function < owner.module_->function_count() && owner.module_->image().resume(function) != nullptr,
               "a frame of a function that cannot be resumed");
  owner.context_->resume_top = context_->resume_top;
  context_->resume_context = owner.context_;
  context_->resume_memory = owner.context_->memory;
  return owner.module_->image().resume(function);
}

// Whose the frame is that ends at byte `end`.
const GuestInstance& GuestInstance::OwnerOfFrame(const std::vector<FrameRun>& runs, std::uint64_t end) const {
  for (const FrameRun& run : runs) {
    if (end <= run.end) return store_->at(run.instance);
  }
  return *this;
}

void GuestInstance::Throw(std::uint32_t tag) {
  if (store_ != nullptr) return store_->Throw(*this, tag);
  thrown_ = tag;
  context_->state.fetch_or(abi::kException);
}

std::uint32_t GuestInstance::Catch() {
  if (store_ != nullptr) return store_->Catch(*this);
  ClearState(abi::kException);
  return thrown_;
}

// As the module exports or imports it.
std::string GuestInstance::TagName(std::uint32_t tag) const {
  const auto found = std::find(tags_.begin(), tags_.end(), tag);
  auto index = static_cast<std::uint32_t>(found - tags_.begin());
  if (found == tags_.end()) return "of another instance's tag";
  for (const fbs::Export* exported : *module_->module().exports()) {
    if (exported->kind() == fbs::ExternKind::tag && exported->index() == index) return exported->name()->str();
  }
  for (const fbs::Import* import : *module_->module().imports()) {
    if (import->kind() == fbs::ExternKind::tag && index-- == 0) return import->name()->str();
  }
  return fmt::format("of tag[{}]", found - tags_.begin());
}

std::uint32_t GuestInstance::GrowMemory(std::uint32_t memory_index, std::uint32_t delta_pages) {
  if (memory_index != 0) return ~0u;
  const std::uint32_t old_pages = memory_->Grow(delta_pages);
  context_->memory_bytes = memory_->bytes();
  if (store_ != nullptr) store_->MemoryGrew(*memory_);
  return old_pages;
}

std::uint32_t GuestInstance::GrowTable(std::uint32_t index, std::uint32_t reference, std::uint32_t delta) {
  abi::Table* grown = table(index);
  if (grown == nullptr || delta > grown->maximum - grown->size) return ~0u;
  const std::uint32_t old_size = grown->size;
  std::fill_n(grown->elements + old_size, delta, reference);
  grown->size += delta;
  if (store_ != nullptr) store_->TableGrew(*grown);
  return old_size;
}

void GuestInstance::TrapAt(abi::TrapCode code, std::uintptr_t pc, std::string message) {
  Task& task = *current();
  // Code that the compiler shares between functions has no name: its caller does.
  if (!module_->image().FunctionAt(pc)) pc = GuestProgramCounter(__builtin_frame_address(0));
  task.left = Task::Left::kTrapped;
  task.trap_code = code;
  task.trap_pc = pc;
  task.trap_message = std::move(message);
  task.fiber->Leave();
}

// The nearest address on the stack that may be a return into a guest function, for messages: host functions
// have no record of who called them.
__attribute__((no_sanitize("address"))) std::uintptr_t GuestInstance::GuestProgramCounter(const void* from) const {
  const Image& image = module_->image();
  const auto* word = reinterpret_cast<const std::uintptr_t*>(reinterpret_cast<std::uintptr_t>(from) & ~std::uintptr_t{7});
  const auto* top = reinterpret_cast<const std::uintptr_t*>(current()->fiber->stack().top());
  for (; word < top; ++word) {
    if (!image.InText(*word)) continue;
    const std::optional<std::uint32_t> function = image.FunctionAt(*word - 1);
    if (function && *function >= module_->module().imported_functions()) return *word - 1;
  }
  return 0;
}

TaskId GuestInstance::current_task() const {
  const Task* task = current();
  return task != nullptr ? task->id : 0;
}

Instance::Wait GuestInstance::Block(Blocked what) {
  Task& task = *current();
  if (!(context_->state.load() & abi::kCancel) && !StopWanted()) {
    task.blocked = std::move(what);
    task.left = Task::Left::kBlocked;
    task.fiber->Suspend();
  }
  what.fds = {};  // The stack may be abandoned below: nothing on it may own memory.
  if (context_->state.load() & abi::kCancel) {
    TrapAt(abi::TrapCode::kCancelled, 0);
  }
  return StopWanted() || preempted_ ? Wait::kInterrupted : Wait::kReady;
}

void GuestInstance::Restart() { context_->state.fetch_or(abi::kRestart); }

void GuestInstance::Exit(std::uint32_t code) {
  current()->left = Task::Left::kExited;
  current()->exit_code = code;
  current()->fiber->Leave();
}

void GuestInstance::RaiseTrap(abi::TrapCode code, std::string message) {
  TrapAt(code, 0, std::move(message));
}

}  // namespace godwit::runtime
