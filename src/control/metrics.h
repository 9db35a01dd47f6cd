// The controller's metrics as OpenMetrics text, from the records alone.
#pragma once

#include <string>

#include "control/reconcile.h"

namespace godwit::control {

std::string MetricsText(const ClusterView& view);

}  // namespace godwit::control
