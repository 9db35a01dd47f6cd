// The one implementation of Store: what its instances share, how one finds what it imports from another, and whose
// frames are whose.
#pragma once

#include <algorithm>
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
  std::vector<Instance*> instances() const override;
  Result<std::vector<snapshot::Snapshot>> Capture() override;  // store_capture.cc
  Status Load(std::vector<Part> parts);                        // store_capture.cc; into an empty store.

  // --- For its instances ---
  // Gives `importer` the next thing of its kind that it imports. kInvalidArgument ("unknown import", "incompatible
  // import type") names it. From the instance at position `provider` - 1 or, with 0, from the one that is registered.
  // Returns that instance's position.
  Result<std::uint32_t> LinkImport(const fbs::Import& import, std::uint32_t provider, GuestInstance& importer);
  // Room for so many references, from reference_limit() on.
  Result<abi::FunctionEntry*> AddFunctions(std::uint32_t count);
  void AddPart(const GuestPart& part) { parts_.push_back(part); }
  const abi::FunctionEntry* functions() const { return functions_; }
  std::uint32_t next_reference() const { return next_reference_; }
  // Past all references that there are, or will be when all instances of a snapshot are loaded.
  std::uint32_t reference_limit() const { return std::max(next_reference_, references_expected_); }
  // A number for a tag whose exceptions have so many values.
  std::uint32_t NextTag(std::uint32_t values);
  const GuestInstance& at(std::uint32_t position) const { return *instances_[position]; }
  StopRequests& stops() { return stops_; }
  bool capturing() const { return capturing_; }
  // Frames of the call that runs: where they begin; that the next ones are `instance`'s; whose each was, and their end.
  void SetFramesBase(std::uint8_t* base);
  void AppendFrameOf(GuestInstance& instance);
  const std::uint8_t* EndFrames(std::vector<FrameRun>& runs);
  // While a snapshot is loaded.
  std::vector<FrameRun> RunsOf(const GuestInstance& instance) const;
  // An exception on its way has its values here, since each instance has cells of its own.
  void Throw(GuestInstance& from, std::uint32_t tag);
  std::uint32_t Catch(GuestInstance& in);
  std::span<const GuestPart> parts() const { return parts_; }
  Task*& current() { return current_; }
  // Every instance that has this memory or table learns its size.
  void MemoryGrew(const LinearMemory& memory);
  void TableGrew(const abi::Table& table);
  // Any thread: bits of every instance's Context::state.
  void SetInAll(std::uint32_t bits);
  void ClearInAll(std::uint32_t bits);

 private:
  std::uint32_t PositionOf(const GuestInstance& instance) const;
  Result<GuestInstance*> LinkNext(std::shared_ptr<const LoadedModule> module, std::vector<std::shared_ptr<HostModule>> hosts,
                                  const Limits& limits, std::vector<std::uint32_t> providers);
  Bytes LinkedRecord(const GuestInstance& instance) const;

  abi::FunctionEntry* functions_;  // Reserved for kStoreFunctionsMax: never moves.
  std::uint32_t next_reference_ = 1;
  std::uint32_t references_expected_ = 0;
  std::vector<std::uint32_t> tag_values_;  // Of tags 1, 2, ...
  std::uint32_t thrown_ = 0;
  std::vector<Cell> thrown_values_;
  StopRequests stops_;
  bool capturing_ = false;
  GuestInstance* framing_ = nullptr;  // Whose frames are being appended.
  std::vector<FrameRun> runs_;        // Before those.
  std::map<const GuestInstance*, std::vector<FrameRun>> loaded_runs_;
  std::vector<GuestPart> parts_;
  Task* current_ = nullptr;
  std::mutex mutex_;  // Guards changes of instances_, which only the store's thread makes.
  std::vector<std::unique_ptr<GuestInstance>> instances_;
  std::map<std::string, const GuestInstance*, std::less<>> registered_;
};

}  // namespace godwit::runtime
