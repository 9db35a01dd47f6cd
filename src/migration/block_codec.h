// Whether compressing the pages of one stream pays, decided from what the link and the codec were measured to do, and the
// codec: zstd at its fastest level that still finds entropy.
//
// A stream sends some pages as they are and measures the link, then some compressed, and goes on with what took less time per page;
// after a while it measures again. Small moves end before that and are never compressed. One thread.
#pragma once

#include <zstd.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>

#include "base/bytes.h"

namespace godwit::migration {

// The decision. Pure: measurements in.
class CodecPolicy {
 public:
  struct Sent {
    std::uint64_t page_bytes = 0;
    std::uint64_t wire_bytes = 0;
    std::chrono::nanoseconds packing{0};
    std::chrono::nanoseconds writing{0};  // Until the socket had taken it, waiting for a limit on bandwidth included.
  };
  // Whether what comes next is to be compressed.
  bool packs() const { return phase_ == Phase::kTrial || (phase_ == Phase::kDecided && pays_); }
  void Add(const Sent& sent);

 private:
  enum class Phase : std::uint8_t { kWarmUp, kPlain, kTrial, kDecided };
  void Enter(Phase phase);

  Phase phase_ = Phase::kWarmUp;
  bool pays_ = false;
  Sent sum_;                 // Of this phase.
  double plain_ns_ = 0;      // Writing of a byte, as measured last.
};

class BlockCodec {
 public:
  BlockCodec() : context_(ZSTD_createCCtx()) {}
  CodecPolicy& policy() { return policy_; }
  // Appends the pages as one frame to `to`; its size, or nothing where they do not get smaller.
  std::optional<std::size_t> Pack(ByteView pages, Bytes& to);

 private:
  struct Free {
    void operator()(ZSTD_CCtx* context) const { ZSTD_freeCCtx(context); }
  };
  CodecPolicy policy_;
  std::unique_ptr<ZSTD_CCtx, Free> context_;
  Bytes copy_;  // The guest may be writing to its pages, which the codec reads more than once.
};

}  // namespace godwit::migration
