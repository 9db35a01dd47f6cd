// Calls between services over the gateway's relay: the same protocol as requests from outside, with the whole answer
// gathered.
#pragma once

#include <functional>
#include <memory>

#include "agent/environment.h"
#include "gateway/relay.h"

namespace godwit::daemon {

// Environment::Call over `relay`, which outlives all calls. Any thread.
std::shared_ptr<agent::Pending> CallService(gateway::Relay& relay, agent::OutgoingCall call,
                                            std::function<void(Result<agent::CallAnswer>)> done);

}  // namespace godwit::daemon
