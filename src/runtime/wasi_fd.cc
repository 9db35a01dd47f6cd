// fd_*: seeking, status, numbers and listing of open descriptors.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <limits>

#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u64 kOffsetMax = std::numeric_limits<std::int64_t>::max();

Errno Checked(int result) { return result == 0 ? Errno::kSuccess : FromHostErrno(errno); }

}  // namespace

Errno Calls::fd_seek(GuestCall& call, u32 fd, u64 offset, u32 whence, u32 result) {
  Descriptor* file;
  const bool only_tells = whence == kSeekCurrent && offset == 0;
  if (At(fd) != nullptr && (At(fd)->stream || At(fd)->is_socket())) return Errno::kSPipe;
  Errno error = FindFile(fd, only_tells ? right::kFdTell : right::kFdSeek, file);
  if (error == Errno::kNotCapable && only_tells) error = FindFile(fd, right::kFdSeek, file);
  if (error != Errno::kSuccess) return error;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, 8);
  if (out == nullptr) return Errno::kFault;
  if (whence > kSeekEnd) return Errno::kInval;
  const int host_whence = whence == kSeekSet ? SEEK_SET : whence == kSeekCurrent ? SEEK_CUR : SEEK_END;
  const off_t at = ::lseek(file->host.get(), static_cast<off_t>(offset), host_whence);
  if (at < 0) return FromHostErrno(errno);
  Put<u64>(out, static_cast<u64>(at));
  return Errno::kSuccess;
}

Errno Calls::fd_tell(GuestCall& call, u32 fd, u32 result) { return fd_seek(call, fd, 0, kSeekCurrent, result); }

Errno Calls::fd_advise(GuestCall&, u32 fd, u64 offset, u64 bytes, u32 advice) {
  static constexpr int kAdvice[] = {POSIX_FADV_NORMAL,   POSIX_FADV_SEQUENTIAL, POSIX_FADV_RANDOM,
                                    POSIX_FADV_WILLNEED, POSIX_FADV_DONTNEED,   POSIX_FADV_NOREUSE};
  Descriptor* file;
  if (const Errno error = FindFile(fd, right::kFdAdvise, file); error != Errno::kSuccess) return error;
  if (advice >= std::size(kAdvice) || offset > kOffsetMax || bytes > kOffsetMax) return Errno::kInval;
  return FromHostErrno(::posix_fadvise(file->host.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes),
                                       kAdvice[advice]));
}

Errno Calls::fd_allocate(GuestCall&, u32 fd, u64 offset, u64 bytes) {
  Descriptor* file;
  if (const Errno error = FindFile(fd, right::kFdAllocate, file); error != Errno::kSuccess) return error;
  if (bytes == 0) return Errno::kInval;
  if (offset > kOffsetMax || bytes > kOffsetMax - offset) return Errno::kFBig;
  return FromHostErrno(
      ::posix_fallocate(file->host.get(), static_cast<off_t>(offset), static_cast<off_t>(bytes)));
}

Errno Calls::fd_close(GuestCall&, u32 fd) {
  if (At(fd) == nullptr) return Errno::kBadF;
  Close(fd);
  return Errno::kSuccess;
}

Errno Calls::fd_datasync(GuestCall&, u32 fd) {
  Descriptor* found;
  if (const Errno error = Find(fd, right::kFdDatasync, found); error != Errno::kSuccess) return error;
  if (found->stream || found->is_socket()) return Errno::kInval;
  return Checked(::fdatasync(HostOf(*found)));
}

Errno Calls::fd_sync(GuestCall&, u32 fd) {
  Descriptor* found;
  if (const Errno error = Find(fd, right::kFdSync, found); error != Errno::kSuccess) return error;
  if (found->stream || found->is_socket()) return Errno::kInval;
  return Checked(::fsync(HostOf(*found)));
}

