#include "runtime/store.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include <fmt/format.h>

#include "runtime/signatures.h"

namespace godwit::runtime {
namespace {

constexpr std::size_t kFunctionsBytes = std::size_t{kStoreFunctionsMax} * sizeof(abi::FunctionEntry);

// The specification's import matching of limits: what there is must be at least what is asked for, and must never
// become more than it.
bool LimitsMatch(std::uint64_t size, std::optional<std::uint64_t> declared_max, const fbs::Import& import) {
  if (size < import.minimum()) return false;
  return !import.has_maximum() || (declared_max && *declared_max <= import.maximum());
}

}  // namespace

Result<std::unique_ptr<Store>> Store::Create() {
  void* functions = mmap(nullptr, kFunctionsBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (functions == MAP_FAILED) return ErrnoError("reserving a store's functions");
  return std::unique_ptr<Store>(new GuestStore(static_cast<abi::FunctionEntry*>(functions)));
}

GuestStore::~GuestStore() {
  instances_.clear();
  munmap(functions_, kFunctionsBytes);
}

Result<Instance*> GuestStore::Instantiate(std::shared_ptr<const LoadedModule> module,
                                          std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits) {
  GODWIT_ASSIGN(GuestInstance* const instance, LinkNext(std::move(module), std::move(hosts), limits, {}));
  if (Status made = instance->Instantiate(); !made.ok()) {
    // Nothing can refer to one that got no functions.
    if (instance->context_->functions == nullptr) instances_.pop_back();
    return made.error();
  }
  return instance;
}

Result<GuestInstance*> GuestStore::LinkNext(std::shared_ptr<const LoadedModule> module,
                                            std::vector<std::shared_ptr<HostModule>> hosts, const Limits& limits,
                                            std::vector<std::uint32_t> providers) {
  GODWIT_CHECK(current_ == nullptr, "an instance was linked while a guest runs");
  GODWIT_ASSIGN(auto linked, GuestInstance::Link(std::static_pointer_cast<const Module>(std::move(module)),
                                                 std::move(hosts), limits, this, std::move(providers)));
  std::lock_guard lock(mutex_);
  instances_.push_back(std::move(linked));
  return instances_.back().get();
}

std::vector<Instance*> GuestStore::instances() const {
  std::vector<Instance*> all;
  for (const auto& instance : instances_) all.push_back(instance.get());
  return all;
}

std::uint32_t GuestStore::PositionOf(const GuestInstance& instance) const {
  const auto found = std::find_if(instances_.begin(), instances_.end(), [&](const auto& one) { return one.get() == &instance; });
  return static_cast<std::uint32_t>(found - instances_.begin());
}

void GuestStore::Register(std::string name, const Instance& instance) {
  registered_[std::move(name)] = &static_cast<const GuestInstance&>(instance);
}

Result<abi::FunctionEntry*> GuestStore::AddFunctions(std::uint32_t count) {
  if (count > kStoreFunctionsMax - next_reference_) {
    return ResourceExhausted(fmt::format("linked instances have more than {} functions together", kStoreFunctionsMax));
  }
  abi::FunctionEntry* added = functions_ + next_reference_;
  next_reference_ += count;
  return added;
}

Result<std::uint32_t> GuestStore::LinkImport(const fbs::Import& import, std::uint32_t provider, GuestInstance& importer) {
  const auto error = [&](std::string_view what) {
    return InvalidArgument(fmt::format("{} {}.{} ({})", what, import.module_()->string_view(),
                                       import.name()->string_view(), fbs::EnumNameExternKind(import.kind())));
  };
  const GuestInstance* from = nullptr;
  if (provider != 0) {
    if (provider <= instances_.size()) from = instances_[provider - 1].get();
  } else if (const auto found = registered_.find(import.module_()->string_view()); found != registered_.end()) {
    from = found->second;
  }
  const fbs::Export* exported = from != nullptr ? from->FindExport(import.name()->string_view()) : nullptr;
  if (exported == nullptr) return error("unknown import");
  const Error incompatible = error("incompatible import type");
  if (exported->kind() != import.kind()) return incompatible;
  const GuestInstance& exporter = *from;
  const std::uint32_t index = exported->index();
  const fbs::Module& description = exporter.module_->module();
  switch (import.kind()) {
    case fbs::ExternKind::function: {
      const abi::FunctionEntry& entry = functions_[exporter.context_->function_base + index];
      if (entry.signature != importer.module_->signatures()[import.type()]) return incompatible;
      importer.imports_.push_back(entry);
      break;
    }
    case fbs::ExternKind::table: {
      if (!LimitsMatch(exporter.tables_[index].size, exporter.tables_declared_max_[index], import) ||
          exporter.table_types_[index] != import.value_type()) {
        return incompatible;
      }
      importer.tables_.push_back(exporter.tables_[index]);
      importer.tables_declared_max_.push_back(exporter.tables_declared_max_[index]);
      importer.table_types_.push_back(exporter.table_types_[index]);
      break;
    }
    case fbs::ExternKind::memory:
      if (!LimitsMatch(exporter.memory_->pages(), exporter.memory_declared_max_, import)) return incompatible;
      importer.memory_ = exporter.memory_;
      importer.memory_declared_max_ = exporter.memory_declared_max_;
      break;
    case fbs::ExternKind::tag: {
      const auto* wanted = importer.module_->module().types()->Get(import.type());
      GODWIT_ASSIGN(const std::uint32_t type, InternSignature(*wanted));
      GODWIT_ASSIGN(const std::uint32_t offered, InternSignature(exporter.tag_type(index)));
      if (type != offered) return incompatible;
      importer.tags_.push_back(exporter.tags_[index]);
      break;
    }
    case fbs::ExternKind::global: {
      const std::size_t imported = exporter.imported_globals_.size();
      const bool own = index >= imported;
      const auto* global = own ? description.globals()->Get(static_cast<std::uint32_t>(index - imported)) : nullptr;
      if ((own ? global->type() : exporter.imported_globals_[index]->value_type()) != import.value_type() ||
          (own ? global->mutable_() : exporter.imported_globals_[index]->mutable_()) != import.mutable_()) {
        return incompatible;
      }
      std::uint8_t* place = importer.global_place(importer.globals_linked_++);
      std::uint8_t* value = exporter.global(index);
      if (import.mutable_()) {
        std::memcpy(place, &value, sizeof value);
      } else {
        std::memcpy(place, value, abi::kGlobalBytes);
      }
      break;
    }
  }
  return PositionOf(exporter);
}

std::uint32_t GuestStore::NextTag(std::uint32_t values) {
  tag_values_.push_back(values);
  return static_cast<std::uint32_t>(tag_values_.size());
}

void GuestStore::Throw(GuestInstance& from, std::uint32_t tag) {
  thrown_ = tag;
  const std::uint8_t* cells = from.exception_cell(0);
  thrown_values_.resize(tag_values_[tag - 1]);
  std::memcpy(thrown_values_.data(), cells, thrown_values_.size() * sizeof(Cell));
  SetInAll(abi::kException);
}

std::uint32_t GuestStore::Catch(GuestInstance& in) {
  if (thrown_values_.size() > in.exception_cells()) {
    in.RaiseTrap(abi::TrapCode::kHostFailure,
                 fmt::format("an exception of {} values cannot pass through code that knows only tags of at most {}",
                             thrown_values_.size(), in.exception_cells()));
  }
  std::memcpy(in.exception_cell(0), thrown_values_.data(), thrown_values_.size() * sizeof(Cell));
  ClearInAll(abi::kException | abi::kUnwinding);
  SetFramesBase(in.context_->frames_base);  // Instances that do not know exceptions appended frames.
  return thrown_;
}

void GuestStore::SetFramesBase(std::uint8_t* base) {
  for (const auto& instance : instances_) instance->context_->frames_base = instance->context_->capture_top = base;
  framing_ = nullptr;
  runs_.clear();
}

void GuestStore::AppendFrameOf(GuestInstance& instance) {
  if (framing_ == &instance) return;
  if (framing_ != nullptr) {
    const std::uint8_t* top = framing_->context_->capture_top;
    runs_.push_back({PositionOf(*framing_), static_cast<std::uint64_t>(top - framing_->context_->frames_base)});
    instance.context_->capture_top = framing_->context_->capture_top;
  }
  framing_ = &instance;
}

const std::uint8_t* GuestStore::EndFrames(std::vector<FrameRun>& runs) {
  GODWIT_CHECK(framing_ != nullptr, "a stop without a frame");
  const std::uint8_t* top = framing_->context_->capture_top;
  runs_.push_back({PositionOf(*framing_), static_cast<std::uint64_t>(top - framing_->context_->frames_base)});
  runs = std::exchange(runs_, {});
  return top;
}

void GuestStore::MemoryGrew(const LinearMemory& memory) {
  for (const auto& instance : instances_) {
    if (instance->memory_ == &memory) instance->context_->memory_bytes = memory.bytes();
  }
}

void GuestStore::TableGrew(const abi::Table& table) {
  for (const auto& instance : instances_) {
    for (abi::Table& other : instance->tables_) {
      if (other.elements == table.elements) other.size = table.size;
    }
  }
}

void GuestStore::SetInAll(std::uint32_t bits) {
  std::lock_guard lock(mutex_);
  for (const auto& instance : instances_) instance->context_->state.fetch_or(bits);
}

void GuestStore::ClearInAll(std::uint32_t bits) {
  for (const auto& instance : instances_) instance->ClearState(bits);
}

}  // namespace godwit::runtime
