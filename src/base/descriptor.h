// Descriptor: a file descriptor, closed with its owner.
#pragma once

#include <unistd.h>

#include <utility>

namespace godwit {

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) close(fd_);
  }
  int get() const { return fd_; }  // Negative: none.
  int Release() { return std::exchange(fd_, -1); }  // For the caller to close.

 private:
  int fd_;
};

}  // namespace godwit
