// Requests and completions as bytes, for drivers whose device is in another process.
#pragma once

#include "base/bytes.h"
#include "base/result.h"
#include "device/request.h"

namespace godwit::device {

inline constexpr std::size_t kMessageBytesMax = 500 << 10;  // Encoded; one frame of a channel holds it.

// kInvalidArgument: beyond a limit of request.h, or larger than kMessageBytesMax.
Result<Bytes> Encode(const Request& request);
Result<Bytes> Encode(const Completion& completion);
// kCorrupt: not one whole message of that kind, or beyond a limit.
Result<Request> DecodeRequest(ByteView bytes);
Result<Completion> DecodeCompletion(ByteView bytes);

// kInvalidArgument naming the limit that `request` is beyond.
Status CheckLimits(const Request& request);

}  // namespace godwit::device
