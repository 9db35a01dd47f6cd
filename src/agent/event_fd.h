// A wake-up that poll() sees. Any thread may signal it; shared by whoever may have to.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>

#include "base/check.h"

namespace godwit::agent {

class EventFd {
 public:
  EventFd() : fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) { GODWIT_CHECK(fd_ >= 0, "no eventfd: out of file descriptors"); }
  ~EventFd() { close(fd_); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;
  int fd() const { return fd_; }
  void Signal() {
    const std::uint64_t one = 1;
    [[maybe_unused]] const auto written = write(fd_, &one, sizeof one);  // A full counter is readable already.
  }
  void Drain() {
    std::uint64_t count;
    [[maybe_unused]] const auto got = read(fd_, &count, sizeof count);
  }

 private:
  int fd_;
};

}  // namespace godwit::agent