Errno Calls::fd_fdstat_get(GuestCall& call, u32 fd, u32 result) {
  const Descriptor* found = At(fd);
  if (found == nullptr) return Errno::kBadF;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, kFdstatBytes);
  if (out == nullptr) return Errno::kFault;
  std::memset(out, 0, kFdstatBytes);
  out[0] = static_cast<std::uint8_t>(found->type);
  Put<std::uint16_t>(out + 2, static_cast<std::uint16_t>(found->flags));
  Put<u64>(out + 8, found->rights);
  Put<u64>(out + 16, found->inheriting);
  return Errno::kSuccess;
}

Errno Calls::fd_fdstat_set_flags(GuestCall&, u32 fd, u32 flags) {
  Descriptor* found;
  if (const Errno error = Find(fd, right::kFdFdstatSetFlags, found); error != Errno::kSuccess) return error;
  if (flags & ~kFdFlagsAll) return Errno::kInval;
  if (found->is_directory()) return flags == found->flags ? Errno::kSuccess : Errno::kBadF;
  // Linux cannot change synchronous writing of an open file.
  constexpr u32 kFixed = kFdDsync | kFdRsync | kFdSyncFlag;
  if ((flags ^ found->flags) & kFixed) return Errno::kNotSup;
  if (found->kind == Kind::kFile) {
    if (::fcntl(found->host.get(), F_SETFL, HostFlags(flags)) != 0) return FromHostErrno(errno);
  } else if ((flags ^ found->flags) & kFdAppend) {
    return Errno::kNotSup;
  }
  found->flags = flags;
  return Errno::kSuccess;
}

Errno Calls::fd_fdstat_set_rights(GuestCall&, u32 fd, u64 rights, u64 inheriting) {
  Descriptor* found = At(fd);
  if (found == nullptr) return Errno::kBadF;
  if ((rights & ~found->rights) != 0 || (inheriting & ~found->inheriting) != 0) return Errno::kNotCapable;
  found->rights = rights;
  found->inheriting = inheriting;
  return Errno::kSuccess;
}

Errno Calls::fd_filestat_get(GuestCall& call, u32 fd, u32 result) {
  Descriptor* found;
  if (const Errno error = Find(fd, right::kFdFilestatGet, found); error != Errno::kSuccess) return error;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, kFilestatBytes);
  if (out == nullptr) return Errno::kFault;
  if (found->kind == Kind::kStream || found->is_socket()) {  // Nothing of this machine shows: elsewhere it is another one.
    std::memset(out, 0, kFilestatBytes);
    out[16] = static_cast<std::uint8_t>(found->type);
    return Errno::kSuccess;
  }
  struct stat status;
  if (::fstat(HostOf(*found), &status) != 0) return FromHostErrno(errno);
  PutFilestat(out, status);
  return Errno::kSuccess;
}

Errno Calls::fd_filestat_set_size(GuestCall&, u32 fd, u64 size) {
  Descriptor* file;
  if (const Errno error = FindFile(fd, right::kFdFilestatSetSize, file); error != Errno::kSuccess) return error;
  if (size > kOffsetMax) return Errno::kInval;
  return Checked(::ftruncate(file->host.get(), static_cast<off_t>(size)));
}

Errno Calls::fd_filestat_set_times(GuestCall&, u32 fd, u64 atim, u64 mtim, u32 flags) {
  Descriptor* found;
  if (const Errno error = Find(fd, right::kFdFilestatSetTimes, found); error != Errno::kSuccess) return error;
  if (found->kind == Kind::kStream || found->is_socket()) return Errno::kInval;
  if (ReadOnly(*found)) return Errno::kRoFs;
  timespec times[2];
  if (const Errno error = HostTimes(atim, mtim, flags, times); error != Errno::kSuccess) return error;
  return Checked(::futimens(HostOf(*found), times));
}

Errno Calls::fd_prestat_get(GuestCall& call, u32 fd, u32 result) {
  const Descriptor* found = At(fd);
  if (found == nullptr || found->kind != Kind::kPreopen) return Errno::kBadF;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, kPrestatBytes);
  if (out == nullptr) return Errno::kFault;
  Put<u32>(out, 0);  // Tag: a directory.
  Put<u32>(out + 4, static_cast<u32>(state_.folders[found->preopen].preopen.guest.size()));
  return Errno::kSuccess;
}

