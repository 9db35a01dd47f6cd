// Lays an instance out: links its imports and makes memory, tables and globals as the module declares them.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <fmt/format.h>

#include "runtime/builtins.h"
#include "runtime/guest_instance.h"
#include "runtime/pages.h"
#include "runtime/store.h"

namespace godwit::runtime {
namespace {

// As HostFunction::signature spells it; '?' for types that host functions cannot have.
char TypeLetter(fbs::ValueType type) {
  switch (type) {
    case fbs::ValueType::i32: return 'i';
    case fbs::ValueType::i64: return 'I';
    case fbs::ValueType::f32: return 'f';
    case fbs::ValueType::f64: return 'F';
    default: return '?';
  }
}

std::string SignatureText(const fbs::FunctionType& type) {
  std::string text;
  if (type.params() != nullptr) {
    for (auto value : *type.params()) text.push_back(TypeLetter(static_cast<fbs::ValueType>(value)));
  }
  text.push_back(':');
  if (type.results() != nullptr) {
    for (auto value : *type.results()) text.push_back(TypeLetter(static_cast<fbs::ValueType>(value)));
  }
  return text;
}

bool Inside(std::uint64_t offset, std::uint64_t count, std::uint64_t whole) {
  return offset <= whole && count <= whole - offset;
}

std::optional<HostFunction> OfferedBy(const std::vector<std::shared_ptr<HostModule>>& hosts, const fbs::Import& import) {
  for (const auto& host : hosts) {
    if (host->name() != import.module_()->string_view()) continue;
    if (auto found = host->Find(import.name()->string_view())) return found;
  }
  return std::nullopt;
}

std::uint32_t Low32(const Cell& cell) {
  std::uint32_t value;
  std::memcpy(&value, cell.data(), sizeof value);
  return value;
}

}  // namespace

Result<std::unique_ptr<GuestInstance>> GuestInstance::Link(std::shared_ptr<const Module> module,
                                                           std::vector<std::shared_ptr<HostModule>> hosts,
                                                           const Limits& limits, GuestStore* store,
                                                           std::vector<std::uint32_t> providers) {
  std::unique_ptr<GuestInstance> instance(new GuestInstance);
  instance->store_ = store;
  if (store != nullptr) instance->stops_ = &store->stops();
  instance->providers_ = std::move(providers);
  instance->module_ = std::move(module);
  instance->limits_ = limits;
  instance->wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (instance->wake_fd_ < 0) return ErrnoError("eventfd");
  const fbs::Module& description = instance->module_->module();
  for (const fbs::Import* import : *description.imports()) {
    if (import->kind() == fbs::ExternKind::global) instance->imported_globals_.push_back(import);
  }

  constexpr std::size_t kAlignment = 64;
  const std::size_t bytes = sizeof(abi::Context) + std::size_t{instance->global_count() + instance->exception_cells()} * abi::kGlobalBytes;
  instance->context_storage_.reset(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (instance->context_storage_ == nullptr) return ResourceExhausted("no memory for an instance's context");
  std::memset(instance->context_storage_.get(), 0, bytes);
  abi::Context* context = new (instance->context_storage_.get()) abi::Context{};
  instance->context_ = context;
  context->owner = instance.get();
  context->builtins = &BuiltinTable();
  context->function_base = store != nullptr ? store->next_reference() : 1;
  context->signatures = instance->module_->signatures().data();

  if (store == nullptr) instance->remains_ = instance->module_->remains().Take();
  GODWIT_TRY(instance->LinkImports(hosts));
  for (const auto& host : hosts) instance->host_names_.push_back(host->name());
  instance->hosts_ = std::move(hosts);
  instance->LinkTags();
  GODWIT_TRY(instance->CreateTables());
  context->tables = instance->tables_.data();
  instance->dropped_data_.resize(description.data() != nullptr ? description.data()->size() : 0);
  instance->dropped_elements_.resize(description.elements() != nullptr ? description.elements()->size() : 0);
  return instance;
}

Status GuestInstance::LinkImports(const std::vector<std::shared_ptr<HostModule>>& hosts) {
  const std::vector<std::uint32_t> known = std::exchange(providers_, {});
  for (const fbs::Import* import : *module_->module().imports()) {
    const std::uint32_t provider = providers_.size() < known.size() ? known[providers_.size()] : 0;
    if (import->kind() == fbs::ExternKind::function && provider == 0) {
      const Status linked = LinkHostFunction(*import, hosts);
      if (linked.ok()) {
        providers_.push_back(0);
        continue;
      }
      if (store_ == nullptr || linked.error().code != ErrorCode::kNotFound) {
        return InvalidArgument(linked.error().message);
      }
    } else if (OfferedBy(hosts, *import)) {
      return InvalidArgument(fmt::format("incompatible import type: {}.{} is wanted as a {}, the host has a function",
                                         import->module_()->string_view(), import->name()->string_view(),
                                         fbs::EnumNameExternKind(import->kind())));
    } else if (store_ == nullptr) {
      return InvalidArgument(fmt::format("unknown import {}.{}: hosts offer functions only, no {}",
                                         import->module_()->string_view(), import->name()->string_view(),
                                         fbs::EnumNameExternKind(import->kind())));
    }
    GODWIT_ASSIGN(const std::uint32_t position, store_->LinkImport(*import, provider, *this));
    providers_.push_back(position + 1);
  }
  context_->imports = imports_.data();
  return {};
}

// Numbers its own tags; imported ones have theirs.
void GuestInstance::LinkTags() {
  const auto* own = module_->module().tags();
  for (std::uint32_t i = 0; own != nullptr && i < own->size(); ++i) {
    const std::uint32_t values = module_->module().types()->Get(own->Get(i)->type())->params()->size();
    tags_.push_back(store_ != nullptr ? store_->NextTag(values) : static_cast<std::uint32_t>(tags_.size() + 1));
  }
  context_->tags = tags_.data();
}

const fbs::FunctionType& GuestInstance::tag_type(std::uint32_t index) const {
  const fbs::Module& description = module_->module();
  for (const fbs::Import* import : *description.imports()) {
    if (import->kind() == fbs::ExternKind::tag && index-- == 0) return *description.types()->Get(import->type());
  }
  return *description.types()->Get(description.tags()->Get(index)->type());
}

// As many as the module's tag with the most parameters needs.
std::uint32_t GuestInstance::exception_cells() const {
  const fbs::Module& description = module_->module();
  std::uint32_t cells = 0;
  const auto add = [&](std::uint32_t type) { cells = std::max<std::uint32_t>(cells, description.types()->Get(type)->params()->size()); };
  for (const fbs::Import* import : *description.imports()) {
    if (import->kind() == fbs::ExternKind::tag) add(import->type());
  }
  for (std::uint32_t i = 0; description.tags() != nullptr && i < description.tags()->size(); ++i) add(description.tags()->Get(i)->type());
  return cells;
}

// kNotFound if no host module offers it.
Status GuestInstance::LinkHostFunction(const fbs::Import& import, const std::vector<std::shared_ptr<HostModule>>& hosts) {
  const std::string_view module_name = import.module_()->string_view(), name = import.name()->string_view();
  const std::optional<HostFunction> found = OfferedBy(hosts, import);
  const std::string wanted = SignatureText(*module_->module().types()->Get(import.type()));
  if (!found) return NotFound(fmt::format("unknown import {}.{} of type {}", module_name, name, wanted));
  if (found->signature != wanted) {
    return InvalidArgument(fmt::format("incompatible import type: {}.{} is wanted as {}, the host has {}", module_name,
                                       name, wanted, found->signature));
  }
  // CreateMemory fills in the memory.
  imports_.push_back({found->code, context_, nullptr, module_->signatures()[import.type()], 0});
  return {};
}

Status GuestInstance::CreateTables() {
  const auto* tables = module_->module().tables();
  const std::uint32_t count = tables != nullptr ? tables->size() : 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const fbs::TableType& table = *tables->Get(i);
    const std::uint64_t declared = table.has_maximum() ? table.maximum() : ~0u;
    const std::uint64_t maximum = std::min<std::uint64_t>(declared, limits_.table_elements_max);
    if (table.minimum() > maximum) {
      return ResourceExhausted(fmt::format("table {} of {} elements is over the limit of {}", i, table.minimum(), maximum));
    }
    const bool taken_over = remains_ != nullptr && i < remains_->tables.size() && remains_->tables[i].Fits(maximum);
    if (taken_over) {
      table_elements_.push_back(std::move(remains_->tables[i]));
    } else {
      GODWIT_ASSIGN(TableElements made, TableElements::Create(maximum));
      table_elements_.push_back(std::move(made));
    }
    const TableElements& elements = table_elements_.back();
    tables_.push_back({elements.data(), static_cast<std::uint32_t>(table.minimum()), static_cast<std::uint32_t>(maximum)});
    table_types_.push_back(table.element());
    tables_declared_max_.push_back(table.has_maximum() ? std::optional(table.maximum()) : std::nullopt);
  }
  return {};
}

std::uint32_t GuestInstance::global_count() const {
  return static_cast<std::uint32_t>(imported_globals_.size()) + module_->module().globals()->size();
}

std::uint8_t* GuestInstance::global(std::uint32_t index) const {
  std::uint8_t* place = global_place(index);
  if (index >= imported_globals_.size() || !imported_globals_[index]->mutable_()) return place;
  std::uint8_t* imported = nullptr;
  std::memcpy(&imported, place, sizeof imported);
  return imported;
}

Cell GuestInstance::Evaluate(const fbs::Init& init) const {
  Cell cell{};
  switch (init.kind()) {
    case fbs::InitKind::constant: {
      const std::uint64_t lo = init.lo(), hi = init.hi();
      std::memcpy(cell.data(), &lo, sizeof lo);
      std::memcpy(cell.data() + sizeof lo, &hi, sizeof hi);
      break;
    }
    case fbs::InitKind::global_get:
      if (init.index() < global_count()) std::memcpy(cell.data(), global(init.index()), cell.size());
      break;
    case fbs::InitKind::ref_func: {
      const std::uint32_t reference = init.index() < module_->function_count() ? context_->function_base + init.index() : 0;
      std::memcpy(cell.data(), &reference, sizeof reference);
      break;
    }
    case fbs::InitKind::expression: return EvaluateExpression(init);
    default: break;  // Null.
  }
  return cell;
}

// Checked when the package was opened: operands are there for each operation.
Cell GuestInstance::EvaluateExpression(const fbs::Init& init) const {
  std::vector<Cell> stack;
  for (std::uint64_t i = 0; i < init.lo(); ++i) {
    const fbs::Init& step = *module_->module().expressions()->Get(static_cast<std::uint32_t>(init.index() + i));
    if (step.kind() < fbs::InitKind::expression) {
      stack.push_back(Evaluate(step));
      continue;
    }
    std::uint64_t x, y;
    std::memcpy(&y, stack.back().data(), sizeof y);
    stack.pop_back();
    std::memcpy(&x, stack.back().data(), sizeof x);
    switch (step.kind()) {
      case fbs::InitKind::i32_add: x = static_cast<std::uint32_t>(x + y); break;
      case fbs::InitKind::i32_sub: x = static_cast<std::uint32_t>(x - y); break;
      case fbs::InitKind::i32_mul: x = static_cast<std::uint32_t>(x * y); break;
      case fbs::InitKind::i64_add: x += y; break;
      case fbs::InitKind::i64_sub: x -= y; break;
      default: x *= y; break;
    }
    std::memcpy(stack.back().data(), &x, sizeof x);
  }
  return stack.back();
}

std::uint64_t MemoryPagesMax(const fbs::Memory& declared, const Limits& limits) {
  constexpr std::uint64_t kPagesMax = (4ull << 30) / abi::kWasmPageBytes;
  const std::uint64_t pages_max = std::min(kPagesMax, limits.memory_max.value / abi::kWasmPageBytes);
  return declared.has_maximum() ? std::min(pages_max, declared.maximum()) : pages_max;
}

Status GuestInstance::CreateMemory(std::uint64_t pages, std::unique_ptr<ArrivingMemory> arrived) {
  const auto* memories = module_->module().memories();
  if (memories != nullptr && memories->size() != 0) {
    const fbs::Memory& declared = *memories->Get(0);
    if (declared.has_maximum()) memory_declared_max_ = declared.maximum();
    if (arrived) {
      GODWIT_TRY(arrived->GrowTo({pages * abi::kWasmPageBytes}));
      own_memory_ = arrived->Take();
      if (own_memory_.pages() != pages) return Corrupt("snapshot: its memory is smaller than what was sent of it");
    } else {
      GODWIT_ASSIGN(own_memory_, OwnMemory(pages, MemoryPagesMax(declared, limits_)));
    }
  }
  context_->memory = memory_->base();
  context_->resume_context = context_;
  context_->resume_memory = memory_->base();
  context_->memory_bytes = memory_->bytes();
  for (abi::FunctionEntry& import : imports_) {
    if (import.context == context_) import.memory = memory_->base();
  }
  // Functions know the memory they belong to, so they come after it.
  abi::FunctionEntry* functions;
  if (store_ != nullptr) {
    GODWIT_ASSIGN(functions, store_->AddFunctions(module_->function_count()));
    context_->functions = store_->functions();
  } else {
    functions_.assign(std::size_t{1} + module_->function_count(), abi::FunctionEntry{});
    functions = functions_.data() + 1;
    context_->functions = functions_.data();
  }
  for (std::uint32_t i = 0; i < module_->function_count(); ++i) {
    if (i < imports_.size() && imports_[i].context != context_) {
      functions[i] = imports_[i];
      continue;
    }
    functions[i] = {
        .code = module_->image().function(i),
        .context = context_,
        .memory = memory_->base(),
        .signature = module_->signatures()[module_->module().functions()->Get(i)->type()],
        .tail = module_->image().tail(i),
    };
  }
  part_ = {&module_->image(), memory_, &context_->state};
  if (store_ != nullptr) store_->AddPart(part_);
  return {};
}

// An earlier instance's memory, brought back to the module's initial image, or a new one.
Result<LinearMemory> GuestInstance::OwnMemory(std::uint64_t pages, std::uint64_t pages_max) {
  const bool fits = pages * abi::kWasmPageBytes <= kRemainsMemoryMax.value && pages <= pages_max;
  if (!fits || remains_ == nullptr || remains_->memory.base() == nullptr) return LinearMemory::Create(pages, pages_max, limits_.huge_pages);
  LinearMemory memory = std::move(remains_->memory);
  if (!memory.Rewind(pages, pages_max)) return LinearMemory::Create(pages, pages_max, limits_.huge_pages);
  RestorePages(memory.base(), memory.bytes(), module_->initial_pages());
  memory_is_initial_ = true;
  return memory;
}

// For the next instance of the module. Only where everything is as a call leaves it: what a trap or an abandoned call
// left is no different from that.
void GuestInstance::LeaveRemains() {
  if (!instantiated_ || store_ != nullptr || !module_->initial_pages_are_fixed() || own_memory_.IsShared() ||
      own_memory_.bytes() > kRemainsMemoryMax.value) {
    return;
  }
  auto remains = std::make_unique<Remains>();
  remains->memory = std::move(own_memory_);
  remains->capture = std::move(spare_capture_);
  for (std::size_t i = 0; i < table_elements_.size(); ++i) {
    const abi::Table& table = tables_[tables_.size() - table_elements_.size() + i];
    std::fill_n(table.elements, table.size, 0u);
    remains->tables.push_back(std::move(table_elements_[i]));
  }
  module_->remains().Give(std::move(remains));
}

Status GuestInstance::Instantiate() {
  const fbs::Module& description = module_->module();
  const auto* memories = description.memories();
  GODWIT_TRY(CreateMemory(memories != nullptr && memories->size() != 0 ? memories->Get(0)->minimum() : 0));
  auto index = static_cast<std::uint32_t>(imported_globals_.size());
  for (const fbs::Global* own : *description.globals()) {
    const Cell value = Evaluate(*own->init());
    std::memcpy(global(index++), value.data(), value.size());
  }
  for (std::uint32_t i = 0; i < dropped_elements_.size(); ++i) {
    const fbs::ElementSegment& segment = *description.elements()->Get(i);
    if (segment.mode() == fbs::SegmentMode::passive) continue;
    if (segment.mode() == fbs::SegmentMode::active) {
      const std::uint32_t to = segment.offset() != nullptr ? Low32(Evaluate(*segment.offset())) : 0;
      const std::uint32_t count = segment.items() != nullptr ? segment.items()->size() : 0;
      if (!CopyElements(i, segment.table_index(), to, 0, count)) {
        return InvalidArgument(fmt::format("out of bounds table access: element segment {} does not fit its table", i));
      }
    }
    DropElements(i);
  }
  for (std::uint32_t i = 0; i < dropped_data_.size(); ++i) {
    const fbs::DataSegment& segment = *description.data()->Get(i);
    if (segment.mode() != fbs::SegmentMode::active) continue;
    const std::uint32_t to = segment.offset() != nullptr ? Low32(Evaluate(*segment.offset())) : 0;
    const ByteView bytes = DataSegment(i);
    if (segment.memory() != 0 || !Inside(to, bytes.size(), memory_->bytes())) {
      return InvalidArgument(fmt::format("out of bounds memory access: data segment {} does not fit its memory", i));
    }
    if (!bytes.empty() && !memory_is_initial_) {
      std::memcpy(memory_->base() + to, bytes.data(), bytes.size());
    }
    DropData(i);
  }
  FindShadowStack();
  instantiated_ = true;
  return {};
}

// Named "__stack_pointer" if the module exports it; else the first mutable i32 global, where clang puts it, if it begins
// with what may be the end of a stack.
void GuestInstance::FindShadowStack() {
  if (limits_.tasks_max <= 1 || memory_->base() == nullptr) return;
  const fbs::Module& description = module_->module();
  const auto imported = static_cast<std::uint32_t>(imported_globals_.size());
  const auto is_mutable_i32 = [&](std::uint32_t index) {
    return index >= imported && index < global_count() && description.globals()->Get(index - imported)->mutable_() &&
           description.globals()->Get(index - imported)->type() == fbs::ValueType::i32;
  };
  for (std::uint32_t i = 0; description.exports() != nullptr && i < description.exports()->size(); ++i) {
    const fbs::Export& exported = *description.exports()->Get(i);
    if (exported.kind() == fbs::ExternKind::global && exported.name()->string_view() == "__stack_pointer" &&
        is_mutable_i32(exported.index())) {
      shadow_global_ = exported.index();
    }
  }
  for (std::uint32_t i = imported; !shadow_global_ && i < global_count(); ++i) {
    if (!is_mutable_i32(i)) continue;
    const std::uint32_t begin = Low32(Evaluate(*description.globals()->Get(i - imported)->init()));
    if (begin == 0 || begin % 16 != 0 || begin > memory_->bytes()) break;
    shadow_global_ = i;
  }
  if (shadow_global_) std::memcpy(&shadow_resting_, global(*shadow_global_), sizeof shadow_resting_);
}

ByteView GuestInstance::DataSegment(std::uint32_t segment) const {
  if (segment >= dropped_data_.size() || dropped_data_[segment]) return {};
  const auto* bytes = module_->module().data()->Get(segment)->bytes();
  return bytes != nullptr ? ByteView(reinterpret_cast<const std::uint8_t*>(bytes->data()), bytes->size()) : ByteView{};
}

bool GuestInstance::CopyElements(std::uint32_t segment, std::uint32_t table_index, std::uint32_t to, std::uint32_t from,
                                 std::uint32_t count) {
  abi::Table* target = table(table_index);
  if (target == nullptr || segment >= dropped_elements_.size()) return false;
  const auto* items = module_->module().elements()->Get(segment)->items();
  const std::uint32_t size = dropped_elements_[segment] || items == nullptr ? 0 : items->size();
  if (!Inside(from, count, size) || !Inside(to, count, target->size)) return false;
  for (std::uint32_t i = 0; i < count; ++i) target->elements[to + i] = Low32(Evaluate(*items->Get(from + i)));
  return true;
}

}  // namespace godwit::runtime
