// System calls that write to a guest's memory.
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>
#include <span>

namespace godwit::runtime {

// What `call` returns, a system call that writes to `vectors` of the guest's memory; made again where it was interrupted.
//
// While a move looks for written pages by mprotect (migration/page_tracker.h), the kernel fails with EFAULT where a store would be noticed
// and go on. Then the pages are stored to, and the call is made again; the next look may come in between, so more than once. The guest's
// thread alone.
template <typename Call>
ssize_t IntoGuest(std::span<const iovec> vectors, Call call) {
  constexpr std::uintptr_t kPage = 4096;
  constexpr int kTriesMax = 100;
  for (int tries = 0;;) {
    const ssize_t bytes = call();
    if (bytes >= 0 || (errno != EINTR && errno != EFAULT)) return bytes;
    if (errno == EINTR) continue;
    if (++tries == kTriesMax) return bytes;
    for (const iovec& vector : vectors) {
      auto* begin = static_cast<volatile std::uint8_t*>(vector.iov_base);
      for (std::uintptr_t at = 0; at < vector.iov_len; at += kPage - (reinterpret_cast<std::uintptr_t>(begin) + at) % kPage) begin[at] = begin[at];
    }
  }
}

template <typename Call>
ssize_t IntoGuest(std::span<std::uint8_t> to, Call call) {
  const iovec vector{to.data(), to.size()};
  return IntoGuest(std::span(&vector, 1), call);
}

}  // namespace godwit::runtime