Errno Calls::fd_prestat_dir_name(GuestCall& call, u32 fd, u32 buffer, u32 bytes) {
  const Descriptor* found = At(fd);
  if (found == nullptr || found->kind != Kind::kPreopen) return Errno::kBadF;
  const std::string& name = state_.folders[found->preopen].preopen.guest;
  if (bytes < name.size()) return Errno::kNameTooLong;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(buffer, name.size());
  if (out == nullptr) return Errno::kFault;
  std::memcpy(out, name.data(), name.size());
  return Errno::kSuccess;
}

Errno Calls::fd_renumber(GuestCall&, u32 from, u32 to) {
  if (At(from) == nullptr || At(to) == nullptr) return Errno::kBadF;
  if (from == to) return Errno::kSuccess;
  Close(to);
  state_.descriptors[to] = std::exchange(state_.descriptors[from], std::nullopt);
  return Errno::kSuccess;
}

// Reads the whole directory, sorted by name, so that a cookie means the same entry after a move to another
// machine and entries that are removed meanwhile shift nothing.
Errno Calls::List(Descriptor& directory) {
  HostFd again(::openat(HostOf(directory), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!again.valid()) return FromHostErrno(errno);
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(again.get()), &::closedir);
  if (!stream) return FromHostErrno(errno);
  (void)again.release();
  directory.listing.reset();
  std::size_t listed = 0;
  for (const auto& other : state_.descriptors) {
    if (other && other->listing) listed += other->listing->size();
  }
  std::vector<ListedEntry> entries;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(stream.get());
    if (entry == nullptr) break;
    if (listed + entries.size() >= Wasi::kDirectoryEntriesMax) return Errno::kNoMem;
    static_assert(DT_DIR == (S_IFDIR >> 12) && DT_REG == (S_IFREG >> 12), "d_type holds the mode's type bits");
    entries.push_back({entry->d_name, entry->d_ino, FileTypeOfMode(static_cast<u32>(entry->d_type) << 12)});
  }
  if (errno != 0) return FromHostErrno(errno);
  std::sort(entries.begin(), entries.end(),
            [](const ListedEntry& a, const ListedEntry& b) { return a.name < b.name; });
  directory.listing = std::move(entries);
  return Errno::kSuccess;
}

Errno Calls::fd_readdir(GuestCall& call, u32 fd, u32 buffer, u32 bytes, u64 cookie, u32 result) {
  Descriptor* directory;
  if (const Errno error = FindDirectory(fd, right::kFdReaddir, directory); error != Errno::kSuccess) return error;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, 4);
  std::uint8_t* to = memory.Range(buffer, bytes);
  if (out == nullptr || to == nullptr) return Errno::kFault;
  if (cookie == 0 || !directory->listing) {
    if (const Errno error = List(*directory); error != Errno::kSuccess) return error;
  }
  const auto& entries = *directory->listing;
  u32 used = 0;
  const auto append = [&](const void* from, std::size_t size) {
    const u32 part = static_cast<u32>(std::min<std::size_t>(size, bytes - used));
    std::memcpy(to + used, from, part);
    used += part;
  };
  for (u64 i = cookie; i < entries.size() && used < bytes; ++i) {
    const ListedEntry& entry = entries[i];
    std::uint8_t header[kDirentBytes] = {};
    Put<u64>(header, i + 1);
    Put<u64>(header + 8, entry.inode);
    Put<u32>(header + 16, static_cast<u32>(entry.name.size()));
    header[20] = static_cast<std::uint8_t>(entry.type);
    append(header, sizeof header);
    append(entry.name.data(), entry.name.size());
  }
  Put<u32>(out, used);
  return Errno::kSuccess;
}

}  // namespace godwit::runtime::wasi
