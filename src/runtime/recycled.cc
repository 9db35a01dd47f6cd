#include "runtime/recycled.h"

#include <sys/mman.h>

namespace godwit::runtime {

Result<TableElements> TableElements::Create(std::uint64_t maximum) {
  TableElements elements;
  elements.bytes_ = BytesFor(maximum);
  void* data = mmap(nullptr, elements.bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) return ErrnoError("reserving a table");
  elements.data_ = static_cast<std::uint32_t*>(data);
  return elements;
}

TableElements::~TableElements() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

std::unique_ptr<Remains> RemainsPool::Take() {
  std::lock_guard lock(mutex_);
  if (remains_.empty()) return nullptr;
  std::unique_ptr<Remains> taken = std::move(remains_.back());
  remains_.pop_back();
  return taken;
}

void RemainsPool::Give(std::unique_ptr<Remains> remains) {
  std::lock_guard lock(mutex_);
  if (remains_.size() < kRemainsMax) remains_.push_back(std::move(remains));
}

}  // namespace godwit::runtime
