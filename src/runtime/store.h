// The one implementation of Store: what its instances share, and how one finds what it imports from another.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "runtime/guest_instance.h"

namespace godwit::runtime {

// Functions of all instances of one store together.
inline constexpr std::uint32_t kStoreFunctionsMax = 1u << 20;

class GuestStore final : public Store {
 public:
  explicit GuestStore(abi::FunctionEntry* functions) : functions_(functions) {}
  ~GuestStore() override;

  Result<Instance*> Instantiate(std::shared_ptr<const LoadedModule> module, std::vector<std::shared_ptr<HostModule>> hosts,
                                const Limits& limits) override;
  void Register(std::string name, const Instance& instance) override;

  // --- For its instances ---
  // Gives `importer` the next thing of its kind that it imports. kInvalidArgument ("unknown import", "incompatible
  // import type") names it.
  Status LinkImport(const fbs::Import& import, GuestInstance& importer);
  // Room for so many references, from reference_limit() on.
  Result<abi::FunctionEntry*> AddFunctions(std::uint32_t count);
  void AddPart(const GuestPart& part) { parts_.push_back(part); }
  const abi::FunctionEntry* functions() const { return functions_; }
  std::uint32_t reference_limit() const { return reference_limit_; }
  std::span<const GuestPart> parts() const { return parts_; }
  Task*& current() { return current_; }
  // Every instance that has this memory or table learns its size.
  void MemoryGrew(const LinearMemory& memory);
  void TableGrew(const abi::Table& table);
  // Any thread: bits of every instance's Context::state.
  void SetInAll(std::uint32_t bits);
  void ClearInAll(std::uint32_t bits);

 private:
  abi::FunctionEntry* functions_;  // Reserved for kStoreFunctionsMax: never moves.
  std::uint32_t reference_limit_ = 1;
  std::vector<GuestPart> parts_;
  Task* current_ = nullptr;
  std::mutex mutex_;  // Guards changes of instances_, which only the store's thread makes.
  std::vector<std::unique_ptr<GuestInstance>> instances_;
  std::map<std::string, const GuestInstance*, std::less<>> registered_;
};

}  // namespace godwit::runtime
