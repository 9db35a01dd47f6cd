#include "transport/frame_parser.h"

#include <algorithm>

#include <fmt/format.h>

#include "base/flatbuffer.h"

namespace godwit::transport {

namespace {

std::uint32_t ReadU32(const std::uint8_t* p) {
  return p[0] | p[1] << 8 | p[2] << 16 | static_cast<std::uint32_t>(p[3]) << 24;
}

bool CopiesFit(const flatbuffers::Vector<flatbuffers::Offset<wire::Header>>* headers, CopyBudget copies) {
  for (flatbuffers::uoffset_t i = 0; headers && i < headers->size(); ++i) {
    if (!copies.Take(headers->Get(i)->name()->size() + headers->Get(i)->value()->size())) return false;
  }
  return true;
}

// What the verifier does not see (base/flatbuffer.h), of the messages that have such lists.
bool ListsAreSound(const wire::Message& message, CopyBudget copies) {
  if (const auto* open = message.body_as_OpenRequest()) return CopiesFit(open->headers(), copies);
  if (const auto* head = message.body_as_ResponseHead()) return CopiesFit(head->headers(), copies);
  if (const auto* prepare = message.body_as_Prepare()) return !prepare->memories() || IsAligned(*prepare->memories());
  if (const auto* list = message.body_as_DataListReply()) return !list->sizes() || IsAligned(*list->sizes());
  return true;
}

}  // namespace

Status VerifyMessage(ByteView bytes) {
  constexpr std::size_t kDepthMax = 8, kTablesMax = 4096;
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), kDepthMax, kTablesMax);
  if (bytes.size() < 8 || !wire::VerifyMessageBuffer(verifier)) return Corrupt("a channel message fails verification");
  const wire::Message* message = wire::GetMessage(bytes.data());
  // The verifier passes unions of a type that it does not know.
  if (message->body_type() == wire::Body::NONE || message->body_type() > wire::Body::MAX) {
    return Corrupt(fmt::format("a channel message is of unknown type {}", static_cast<unsigned>(message->body_type())));
  }
  if (!ListsAreSound(*message, CopyBudget(bytes.size()))) return Corrupt("a channel message has a list that is not aligned, or headers that share their bytes");
  return {};
}

Status FrameParser::BeginFrame() {
  body_bytes_ = ReadU32(head_.data());
  message_bytes_ = ReadU32(head_.data() + 4);
  if (body_bytes_ > kFrameBytesMax || message_bytes_ > kMessageBytesMax || message_bytes_ > body_bytes_ ||
      body_bytes_ - message_bytes_ > kPayloadBytesMax || message_bytes_ == 0) {
    return Corrupt(fmt::format("a channel frame claims {} bytes with a message of {}", body_bytes_, message_bytes_));
  }
  head_.clear();
  body_.clear();
  in_body_ = true;
  return {};
}

Status FrameParser::Feed(ByteView bytes, const std::function<bool(Frame)>& on_frame) {
  while (!bytes.empty()) {
    Bytes& into = in_body_ ? body_ : head_;
    const std::size_t want = (in_body_ ? body_bytes_ : kFrameHeadBytes) - into.size();
    const std::size_t n = std::min(want, bytes.size());
    // Memory grows with what has come, not with what a frame's head claims.
    if (in_body_ && into.empty()) into.reserve(n == want ? n : std::min(body_bytes_, 2 * n));
    into.insert(into.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(n));
    bytes = bytes.subspan(n);
    if (n < want) return {};
    if (!in_body_) {
      GODWIT_TRY(BeginFrame());
      continue;
    }
    in_body_ = false;
    GODWIT_TRY(VerifyMessage(ByteView(body_).first(message_bytes_)));
    Frame frame(std::move(body_), message_bytes_);
    body_ = {};
    if (!on_frame(std::move(frame))) return {};
  }
  return {};
}

}  // namespace godwit::transport
