// The descriptor table: lookup with rights, numbers, and what a descriptor is on the host.
#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>

#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {

Descriptor* Calls::At(u32 fd) {
  if (fd >= state_.descriptors.size() || !state_.descriptors[fd]) return nullptr;
  return &*state_.descriptors[fd];
}

Errno Calls::Find(u32 fd, Rights needed, Descriptor*& found) {
  found = At(fd);
  if (found == nullptr) return Errno::kBadF;
  return (needed & ~found->rights) == 0 ? Errno::kSuccess : Errno::kNotCapable;
}

Errno Calls::FindFile(u32 fd, Rights needed, Descriptor*& found) {
  found = At(fd);
  if (found == nullptr || found->is_directory()) return Errno::kBadF;
  if (found->kind != Kind::kFile) return Errno::kSPipe;
  return Find(fd, needed, found);
}

Errno Calls::FindDirectory(u32 fd, Rights needed, Descriptor*& found) {
  found = At(fd);
  if (found == nullptr) return Errno::kBadF;
  if (!found->is_directory()) return Errno::kNotDir;
  return Find(fd, needed, found);
}

bool Calls::HasRoom() const {
  if (state_.descriptors.size() < Wasi::kDescriptorsMax) return true;
  for (const auto& descriptor : state_.descriptors) {
    if (!descriptor) return true;
  }
  return false;
}

Calls::u32 Calls::Add(Descriptor descriptor) {
  for (u32 fd = 0; fd < state_.descriptors.size(); ++fd) {
    if (!state_.descriptors[fd]) {
      state_.descriptors[fd] = std::move(descriptor);
      return fd;
    }
  }
  GODWIT_CHECK(state_.descriptors.size() < Wasi::kDescriptorsMax, "descriptor table is full");
  state_.descriptors.emplace_back(std::move(descriptor));
  return static_cast<u32>(state_.descriptors.size() - 1);
}

void Calls::Close(u32 fd) {
  const Descriptor& descriptor = *state_.descriptors[fd];
  if (descriptor.kind == Kind::kConnection) options_.sockets->Close(descriptor.socket);
  state_.descriptors[fd].reset();
}

int Calls::HostOf(const Descriptor& descriptor) const {
  return descriptor.kind == Kind::kPreopen ? state_.folders[descriptor.preopen].host.get()
                                           : descriptor.host.get();
}

bool Calls::ReadOnly(const Descriptor& descriptor) const {
  return (descriptor.is_opened() || descriptor.kind == Kind::kPreopen) &&
         state_.folders[descriptor.preopen].preopen.read_only;
}

std::optional<Calls::Pending> Calls::TakePending(TaskId task, u32 call, const std::array<u32, 4>& arguments) {
  if (state_.pending.empty()) return std::nullopt;
  const auto found = state_.pending.find(task);
  if (found == state_.pending.end()) return std::nullopt;
  const Pending pending = found->second;
  state_.pending.erase(found);
  if (pending.call != call || pending.arguments != arguments) return std::nullopt;
  return pending;
}

Errno Calls::Interrupted(GuestCall& call, u32 which, const std::array<u32, 4>& arguments, u64 value) {
  // Tasks that were abandoned leave theirs behind; the lowest number is the oldest task.
  if (state_.pending.size() >= kPendingMax) state_.pending.erase(state_.pending.begin());
  state_.pending[call.task()] = Pending{which, arguments, value};
  call.Restart();
  return Errno::kSuccess;
}

std::shared_ptr<void> CountOpen(const Preopen& preopen) {
  if (!preopen.open_here) return nullptr;
  ++*preopen.open_here;
  return {nullptr, [open = preopen.open_here](void*) { --*open; }};
}

Errno Adopt(HostFd host, Descriptor& descriptor) {
  struct stat status;
  if (::fstat(host.get(), &status) != 0) return FromHostErrno(errno);
  descriptor.type = FileTypeOfMode(status.st_mode);
  switch (descriptor.type) {
    case FileType::kRegularFile:
    case FileType::kBlockDevice:
      descriptor.kind = Kind::kFile;
      break;
    case FileType::kDirectory:
      descriptor.kind = Kind::kDirectory;
      break;
    case FileType::kCharacterDevice:
      descriptor.kind = Kind::kDevice;
      descriptor.stream = FdStream::Borrow(host.get());
      break;
    default:
      return Errno::kNotSup;
  }
  descriptor.host = std::move(host);
  return Errno::kSuccess;
}

void PutFilestat(std::uint8_t* to, const struct stat& status) {
  const auto nanoseconds = [](const timespec& time) {
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
  };
  std::memset(to, 0, kFilestatBytes);
  Put<std::uint64_t>(to, status.st_dev);
  Put<std::uint64_t>(to + 8, status.st_ino);
  to[16] = static_cast<std::uint8_t>(FileTypeOfMode(status.st_mode));
  Put<std::uint64_t>(to + 24, status.st_nlink);
  Put<std::uint64_t>(to + 32, static_cast<std::uint64_t>(status.st_size));
  Put<std::uint64_t>(to + 40, nanoseconds(status.st_atim));
  Put<std::uint64_t>(to + 48, nanoseconds(status.st_mtim));
  Put<std::uint64_t>(to + 56, nanoseconds(status.st_ctim));
}

Errno HostTimes(std::uint64_t atim, std::uint64_t mtim, std::uint32_t flags, timespec (&times)[2]) {
  if ((flags & ~kSetTimesAll) != 0 || (flags & (kSetAtim | kSetAtimNow)) == (kSetAtim | kSetAtimNow) ||
      (flags & (kSetMtim | kSetMtimNow)) == (kSetMtim | kSetMtimNow)) {
    return Errno::kInval;
  }
  const auto time = [](std::uint64_t nanoseconds, bool given, bool now) {
    timespec result{};
    if (given) {
      result.tv_sec = static_cast<time_t>(nanoseconds / 1'000'000'000);
      result.tv_nsec = static_cast<long>(nanoseconds % 1'000'000'000);
    } else {
      result.tv_nsec = now ? UTIME_NOW : UTIME_OMIT;
    }
    return result;
  };
  times[0] = time(atim, flags & kSetAtim, flags & kSetAtimNow);
  times[1] = time(mtim, flags & kSetMtim, flags & kSetMtimNow);
  return Errno::kSuccess;
}

std::string JoinPath(const std::string& folder, const std::string& path) {
  if (folder.empty() || path.empty()) return folder + path;
  return folder + "/" + path;
}

int HostFlags(std::uint32_t fdflags) {
  int flags = 0;
  if (fdflags & kFdAppend) flags |= O_APPEND;
  if (fdflags & kFdDsync) flags |= O_DSYNC;
  if (fdflags & (kFdSyncFlag | kFdRsync)) flags |= O_SYNC;
  return flags;
}

}  // namespace godwit::runtime::wasi
