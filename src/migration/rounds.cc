#include "migration/rounds.h"

#include <algorithm>

#include <fmt/format.h>

namespace godwit::migration {
namespace {

// Below this a round says more about waking threads than about the link.
constexpr std::uint64_t kTellingBytes = 256 << 10;
// What is left is small enough: another round costs more than it saves.
constexpr std::uint64_t kFewBytes = 64 << 10;
// A round has gained if it left at most this share of the best before.
constexpr double kGain = 0.8;
constexpr int kRoundsWithoutGain = 2;
// Units of 64 KiB (ProtectTracker), of which so many are left by a guest that writes to a few places.
constexpr std::uint64_t kFewUnitsBytes = 16 * (64 << 10);
// A slowed guest is to write this share of what the link carries.
constexpr double kWrittenOfSent = 0.5;

}  // namespace

RoundDecision RoundPolicy::Next(const RoundReport& round) {
  ++rounds_;
  const double seconds = std::max(1e-6, static_cast<double>(round.length.count()) / 1e6);
  if (round.bytes >= kTellingBytes || bandwidth_ == 0) {
    const double now = static_cast<double>(std::max<std::uint64_t>(round.bytes, 1)) / seconds;
    bandwidth_ = bandwidth_ == 0 || round.bytes < kTellingBytes ? std::max(bandwidth_, now) : 0.5 * bandwidth_ + 0.5 * now;
  }
  const double left_us = static_cast<double>(round.dirty_bytes) / bandwidth_ * 1e6;
  const auto expected = options_.fixed + std::chrono::microseconds(static_cast<std::int64_t>(left_us));
  const bool fits = expected <= std::max(options_.max_downtime, options_.fixed);
  if (round.dirty_bytes <= kFewBytes && fits) return StopNow{expected};

  const bool gained = static_cast<double>(round.dirty_bytes) <= kGain * static_cast<double>(best_dirty_bytes_);
  best_dirty_bytes_ = std::min(best_dirty_bytes_, round.dirty_bytes);
  rounds_without_gain_ = gained ? 0 : rounds_without_gain_ + 1;
  if (rounds_without_gain_ < kRoundsWithoutGain && rounds_ < kRoundsMax) {
    if (slow_share_ > 0) return SlowDown{slow_share_};
    return SendAnotherRound{};
  }
  const bool at_its_end = slow_share_ >= kSlowShareMax || rounds_ >= kRoundsMax;
  if (fits || (options_.stop_anyway && (at_its_end || round.dirty_bytes <= kFewUnitsBytes))) return StopNow{expected};
  if (at_its_end) {
    return GiveUpCopying{fmt::format(
        "after {} rounds {} bytes are left, which would take {} ms at the {:.0f} MB/s measured, and {} ms are allowed although "
        "the guest slept {:.0f} % of its time; allow a longer --max-downtime or use --mode stop",
        rounds_, round.dirty_bytes, expected.count() / 1000, bandwidth_ / 1e6, options_.max_downtime.count() / 1000,
        slow_share_ * 100)};
  }
  // Enough for what the guest writes at full speed, and each further time half of what is left.
  const double written = static_cast<double>(round.dirty_bytes) / seconds / (1 - slow_share_);
  const double enough = 1 - kWrittenOfSent * bandwidth_ / std::max(written, 1.0);
  slow_share_ = std::clamp(std::max(enough, slow_share_ + (1 - slow_share_) / 2), 0.2, kSlowShareMax);
  if (slow_share_ > 0.93) slow_share_ = kSlowShareMax;
  rounds_without_gain_ = 0;
  best_dirty_bytes_ = round.dirty_bytes;
  return SlowDown{slow_share_};
}

}  // namespace godwit::migration
