// Outcomes on the wire.
#pragma once

#include "base/result.h"
#include "transport/messages_generated.h"

namespace godwit::agent {

inline flatbuffers::Offset<wire::Outcome> PutOutcome(flatbuffers::FlatBufferBuilder& builder, const Status& status) {
  return status.ok() ? wire::CreateOutcomeDirect(builder, 0)
                     : wire::CreateOutcomeDirect(builder, static_cast<std::uint8_t>(status.error().code), status.error().message.c_str());
}

inline Status GetOutcome(const wire::Outcome* outcome) {
  if (outcome == nullptr || outcome->code() == 0) return {};
  return Error{static_cast<ErrorCode>(outcome->code()), outcome->message() != nullptr ? outcome->message()->str() : "no reason given"};
}

}  // namespace godwit::agent
