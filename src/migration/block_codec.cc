#include "migration/block_codec.h"

namespace godwit::migration {
namespace {

// A phase ends with so many bytes of pages, or after so long on a slow link. What a socket takes before the link is felt is at
// most a few MiB: the warm-up.
constexpr std::uint64_t kWarmUpBytes = 4 << 20;
constexpr std::uint64_t kPlainBytes = 4 << 20;
constexpr std::uint64_t kTrialBytes = 2 << 20;
constexpr std::uint64_t kDecidedBytes = 256 << 20;
constexpr std::chrono::milliseconds kLongPhase{50};
// Compressed, a page must take at most this share of its time as it is: processors have other work too.
constexpr double kPays = 0.8;
constexpr int kLevel = 1;

}  // namespace

void CodecPolicy::Enter(Phase phase) {
  phase_ = phase;
  sum_ = {};
}

void CodecPolicy::Add(const Sent& sent) {
  if (sent.page_bytes == 0) return;
  sum_.page_bytes += sent.page_bytes;
  sum_.wire_bytes += sent.wire_bytes;
  sum_.packing += sent.packing;
  sum_.writing += sent.writing;
  const auto bytes = static_cast<double>(sum_.page_bytes);
  const bool is_long = sum_.packing + sum_.writing >= kLongPhase;
  switch (phase_) {
    case Phase::kWarmUp:
      if (sum_.page_bytes >= kWarmUpBytes || is_long) Enter(Phase::kPlain);
      return;
    case Phase::kPlain:
      if (sum_.page_bytes < kPlainBytes && !is_long) return;
      plain_ns_ = static_cast<double>(sum_.writing.count()) / static_cast<double>(sum_.wire_bytes);
      return Enter(Phase::kTrial);
    case Phase::kTrial: {
      if (sum_.page_bytes < kTrialBytes && !is_long) return;
      // The trial's own writing says little: the socket's buffer takes it.
      const double packed_ns = static_cast<double>(sum_.packing.count()) / bytes + plain_ns_ * static_cast<double>(sum_.wire_bytes) / bytes;
      pays_ = packed_ns <= kPays * plain_ns_;
      return Enter(Phase::kDecided);
    }
    case Phase::kDecided:
      if (sum_.page_bytes >= kDecidedBytes) Enter(pays_ ? Phase::kWarmUp : Phase::kPlain);
      return;
  }
}

std::optional<std::size_t> BlockCodec::Pack(ByteView pages, Bytes& to) {
  copy_.assign(pages.begin(), pages.end());
  const std::size_t before = to.size();
  to.resize(before + copy_.size());
  const std::size_t packed = ZSTD_compressCCtx(context_.get(), to.data() + before, copy_.size(), copy_.data(), copy_.size(), kLevel);
  if (ZSTD_isError(packed)) {  // It would need more room than the pages themselves.
    to.resize(before);
    return std::nullopt;
  }
  to.resize(before + packed);
  return packed;
}

}  // namespace godwit::migration
