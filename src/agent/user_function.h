// User functions: what a service exports to be run over datasets, on whatever device holds them.
//
// The export NAME(window: i32, bytes: i32, last: i32) -> i32 gets the part's lines in runs of whole lines, each copied once into
// the buffer that the export godwit_window(bytes) -> i32 gave, and emits its output (guest-api.md); at the end it is called with no
// bytes and `last`. A negative result ends it. It runs in an instance of its own, with the service's limits, and may be stopped at any
// safepoint: its state is a snapshot, which goes on at a device of any instruction set.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "agent/environment.h"
#include "agent/package_cache.h"
#include "device/engine.h"
#include "model/records.h"

namespace godwit::agent {

// Programs are named by (export, digest of the service's package); their tenant is the service. Self-synchronised.
class UserPrograms final : public device::Programs {
 public:
  using FindService = std::function<std::optional<model::ServiceRecord>(const std::string& name)>;
  // What is referred to outlives it.
  UserPrograms(FindService service, PackageCache& packages, std::shared_ptr<Environment> environment)
      : service_(std::move(service)), packages_(packages), environment_(std::move(environment)) {}
  // kPermissionDenied: not the service's package. kNotFound: no such export. Errors of PackageCache::Load. Blocks.
  Result<std::shared_ptr<const device::Function>> Load(const std::string& tenant, const std::string& name, ByteView program) override;

 private:
  const FindService service_;
  PackageCache& packages_;
  const std::shared_ptr<Environment> environment_;
};

// For tests too: `module`'s export `name` as a function.
Result<std::shared_ptr<const device::Function>> MakeUserFunction(std::shared_ptr<const runtime::LoadedModule> module, const std::string& name,
                                                                 const model::Manifest& manifest, std::shared_ptr<Environment> environment);

}  // namespace godwit::agent
