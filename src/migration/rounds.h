// When a live copy stops the guest: after each round over its written pages, go on, slow the guest, stop it, or give up.
//
// Pure: measurements in, a decision out. The aim is the shortest downtime that more rounds can buy: what the guest
// wrote during the last round has to be sent while it stands still, so rounds are repeated while that shrinks. Where it
// does not shrink any more and is more than the limit on the downtime allows, the guest is slowed until it writes less
// than the link carries away.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <variant>

namespace godwit::migration {

struct RoundReport {
  std::uint64_t bytes = 0;        // Sent.
  std::uint64_t dirty_bytes = 0;  // Written by the guest since the round's pages were looked for.
  std::chrono::microseconds length{0};
};

struct SendAnotherRound {};
// As SendAnotherRound, the guest sleeping this share of its time.
struct SlowDown { double share; };
struct StopNow { std::chrono::microseconds expected_downtime; };
struct GiveUpCopying { std::string reason; };
using RoundDecision = std::variant<SendAnotherRound, SlowDown, StopNow, GiveUpCopying>;

inline constexpr int kRoundsMax = 40;
inline constexpr double kSlowShareMax = 0.95;
inline constexpr std::chrono::microseconds kDefaultMaxDowntime{50'000};

class RoundPolicy {
 public:
  struct Options {
    std::chrono::microseconds max_downtime = kDefaultMaxDowntime;
    std::chrono::microseconds fixed{300};  // Of the downtime, whatever is left to send.
    // Rather than to slow the guest for what is little in the tracker's units, and rather than to give up, the guest is stopped: what is left takes less than all
    // of its memory, which would be sent while it stands still if there were no rounds.
    bool stop_anyway = false;
  };
  explicit RoundPolicy(Options options) : options_(options) {}

  RoundDecision Next(const RoundReport& round);

  double slow_share() const { return slow_share_; }
  double bytes_per_second() const { return bandwidth_; }

 private:
  const Options options_;
  int rounds_ = 0;
  double bandwidth_ = 0;       // Of the largest rounds, which tell most.
  double slow_share_ = 0;
  std::uint64_t best_dirty_bytes_ = ~0ull;
  int rounds_without_gain_ = 0;
};

}  // namespace godwit::migration
