// The fixed bytes of a snapshot file and the limits of its parts; docs/formats/snapshot.md describes them.
#pragma once

#include <cstdint>

namespace godwit::snapshot {

// Header, at offset 0; little-endian.
struct Header {
  char magic[8];
  std::uint32_t version;
  std::uint32_t reserved;            // 0
  std::uint64_t file_bytes;          // Of the whole encoding, the hash included.
  std::uint64_t description_bytes;   // The description begins right after the header.
  std::uint8_t padding[32];          // 0
};
static_assert(sizeof(Header) == 64);

inline constexpr char kMagic[8] = {'G', 'O', 'D', 'W', 'I', 'T', 'S', '\n'};
inline constexpr std::uint64_t kHashBytes = 32;
inline constexpr std::uint64_t kPartAlignment = 64;        // frames, host states
inline constexpr std::uint64_t kBlobAlignment = 64 << 10;  // package blobs: the largest page size of our ISAs

inline constexpr std::uint64_t kFileBytesMax = 8ull << 30;
inline constexpr std::uint64_t kDescriptionBytesMax = 1ull << 30;
inline constexpr std::size_t kStacksMax = 1024;
inline constexpr std::size_t kMemoriesMax = 1;
inline constexpr std::uint64_t kWasmPagesMax = 65536;
inline constexpr std::size_t kGlobalsMax = 1'000'000;
inline constexpr std::size_t kTablesMax = 100'000;
inline constexpr std::size_t kTableElementsMax = 10'000'000;  // of all tables
inline constexpr std::size_t kSegmentsMax = 1'000'000;
inline constexpr std::size_t kHostStatesMax = 16;
inline constexpr std::size_t kNameBytesMax = 256;
inline constexpr std::size_t kBlobsMax = 64;
inline constexpr std::uint64_t kArgumentsBytesMax = 16 * 1000;
inline constexpr std::uint64_t kFramesBytesMax = 1ull << 30;  // of one stack

}  // namespace godwit::snapshot
