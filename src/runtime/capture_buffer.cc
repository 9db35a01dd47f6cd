#include "runtime/capture_buffer.h"

#include <sys/mman.h>

#include "package/native_abi.h"
#include "runtime/fiber.h"

namespace godwit::runtime {

std::uint64_t CaptureBuffer::CapacityFor(ByteCount stack) {
  const std::uint64_t unit = abi::kWasmPageBytes;
  return (stack.value * kCaptureStackFactor + unit - 1) / unit * unit;
}

Result<CaptureBuffer> CaptureBuffer::Create(ByteCount stack) {
  const std::uint64_t capacity = CapacityFor(stack);
  void* base = mmap(nullptr, capacity + kGuardBytes.value, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (base == MAP_FAILED) return ErrnoError("reserving a capture buffer");
  CaptureBuffer buffer;
  buffer.base_ = static_cast<std::uint8_t*>(base);
  buffer.capacity_ = capacity;
  if (mprotect(buffer.base_ + capacity, kGuardBytes.value, PROT_NONE) != 0) return ErrnoError("guarding a capture buffer");
  return buffer;
}

CaptureBuffer::~CaptureBuffer() {
  if (base_ != nullptr) munmap(base_, capacity_ + kGuardBytes.value);
}

std::uintptr_t CaptureBuffer::guard_end() const { return guard() + kGuardBytes.value; }

}  // namespace godwit::runtime
