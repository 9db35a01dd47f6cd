// ReconcileLoop: keeps carrying out what Reconcile decides, whenever the records change and once a second.
#pragma once

#include <chrono>
#include <memory>

#include "store/metadata.h"

namespace godwit::control {

class ReconcileLoop {
 public:
  // `metadata` outlives it. Leases are renewed through the controller, so that they may have ended only because it was
  // away: no device is taken for offline before `lease_ttl` has passed from here.
  static std::unique_ptr<ReconcileLoop> Start(store::Metadata& metadata, std::chrono::milliseconds lease_ttl);
  // Ends the thread; what it began is carried out.
  virtual ~ReconcileLoop() = default;
};

}  // namespace godwit::control
