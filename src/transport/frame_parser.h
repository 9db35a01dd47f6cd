// Cuts a channel's byte stream into frames and refuses what is not one. Pure.
//
// A frame is u32 frame_bytes, u32 message_bytes (little-endian), then frame_bytes bytes: the message and, after its
// message_bytes, the payload.
#pragma once

#include <functional>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/channel.h"

namespace godwit::transport {

inline constexpr std::size_t kFrameHeadBytes = 8;

class FrameParser {
 public:
  // Calls `on_frame` for each frame that `bytes` completes, until it returns false. kCorrupt: not a frame, or its
  // message fails verification; nothing more can be read from such a stream.
  Status Feed(ByteView bytes, const std::function<bool(Frame)>& on_frame);

 private:
  Status BeginFrame();
  Bytes head_;
  Bytes body_;
  std::size_t body_bytes_ = 0;     // What the frame will have.
  std::size_t message_bytes_ = 0;
  bool in_body_ = false;
};

}  // namespace godwit::transport
