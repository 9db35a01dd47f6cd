// ArrivalBuffer: memory for a bundle that is about to come, populated before it is needed.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::agent {

// Guarded by its user.
class ArrivalBuffer {
 public:
  ArrivalBuffer() = default;
  ~ArrivalBuffer() { Free(); }
  ArrivalBuffer(const ArrivalBuffer&) = delete;
  ArrivalBuffer& operator=(const ArrivalBuffer&) = delete;

  // Has at least `bytes` afterwards, what was written being kept; new memory is populated. kResourceExhausted.
  Status Reserve(std::uint64_t bytes);
  // The range must lie inside what was reserved.
  void Write(std::uint64_t offset, ByteView bytes);
  ByteView First(std::uint64_t bytes) const { return {memory_, bytes}; }
  std::uint64_t capacity() const { return capacity_; }
  void Free();

 private:
  std::uint8_t* memory_ = nullptr;
  std::uint64_t capacity_ = 0;
};

}  // namespace godwit::agent
