// HTTP calls to hosts outside the cluster.
#pragma once

#include <functional>
#include <memory>

#include "agent/environment.h"

namespace godwit::agent {

inline constexpr int kOutsideCallsMax = 64;  // Under way on this device.

// As Environment::Call, for a call whose service is "http[s]://host[:port]"; the caller has checked that it may be reached.
// Redirections are not followed.
std::shared_ptr<Pending> CallOutside(OutgoingCall call, std::function<void(Result<CallAnswer>)> done);

}  // namespace godwit::agent
