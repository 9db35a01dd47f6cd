#include "runtime/file_window.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/check.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace godwit::runtime {

FileWindow::FileWindow(std::span<std::uint8_t> room) {
  const auto address = reinterpret_cast<std::uintptr_t>(room.data());
  const std::uint64_t skipped = (kAlignment - address % kAlignment) % kAlignment;
  if (room.size() < skipped + kAlignment) return;
  base_ = room.data() + skipped;
  bytes_ = (room.size() - skipped) / kAlignment * kAlignment;
}

Result<std::span<std::uint8_t>> FileWindow::Show(int file, std::uint64_t offset, std::uint64_t size) {
  GODWIT_CHECK(offset % kAlignment == 0, "a file is shown from an aligned offset on");
  const std::uint64_t bytes = std::min(bytes_, size - std::min(size, offset));
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t mapped = (bytes + page - 1) / page * page;  // Beyond its page a file's end faults.
  if (mapped < shown_) Clear();
  if (bytes == 0) return std::span<std::uint8_t>();
  if (mmap(base_, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, file, static_cast<off_t>(offset)) == MAP_FAILED) {
    return ErrnoError("mapping a file into a guest's memory");
  }
  shown_ = mapped;
  madvise(base_, mapped, MADV_HUGEPAGE);  // What is not in memory yet is read in huge pages.
  // Where the system does not know this, pages come as they are used.
  if (madvise(base_, mapped, MADV_POPULATE_READ) != 0 && errno != EINVAL) return ErrnoError("reading a file that is mapped into a guest's memory");
  return std::span(base_, bytes);
}

void FileWindow::Clear() {
  if (shown_ == 0) return;
  GODWIT_CHECK(mmap(base_, shown_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0) != MAP_FAILED,
               "a guest's memory could not be put back");
  shown_ = 0;
}

}  // namespace godwit::runtime
