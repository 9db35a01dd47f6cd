// What every call that transfers bytes needs: the guest's iovecs, checked, and what a stream's answer means to it.
#pragma once

#include <limits>
#include <span>

#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {

// Checks the iovecs and every buffer they name before anything is transferred.
inline Errno CheckVectors(const GuestMemory& memory, std::uint32_t vectors, std::uint32_t count, std::uint64_t& total) {
  if (count > Wasi::kVectorsMax) return Errno::kInval;
  if (memory.Range(vectors, count * kIovecBytes) == nullptr) return Errno::kFault;
  total = 0;
  for (std::uint32_t i = 0; i < count; ++i) {
    const std::uint32_t address = *Load<std::uint32_t>(memory, vectors + i * kIovecBytes);
    const std::uint32_t bytes = *Load<std::uint32_t>(memory, vectors + i * kIovecBytes + 4);
    if (memory.Range(address, bytes) == nullptr) return Errno::kFault;
    total += bytes;
  }
  return total <= std::numeric_limits<std::uint32_t>::max() ? Errno::kSuccess : Errno::kInval;
}

inline std::span<std::uint8_t> Vector(const GuestMemory& memory, std::uint32_t vectors, std::uint32_t index) {
  const std::uint32_t address = *Load<std::uint32_t>(memory, vectors + index * kIovecBytes);
  const std::uint32_t bytes = *Load<std::uint32_t>(memory, vectors + index * kIovecBytes + 4);
  return {memory.Range(address, bytes), bytes};
}

inline Errno StreamErrno(const Error& error) {
  switch (error.code) {
    case ErrorCode::kUnavailable: return Errno::kPipe;
    case ErrorCode::kUnsupported: return Errno::kBadF;
    case ErrorCode::kAborted: return Errno::kConnReset;
    default: return Errno::kIo;
  }
}

inline Blocked WaitFor(const Stream& stream, short events) {
  Blocked blocked;
  if (stream.poll_fd() >= 0) blocked.fds.push_back({stream.poll_fd(), events, 0});
  return blocked;
}

}  // namespace godwit::runtime::wasi
