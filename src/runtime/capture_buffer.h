// Where a task's frames are written when it stops, and read when it goes on: lazily committed, with a guard
// behind it, since generated code appends without checking.
#pragma once

#include <cstdint>
#include <utility>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::runtime {

// A frame holds what its function keeps alive, which may be more than its native frame: capacity is this many
// times the task's stack.
inline constexpr std::uint64_t kCaptureStackFactor = 5;

class CaptureBuffer {
 public:
  CaptureBuffer() = default;
  static Result<CaptureBuffer> Create(ByteCount stack);
  CaptureBuffer(CaptureBuffer&& other) noexcept { *this = static_cast<CaptureBuffer&&>(other); }
  CaptureBuffer& operator=(CaptureBuffer&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(capacity_, other.capacity_);
    return *this;
  }
  ~CaptureBuffer();

  std::uint8_t* base() const { return base_; }
  // Whether it is what Create would make for a stack of this size.
  bool Fits(ByteCount stack) const { return base_ != nullptr && capacity_ == CapacityFor(stack); }
  std::uint64_t capacity() const { return capacity_; }
  std::uintptr_t guard() const { return reinterpret_cast<std::uintptr_t>(base_) + capacity_; }
  std::uintptr_t guard_end() const;

 private:
  static std::uint64_t CapacityFor(ByteCount stack);

  std::uint8_t* base_ = nullptr;
  std::uint64_t capacity_ = 0;
};

}  // namespace godwit::runtime
