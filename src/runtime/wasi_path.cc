// path_*: every function resolves its paths with Resolve and then acts without following links.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;

Errno Checked(int result) { return result == 0 ? Errno::kSuccess : FromHostErrno(errno); }

bool IsDirectory(const Location& location) {
  struct stat status;
  return ::fstatat(location.at, location.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0 &&
         S_ISDIR(status.st_mode);
}

bool Exists(const Location& location) {
  struct stat status;
  return ::fstatat(location.at, location.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
}

}  // namespace

// `changes`: what follows writes to the folder, which a read-only one refuses.
Errno Calls::Locate(GuestCall& call, u32 fd, Rights needed, u32 path, u32 path_bytes, bool follow, bool changes,
                    Location& location, Descriptor*& directory) {
  if (const Errno error = FindDirectory(fd, needed, directory); error != Errno::kSuccess) return error;
  const GuestMemory memory = call.memory();
  const std::uint8_t* text = memory.Range(path, path_bytes);
  if (text == nullptr) return Errno::kFault;
  const Errno error = Resolve(HostOf(*directory), {reinterpret_cast<const char*>(text), path_bytes}, follow,
                              location);
  if (error != Errno::kSuccess) return error;
  location.path = JoinPath(directory->path, location.path);
  return changes && ReadOnly(*directory) ? Errno::kRoFs : Errno::kSuccess;
}

Errno Calls::path_create_directory(GuestCall& call, u32 fd, u32 path, u32 path_bytes) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathCreateDirectory, path, path_bytes, false, true, location,
                                 directory);
      error != Errno::kSuccess) {
    return error;
  }
  return Checked(::mkdirat(location.at, location.name.c_str(), 0777));
}

Errno Calls::path_filestat_get(GuestCall& call, u32 fd, u32 lookup, u32 path, u32 path_bytes, u32 result) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathFilestatGet, path, path_bytes, lookup & kLookupFollow,
                                 false, location, directory);
      error != Errno::kSuccess) {
    return error;
  }
  std::uint8_t* out = call.memory().Range(result, kFilestatBytes);
  if (out == nullptr) return Errno::kFault;
  struct stat status;
  if (::fstatat(location.at, location.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0) {
    return FromHostErrno(errno);
  }
  if (location.must_be_directory && !S_ISDIR(status.st_mode)) return Errno::kNotDir;
  PutFilestat(out, status);
  return Errno::kSuccess;
}

Errno Calls::path_filestat_set_times(GuestCall& call, u32 fd, u32 lookup, u32 path, u32 path_bytes, u64 atim,
                                     u64 mtim, u32 flags) {
  Location location;
  Descriptor* directory;
  timespec times[2];
  if (const Errno error = HostTimes(atim, mtim, flags, times); error != Errno::kSuccess) return error;
  if (const Errno error = Locate(call, fd, right::kPathFilestatSetTimes, path, path_bytes,
                                 lookup & kLookupFollow, true, location, directory);
      error != Errno::kSuccess) {
    return error;
  }
  if (location.must_be_directory && Exists(location) && !IsDirectory(location)) return Errno::kNotDir;
  return Checked(::utimensat(location.at, location.name.c_str(), times, AT_SYMLINK_NOFOLLOW));
}

Errno Calls::path_link(GuestCall& call, u32 from_fd, u32 lookup, u32 from, u32 from_bytes, u32 to_fd, u32 to,
                       u32 to_bytes) {
  Location source, target;
  Descriptor *source_directory, *target_directory;
  if (const Errno error = Locate(call, from_fd, right::kPathLinkSource, from, from_bytes, lookup & kLookupFollow,
                                 true, source, source_directory);
      error != Errno::kSuccess) {
    return error;
  }
  if (const Errno error = Locate(call, to_fd, right::kPathLinkTarget, to, to_bytes, false, true, target,
                                 target_directory);
      error != Errno::kSuccess) {
    return error;
  }
  if (source.must_be_directory && Exists(source) && !IsDirectory(source)) return Errno::kNotDir;
  if (target.must_be_directory && !Exists(target)) return Errno::kNoEnt;
  return Checked(::linkat(source.at, source.name.c_str(), target.at, target.name.c_str(), 0));
}

