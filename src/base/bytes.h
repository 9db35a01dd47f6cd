// Byte counts, spans and digests: the small vocabulary for raw bytes that every module shares.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace godwit {

using Bytes = std::vector<std::uint8_t>;
using ByteView = std::span<const std::uint8_t>;

// A number of bytes; a type of its own so that sizes and offsets are not mixed up in signatures.
struct ByteCount {
  std::uint64_t value = 0;
  friend auto operator<=>(ByteCount, ByteCount) = default;
};
inline constexpr ByteCount operator""_KiB(unsigned long long n) { return {n << 10}; }
inline constexpr ByteCount operator""_MiB(unsigned long long n) { return {n << 20}; }
inline constexpr ByteCount operator""_GiB(unsigned long long n) { return {n << 30}; }

inline ByteView AsBytes(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}
inline std::string_view AsText(ByteView bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace godwit
