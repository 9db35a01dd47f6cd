// Lays an instance out: links its imports and makes memory, tables and globals as the module declares them.
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include <fmt/format.h>

#include "runtime/builtins.h"
#include "runtime/guest_instance.h"

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

std::uint32_t Low32(const Cell& cell) {
  std::uint32_t value;
  std::memcpy(&value, cell.data(), sizeof value);
  return value;
}

}  // namespace

Result<TableElements> TableElements::Create(std::uint64_t maximum) {
  TableElements elements;
  elements.bytes_ = std::max<std::uint64_t>(maximum * sizeof(std::uint32_t), 1);
  void* data = mmap(nullptr, elements.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return ErrnoError("reserving a table");
  elements.data_ = static_cast<std::uint32_t*>(data);
  return elements;
}

TableElements::~TableElements() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Result<std::unique_ptr<GuestInstance>> GuestInstance::Link(std::shared_ptr<const Module> module,
                                                           std::vector<std::shared_ptr<HostModule>> hosts,
                                                           const Limits& limits) {
  std::unique_ptr<GuestInstance> instance(new GuestInstance);
  instance->module_ = std::move(module);
  instance->limits_ = limits;
  instance->wake_fd_ = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  if (instance->wake_fd_ < 0) return ErrnoError("eventfd");
  const fbs::Module& description = instance->module_->module();

  constexpr std::size_t kAlignment = 64;
  const std::size_t bytes = sizeof(abi::Context) + std::size_t{instance->global_count()} * abi::kGlobalBytes;
  instance->context_storage_.reset(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment));
  if (instance->context_storage_ == nullptr) return ResourceExhausted("no memory for an instance's context");
  std::memset(instance->context_storage_.get(), 0, bytes);
  abi::Context* context = new (instance->context_storage_.get()) abi::Context{};
  instance->context_ = context;
  context->owner = instance.get();
  context->builtins = &BuiltinTable();
  context->function_base = 1;
  context->signatures = instance->module_->signatures().data();

  GODWIT_TRY(instance->LinkImports(hosts));
  instance->hosts_ = std::move(hosts);
  GODWIT_TRY(instance->CreateTables());
  context->tables = instance->tables_.data();
  instance->dropped_data_.resize(description.data() != nullptr ? description.data()->size() : 0);
  instance->dropped_elements_.resize(description.elements() != nullptr ? description.elements()->size() : 0);
  return instance;
}

Status GuestInstance::LinkImports(const std::vector<std::shared_ptr<HostModule>>& hosts) {
  const fbs::Module& description = module_->module();
  for (std::uint32_t i = 0; description.imports() != nullptr && i < description.imports()->size(); ++i) {
    const fbs::Import& import = *description.imports()->Get(i);
    const std::string module_name = import.module_() != nullptr ? import.module_()->str() : "";
    const std::string name = import.name() != nullptr ? import.name()->str() : "";
    if (import.kind() != fbs::ExternKind::function) {
      return InvalidArgument(fmt::format("unknown import {}.{}: hosts offer functions only, no {}", module_name, name,
                                         fbs::EnumNameExternKind(import.kind())));
    }
    std::optional<HostFunction> found;
    for (const auto& host : hosts) {
      if (host->name() == module_name) found = host->Find(name);
      if (found) break;
    }
    const std::string wanted = SignatureText(*description.types()->Get(import.type()));
    if (!found) return InvalidArgument(fmt::format("unknown import {}.{} of type {}", module_name, name, wanted));
    if (found->signature != wanted) {
      return InvalidArgument(fmt::format("incompatible import type: {}.{} is wanted as {}, the host has {}", module_name,
                                         name, wanted, found->signature));
    }
    imports_.push_back(found->code);
  }
  if (imports_.size() != description.imported_functions()) {
    return Corrupt("the module description counts its imported functions wrongly; build the package again");
  }
  context_->imports = imports_.data();
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
    GODWIT_ASSIGN(TableElements elements, TableElements::Create(maximum));
    tables_.push_back({elements.data(), static_cast<std::uint32_t>(table.minimum()), static_cast<std::uint32_t>(maximum)});
    table_elements_.push_back(std::move(elements));
  }
  return {};
}

std::uint32_t GuestInstance::global_count() const {
  const auto* globals = module_->module().globals();
  return globals != nullptr ? globals->size() : 0;
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
    case fbs::InitKind::ref_null: break;
  }
  return cell;
}

Status GuestInstance::CreateMemory(std::uint64_t pages) {
  const auto* memories = module_->module().memories();
  if (memories != nullptr && memories->size() != 0) {
    const fbs::Memory& declared = *memories->Get(0);
    constexpr std::uint64_t kPagesMax = (4ull << 30) / abi::kWasmPageBytes;
    std::uint64_t pages_max = std::min(kPagesMax, limits_.memory_max.value / abi::kWasmPageBytes);
    if (declared.has_maximum()) pages_max = std::min(pages_max, declared.maximum());
    GODWIT_ASSIGN(memory_, LinearMemory::Create(pages, pages_max));
  }
  context_->memory = memory_.base();
  context_->memory_bytes = memory_.bytes();
  // Functions know the memory they belong to, so they come after it.
  functions_.assign(std::size_t{1} + module_->function_count(), abi::FunctionEntry{});
  for (std::uint32_t i = 0; i < module_->function_count(); ++i) {
    functions_[context_->function_base + i] = {
        .code = module_->image().function(i),
        .context = context_,
        .memory = memory_.base(),
        .signature = module_->signatures()[module_->module().functions()->Get(i)->type()],
        .reserved = 0,
    };
  }
  context_->functions = functions_.data();
  return {};
}

Status GuestInstance::Instantiate() {
  const fbs::Module& description = module_->module();
  const auto* memories = description.memories();
  GODWIT_TRY(CreateMemory(memories != nullptr && memories->size() != 0 ? memories->Get(0)->minimum() : 0));
  for (std::uint32_t i = 0; i < global_count(); ++i) {
    const fbs::Init* init = description.globals()->Get(i)->init();
    if (init == nullptr) continue;
    const Cell value = Evaluate(*init);
    std::memcpy(global(i), value.data(), value.size());
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
    if (segment.memory() != 0 || !Inside(to, bytes.size(), memory_.bytes())) {
      return InvalidArgument(fmt::format("out of bounds memory access: data segment {} does not fit its memory", i));
    }
    if (!bytes.empty()) {
      std::memcpy(memory_.base() + to, bytes.data(), bytes.size());
    }
    DropData(i);
  }
  FindShadowStack();
  return {};
}

// Named "__stack_pointer" if the module exports it; else the first mutable i32 global, where clang puts it.
void GuestInstance::FindShadowStack() {
  if (limits_.tasks_max <= 1 || memory_.base() == nullptr) return;
  const fbs::Module& description = module_->module();
  const auto is_mutable_i32 = [&](std::uint32_t index) {
    return index < global_count() && description.globals()->Get(index)->mutable_() &&
           description.globals()->Get(index)->type() == fbs::ValueType::i32;
  };
  for (std::uint32_t i = 0; description.exports() != nullptr && i < description.exports()->size(); ++i) {
    const fbs::Export& exported = *description.exports()->Get(i);
    if (exported.kind() == fbs::ExternKind::global && exported.name()->string_view() == "__stack_pointer" &&
        is_mutable_i32(exported.index())) {
      shadow_global_ = exported.index();
    }
  }
  for (std::uint32_t i = 0; !shadow_global_ && i < global_count(); ++i) {
    if (is_mutable_i32(i)) shadow_global_ = i;
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
