// Path resolution that cannot leave a folder: the sandbox of every path_* function.
//
// The path is walked component by component with openat(O_NOFOLLOW); symbolic links are read and expanded
// here, never by the kernel, and ".." pops the walk's own stack of open directories. So neither "..", nor a
// link, nor a rename that races with the walk leads outside the root. Absolute paths and links are refused.
#pragma once

#include <string>
#include <string_view>

#include "runtime/wasi_abi.h"

namespace godwit::runtime::wasi {

inline constexpr std::size_t kPathBytesMax = 4096;   // One path, and one link's target.
inline constexpr int kPathLinksMax = 40;             // Links expanded in one resolution, as in Linux.
inline constexpr std::size_t kPathDepthMax = 256;    // Directories open at once during one resolution.

// Owns a host file descriptor; -1 is none.
class HostFd {
 public:
  HostFd() = default;
  explicit HostFd(int fd) : fd_(fd) {}
  HostFd(HostFd&& other) noexcept : fd_(other.release()) {}
  HostFd& operator=(HostFd&& other) noexcept {
    if (this != &other) {
      reset();
      fd_ = other.release();
    }
    return *this;
  }
  ~HostFd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset();

 private:
  int fd_ = -1;
};

// Where a path leads: `name` in the open directory `at`. The name's last component was not followed unless
// asked for, so whatever uses it must not follow links either.
struct Location {
  int at = -1;
  HostFd owned;      // Holds `at` open unless it is the root itself.
  std::string name;  // One component, or "." if the path leads to a directory of the walk itself.
  std::string path;  // From the root, without links, "." or ".."; empty for the root.
  bool must_be_directory = false;  // The path ended in a slash.
};

// Resolves `path` beneath the directory `root`. `follow_last`: a link as the last component is expanded too.
// kPerm if it leads outside, kNoEnt, kNotDir, kLoop, kNameTooLong, kIlSeq (a NUL in it) or a host's error.
Errno Resolve(int root, std::string_view path, bool follow_last, Location& location);

}  // namespace godwit::runtime::wasi
