#include "package/files.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

namespace godwit::package {
namespace {

// The mapping and the descriptor of one file.
struct MappedFile {
  int fd = -1;
  void* data = nullptr;
  std::size_t size = 0;
  ~MappedFile() {
    if (data) munmap(data, size);
    if (fd >= 0) close(fd);
  }
};

}  // namespace

Result<Blob> MapFile(const std::filesystem::path& path, std::uint64_t size_max) {
  auto file = std::make_shared<MappedFile>();
  file->fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file->fd < 0) return ErrnoError(path.string());
  struct stat status;
  if (fstat(file->fd, &status) != 0) return ErrnoError(path.string());
  if (!S_ISREG(status.st_mode)) return Corrupt(path.string() + ": not a regular file");
  if (static_cast<std::uint64_t>(status.st_size) > size_max) {
    return Corrupt(path.string() + ": larger than " + std::to_string(size_max) + " bytes");
  }
  file->size = static_cast<std::size_t>(status.st_size);
  if (file->size != 0) {
    void* data = mmap(nullptr, file->size, PROT_READ, MAP_PRIVATE, file->fd, 0);
    if (data == MAP_FAILED) return ErrnoError(path.string());
    file->data = data;
  }
  Blob blob;
  blob.bytes = {static_cast<const std::uint8_t*>(file->data), file->size};
  blob.fd = file->fd;
  blob.keep = std::move(file);
  return blob;
}

Status WriteFile(const std::filesystem::path& path, ByteView bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoError(path.string());
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      const Error error = ErrnoError("cannot write " + path.string());
      close(fd);
      return error;
    }
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  if (close(fd) != 0) return ErrnoError("cannot write " + path.string());
  return {};
}

Status ReplaceFolder(const std::filesystem::path& made, const std::filesystem::path& path) {
  if (renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path.c_str(), RENAME_NOREPLACE) == 0) return {};
  if (errno == EEXIST || errno == ENOTEMPTY) {
    if (renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path.c_str(), RENAME_EXCHANGE) == 0) {
      std::error_code ignored;  // `made` is now the old folder; what cannot be removed does no harm.
      std::filesystem::remove_all(made, ignored);
      return {};
    }
  } else if (errno == EINVAL || errno == ENOSYS) {  // A file system without these flags.
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
    if (rename(made.c_str(), path.c_str()) == 0) return {};
  }
  return ErrnoError("cannot replace " + path.string());
}

}  // namespace godwit::package