Errno Calls::path_open(GuestCall& call, u32 fd, u32 lookup, u32 path, u32 path_bytes, u32 open_flags, u64 rights,
                       u64 inheriting, u32 flags, u32 result) {
  if ((open_flags & ~kOpenFlagsAll) != 0 || (flags & ~kFdFlagsAll) != 0) return Errno::kInval;
  const bool create = open_flags & kOpenCreate, truncate = open_flags & kOpenTruncate;
  const bool exclusive = create && (open_flags & kOpenExclusive);
  if (create && (open_flags & kOpenDirectory)) return Errno::kInval;
  const Rights needed = right::kPathOpen | (create ? right::kPathCreateFile : 0) |
                        (truncate ? right::kPathFilestatSetSize : 0);
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, needed, path, path_bytes, (lookup & kLookupFollow) && !exclusive,
                                 false, location, directory);
      error != Errno::kSuccess) {
    return error;
  }
  std::uint8_t* out = call.memory().Range(result, 4);
  if (out == nullptr) return Errno::kFault;
  if (!HasRoom()) return Errno::kMFile;

  struct stat status;
  const bool exists = ::fstatat(location.at, location.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) == 0;
  if (exists && (S_ISFIFO(status.st_mode) || S_ISSOCK(status.st_mode))) return Errno::kNotSup;
  const bool wants_directory = (open_flags & kOpenDirectory) || location.must_be_directory;
  const bool directory_opened = wants_directory || (exists && S_ISDIR(status.st_mode));
  const Rights applicable = directory_opened ? right::kDirectory : right::kFile;
  // Rights that do not apply to this kind of file are left out (the specification allows just that).
  if ((rights & applicable & ~directory->inheriting) != 0 ||
      (directory_opened && (inheriting & right::kAll & (right::kFile | right::kDirectory) &
                            ~directory->inheriting) != 0)) {
    return Errno::kNotCapable;
  }
  const bool write = !wants_directory &&
                     (rights & (right::kFdWrite | right::kFdAllocate | right::kFdFilestatSetSize)) != 0;
  const bool read = (rights & (right::kFdRead | right::kFdReaddir)) != 0 || !write;
  if (ReadOnly(*directory) && (write || truncate || (create && !exists))) return Errno::kRoFs;
  if (wants_directory && create) return Errno::kIsDir;
  if (wants_directory && exists && S_ISDIR(status.st_mode) && (rights & right::kFdWrite) != 0) return Errno::kIsDir;

  Descriptor opened;
  opened.access = write ? (read ? Access::kReadWrite : Access::kWrite) : Access::kRead;
  int host_flags = (write ? (read ? O_RDWR : O_WRONLY) : O_RDONLY) | HostFlags(flags) | O_NOFOLLOW | O_CLOEXEC |
                   O_NOCTTY | O_NONBLOCK;  // Never to wait for a FIFO that got here in between.
  if (create && !ReadOnly(*directory)) host_flags |= O_CREAT;
  if (exclusive) host_flags |= O_EXCL;
  if (truncate) host_flags |= O_TRUNC;
  if (wants_directory) host_flags |= O_DIRECTORY;
  HostFd host(::openat(location.at, location.name.c_str(), host_flags, 0666));
  if (!host.valid()) {
    // A last link that is not to be followed is ELOOP also where Linux looks at O_DIRECTORY first.
    if (errno == ENOTDIR && exists && S_ISLNK(status.st_mode)) return Errno::kLoop;
    return FromHostErrno(errno);
  }
  if (const Errno error = Adopt(std::move(host), opened); error != Errno::kSuccess) return error;
  const bool is_directory = opened.kind == Kind::kDirectory;
  opened.rights = rights & (is_directory ? right::kDirectory : right::kFile) & directory->inheriting;
  opened.inheriting = is_directory ? inheriting & directory->inheriting : 0;
  if (opened.kind == Kind::kDevice) opened.rights &= right::kStream;
  opened.flags = is_directory ? 0 : flags;
  opened.preopen = directory->preopen;
  opened.counted = CountOpen(state_.folders[directory->preopen].preopen);
  opened.path = std::move(location.path);
  Put<u32>(out, Add(std::move(opened)));
  return Errno::kSuccess;
}

