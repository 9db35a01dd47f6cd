// What travels on a page stream (docs/formats/page-stream.md): heads of 32 bytes, each followed by the bytes that it
// announces. Little-endian, as all our ISAs are.
#pragma once

#include <array>
#include <cstdint>

#include "base/bytes.h"

namespace godwit::migration {

enum class PageKind : std::uint32_t {
  // Source -> target
  kHello = 1,    // First on a stream: `memory` is its number, `first` the version, `count` the token's epoch; the migration's id follows.
  kPages = 2,    // `count` pages of `memory` from page `first` follow.
  kInitial = 3,  // The same pages are as the package has them: nothing follows.
  kSize = 4,     // `memory` has `count` bytes now.
  kRound = 5,    // The end of round `first` on this stream, answered by kRoundDone.
  kStopping = 6, // The guest is being stopped: what comes next comes soon.
  kState = 7,    // The bundle follows; all pages have been sent. On stream 0.
  kCommit = 8,   // The token. On stream 0.
  kCompressed = 9,  // As kPages, the pages as one zstd frame.
  // Target -> source
  kRoundDone = 20,  // `first` as in kRound: everything before it is in place.
  kReply = 21,      // To kCommit, or to a state that cannot be restored: `first` is 1 if accepted; the reason follows.
};

struct PageHead {
  PageKind kind;
  std::uint32_t memory = 0;
  std::uint64_t first = 0, count = 0;
  std::uint64_t bytes = 0;  // That follow.
};
static_assert(sizeof(PageHead) == 32);

inline constexpr std::uint64_t kPageStreamVersion = 1;
inline constexpr std::size_t kPageStreamsMax = 8;
inline constexpr std::size_t kMemoriesMax = 64;                // Of one migration.
inline constexpr std::uint64_t kBlockBytesMax = 1 << 20;       // Of pages after one head.
inline constexpr std::uint64_t kReasonBytesMax = 4096;
inline constexpr std::uint64_t kStateBytesMax = 8ull << 30;

}  // namespace godwit::migration
