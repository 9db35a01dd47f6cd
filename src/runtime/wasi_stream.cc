#include "runtime/wasi_stream.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstring>

#include "runtime/into_guest.h"

namespace godwit::runtime {
namespace {

// A pipe that poll() calls writable takes this much without blocking (POSIX: PIPE_BUF is atomic).
constexpr std::size_t kWriteStepBytes = PIPE_BUF;

bool PollNow(int fd, short events) {
  pollfd entry{fd, events, 0};
  int ready;
  do {
    ready = ::poll(&entry, 1, 0);
  } while (ready < 0 && errno == EINTR);
  return ready != 0;  // An error is found by the read or write that follows.
}

}  // namespace

std::shared_ptr<FdStream> FdStream::Borrow(int fd) { return std::shared_ptr<FdStream>(new FdStream(fd)); }

FdStream::FdStream(int fd) : fd_(fd), terminal_(::isatty(fd) == 1) {
  struct stat status;
  if (::fstat(fd, &status) == 0) polled_ = !S_ISREG(status.st_mode);
}

Result<std::optional<std::size_t>> FdStream::TryRead(std::span<std::uint8_t> to) {
  if (polled_ && !PollNow(fd_, POLLIN)) return std::optional<std::size_t>{};
  const ssize_t bytes = IntoGuest(to, [&] { return ::read(fd_, to.data(), to.size()); });
  if (bytes >= 0) return std::optional<std::size_t>(static_cast<std::size_t>(bytes));
  if (errno == EAGAIN) return std::optional<std::size_t>{};
  if (errno == EBADF) return Unsupported("stream: not open for reading");
  return ErrnoError("stream: read");
}

Result<std::optional<std::size_t>> FdStream::TryWrite(std::span<const std::uint8_t> from) {
  std::size_t step = from.size();
  if (polled_) {
    if (!PollNow(fd_, POLLOUT)) return std::optional<std::size_t>{};
    step = std::min(step, kWriteStepBytes);
  }
  ssize_t bytes;
  do {
    bytes = ::write(fd_, from.data(), step);
  } while (bytes < 0 && errno == EINTR);
  if (bytes >= 0) return std::optional<std::size_t>(static_cast<std::size_t>(bytes));
  if (errno == EAGAIN) return std::optional<std::size_t>{};
  if (errno == EBADF) return Unsupported("stream: not open for writing");
  return ErrnoError("stream: write");
}

std::optional<std::size_t> FdStream::Readable() {
  if (polled_ && !PollNow(fd_, POLLIN)) return std::nullopt;
  int bytes = 0;
  if (::ioctl(fd_, FIONREAD, &bytes) != 0 || bytes < 0) return 1;
  return static_cast<std::size_t>(bytes);
}

bool FdStream::Writable() { return !polled_ || PollNow(fd_, POLLOUT); }

Result<std::optional<std::size_t>> MemoryStream::TryRead(std::span<std::uint8_t> to) {
  if (input_.empty() && !closed_) return std::optional<std::size_t>{};
  const std::size_t bytes = std::min(to.size(), input_.size());
  std::memcpy(to.data(), input_.data(), bytes);
  input_.erase(0, bytes);
  return std::optional<std::size_t>(bytes);
}

Result<std::optional<std::size_t>> MemoryStream::TryWrite(std::span<const std::uint8_t> from) {
  const std::size_t bytes = std::min(from.size(), room_ - std::min(room_, output_.size()));
  if (bytes == 0) return std::optional<std::size_t>{};
  output_.append(reinterpret_cast<const char*>(from.data()), bytes);
  return std::optional<std::size_t>(bytes);
}

std::optional<std::size_t> MemoryStream::Readable() {
  if (input_.empty() && !closed_) return std::nullopt;
  return input_.size();
}

}  // namespace godwit::runtime
