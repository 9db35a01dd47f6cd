#include "runtime/store.h"

#include <sys/mman.h>

#include <cstring>

#include <fmt/format.h>

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
  GODWIT_CHECK(current_ == nullptr, "an instance was linked while a guest runs");
  GODWIT_ASSIGN(auto linked, GuestInstance::Link(std::static_pointer_cast<const Module>(std::move(module)),
                                                 std::move(hosts), limits, this));
  GuestInstance& instance = *linked;
  {
    std::lock_guard lock(mutex_);
    instances_.push_back(std::move(linked));
  }
  GODWIT_TRY(instance.Instantiate());
  return &instance;
}

void GuestStore::Register(std::string name, const Instance& instance) {
  registered_[std::move(name)] = &static_cast<const GuestInstance&>(instance);
}

Result<abi::FunctionEntry*> GuestStore::AddFunctions(std::uint32_t count) {
  if (count > kStoreFunctionsMax - reference_limit_) {
    return ResourceExhausted(fmt::format("linked instances have more than {} functions together", kStoreFunctionsMax));
  }
  abi::FunctionEntry* added = functions_ + reference_limit_;
  reference_limit_ += count;
  return added;
}

Status GuestStore::LinkImport(const fbs::Import& import, GuestInstance& importer) {
  const auto error = [&](std::string_view what) {
    return InvalidArgument(fmt::format("{} {}.{} ({})", what, import.module_()->string_view(),
                                       import.name()->string_view(), fbs::EnumNameExternKind(import.kind())));
  };
  const auto found = registered_.find(import.module_()->string_view());
  const fbs::Export* exported = found != registered_.end() ? found->second->FindExport(import.name()->string_view()) : nullptr;
  if (exported == nullptr) return error("unknown import");
  const Error incompatible = error("incompatible import type");
  if (exported->kind() != import.kind()) return incompatible;
  const GuestInstance& exporter = *found->second;
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
  return {};
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
