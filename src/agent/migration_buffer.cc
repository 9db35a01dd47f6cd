#include "agent/migration_buffer.h"

#include <sys/mman.h>

#include <cstring>

#include "base/check.h"

namespace godwit::agent {

Status ArrivalBuffer::Reserve(std::uint64_t bytes) {
  if (bytes <= capacity_) return {};
  constexpr std::uint64_t kStep = 1 << 20;
  const std::uint64_t wanted = (bytes + kStep - 1) / kStep * kStep;
  void* memory = memory_ == nullptr
                     ? mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0)
                     : mremap(memory_, capacity_, wanted, MREMAP_MAYMOVE);
  if (memory == MAP_FAILED) return ErrnoError("memory for an arriving instance");
  memory_ = static_cast<std::uint8_t*>(memory);
  capacity_ = wanted;
  return {};
}

void ArrivalBuffer::Write(std::uint64_t offset, ByteView bytes) {
  GODWIT_CHECK(offset <= capacity_ && bytes.size() <= capacity_ - offset, "arrival buffer: write outside");
  if (!bytes.empty()) std::memcpy(memory_ + offset, bytes.data(), bytes.size());
}

void ArrivalBuffer::Free() {
  if (memory_ != nullptr) munmap(memory_, capacity_);
  memory_ = nullptr;
  capacity_ = 0;
}

}  // namespace godwit::agent