Errno Calls::path_readlink(GuestCall& call, u32 fd, u32 path, u32 path_bytes, u32 buffer, u32 bytes, u32 result) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathReadlink, path, path_bytes, false, false, location,
                                 directory);
      error != Errno::kSuccess) {
    return error;
  }
  const GuestMemory memory = call.memory();
  std::uint8_t *to = memory.Range(buffer, bytes), *out = memory.Range(result, 4);
  if (to == nullptr || out == nullptr) return Errno::kFault;
  char target[kPathBytesMax];
  const ssize_t size = ::readlinkat(location.at, location.name.c_str(), target, sizeof target);
  if (size < 0) return FromHostErrno(errno);
  const u32 used = std::min(bytes, static_cast<u32>(size));
  std::memcpy(to, target, used);
  Put<u32>(out, used);
  return Errno::kSuccess;
}

Errno Calls::path_remove_directory(GuestCall& call, u32 fd, u32 path, u32 path_bytes) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathRemoveDirectory, path, path_bytes, false, true, location,
                                 directory);
      error != Errno::kSuccess) {
    return error;
  }
  return Checked(::unlinkat(location.at, location.name.c_str(), AT_REMOVEDIR));
}

Errno Calls::path_rename(GuestCall& call, u32 from_fd, u32 from, u32 from_bytes, u32 to_fd, u32 to,
                         u32 to_bytes) {
  Location source, target;
  Descriptor *source_directory, *target_directory;
  if (const Errno error = Locate(call, from_fd, right::kPathRenameSource, from, from_bytes, false, true, source,
                                 source_directory);
      error != Errno::kSuccess) {
    return error;
  }
  if (const Errno error = Locate(call, to_fd, right::kPathRenameTarget, to, to_bytes, false, true, target,
                                 target_directory);
      error != Errno::kSuccess) {
    return error;
  }
  if ((source.must_be_directory || target.must_be_directory) && Exists(source) && !IsDirectory(source)) {
    return Errno::kNotDir;
  }
  if (::renameat(source.at, source.name.c_str(), target.at, target.name.c_str()) != 0) {
    return FromHostErrno(errno);
  }
  Renamed(source_directory->preopen, source.path, target_directory->preopen, target.path);
  return Errno::kSuccess;
}

// Open files at or beneath the old path are now at the new one.
void Calls::Renamed(u32 folder_from, const std::string& from, u32 folder_to, const std::string& to) {
  for (auto& descriptor : state_.descriptors) {
    if (!descriptor || !descriptor->is_opened() || descriptor->preopen != folder_from) continue;
    std::string& path = descriptor->path;
    const bool beneath = path.size() > from.size() && path.compare(0, from.size(), from) == 0 &&
                         path[from.size()] == '/';
    if (path != from && !beneath) continue;
    path = to + path.substr(from.size());
    descriptor->preopen = folder_to;
  }
}

Errno Calls::path_symlink(GuestCall& call, u32 target, u32 target_bytes, u32 fd, u32 path, u32 path_bytes) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathSymlink, path, path_bytes, false, true, location,
                                 directory);
      error != Errno::kSuccess) {
    return error;
  }
  const GuestMemory memory = call.memory();
  const auto* text = reinterpret_cast<const char*>(memory.Range(target, target_bytes));
  if (text == nullptr) return Errno::kFault;
  const std::string contents(text, target_bytes);
  if (contents.empty()) return Errno::kNoEnt;
  if (contents.size() > kPathBytesMax) return Errno::kNameTooLong;
  if (contents.find('\0') != contents.npos) return Errno::kIlSeq;
  if (contents.front() == '/') return Errno::kPerm;
  if (location.must_be_directory && !Exists(location)) return Errno::kNoEnt;
  return Checked(::symlinkat(contents.c_str(), location.at, location.name.c_str()));
}

Errno Calls::path_unlink_file(GuestCall& call, u32 fd, u32 path, u32 path_bytes) {
  Location location;
  Descriptor* directory;
  if (const Errno error = Locate(call, fd, right::kPathUnlinkFile, path, path_bytes, false, true, location,
                                 directory);
      error != Errno::kSuccess) {
    return error;
  }
  if (location.must_be_directory && Exists(location)) {
    return IsDirectory(location) ? Errno::kIsDir : Errno::kNotDir;
  }
  return Checked(::unlinkat(location.at, location.name.c_str(), 0));
}

}  // namespace godwit::runtime::wasi
