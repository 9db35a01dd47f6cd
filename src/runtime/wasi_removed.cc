// Open files and directories that have no name any more: how they travel in a snapshot, and come to be again.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {
namespace {

// A new file in `folder` that has no name from the start, or loses it at once where the file system needs one.
HostFd NamelessFile(int folder) {
  HostFd file(::openat(folder, ".", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600));
  for (int attempt = 0; !file.valid() && (errno == EOPNOTSUPP || errno == EISDIR || errno == EEXIST) && attempt < 8; ++attempt) {
    const std::string name = ".godwit-removed-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
    file = HostFd(::openat(folder, name.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
    if (file.valid()) ::unlinkat(folder, name.c_str(), 0);
  }
  return file;
}

HostFd NamelessFolder(int folder) {
  HostFd made;
  for (int attempt = 0; !made.valid() && attempt < 8; ++attempt) {
    const std::string name = ".godwit-removed-" + std::to_string(::getpid()) + "-" + std::to_string(attempt);
    if (::mkdirat(folder, name.c_str(), 0700) != 0) {
      if (errno == EEXIST) continue;
      return {};
    }
    made = HostFd(::openat(folder, name.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    ::unlinkat(folder, name.c_str(), AT_REMOVEDIR);
  }
  return made;
}

}  // namespace

Result<Bytes> ContentsOf(int fd, const std::string& name, std::uint64_t bytes_max) {
  struct stat status;
  if (::fstat(fd, &status) != 0) return ErrnoError("WASI: removed file " + name);
  if (static_cast<std::uint64_t>(status.st_size) > bytes_max) {
    return FailedPrecondition("WASI: open file " + name + " was removed, and removed files hold more than " +
                              std::to_string(Wasi::kDetachedBytesMax) + " bytes: too many to take along");
  }
  // The descriptor may be for writing only.
  HostFd readable(::open(("/proc/self/fd/" + std::to_string(fd)).c_str(), O_RDONLY | O_CLOEXEC));
  if (!readable.valid()) return ErrnoError("WASI: reading removed file " + name);
  Bytes contents(static_cast<std::size_t>(status.st_size));
  for (std::size_t done = 0; done < contents.size();) {
    const ssize_t bytes = ::pread(readable.get(), contents.data() + done, contents.size() - done, static_cast<off_t>(done));
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return ErrnoError("WASI: reading removed file " + name);
    done += static_cast<std::size_t>(bytes);
  }
  return contents;
}

Result<Descriptor> Calls::Remake(const State& state, Descriptor saved, ByteView contents, u64 offset) const {
  const Folder& folder = state.folders[saved.preopen];
  const std::string name = "a file without a name in " + folder.preopen.host;
  if (folder.preopen.read_only) return FailedPrecondition("WASI: the snapshot needs " + name + ", which is read-only here");
  const Kind kind = saved.kind;
  HostFd host = kind == Kind::kDirectory ? NamelessFolder(folder.host.get()) : NamelessFile(folder.host.get());
  if (!host.valid()) return FailedPrecondition(ErrnoError("WASI: making " + name).message);
  for (std::size_t done = 0; done < contents.size();) {
    const ssize_t bytes = ::write(host.get(), contents.data() + done, contents.size() - done);
    if (bytes < 0 && errno == EINTR) continue;
    if (bytes <= 0) return FailedPrecondition(ErrnoError("WASI: filling " + name).message);
    done += static_cast<std::size_t>(bytes);
  }
  if (kind == Kind::kFile && (::lseek(host.get(), static_cast<off_t>(offset), SEEK_SET) < 0 ||
                              ::fcntl(host.get(), F_SETFL, HostFlags(saved.flags)) != 0)) {
    return FailedPrecondition(ErrnoError("WASI: making " + name).message);
  }
  if (Adopt(std::move(host), saved) != Errno::kSuccess || saved.kind != kind) return Internal("WASI: " + name + " is another kind of file");
  return saved;
}

}  // namespace godwit::runtime::wasi
