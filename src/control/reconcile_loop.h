// ReconcileLoop: keeps carrying out what Reconcile decides, whenever the records change and once a second.
#pragma once

#include <memory>

#include "store/metadata.h"

namespace godwit::control {

class ReconcileLoop {
 public:
  // `metadata` outlives it.
  static std::unique_ptr<ReconcileLoop> Start(store::Metadata& metadata);
  // Ends the thread; what it began is carried out.
  virtual ~ReconcileLoop() = default;
};

}  // namespace godwit::control
