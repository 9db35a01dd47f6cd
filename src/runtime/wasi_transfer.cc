// fd_read, fd_write, fd_pread and fd_pwrite: of files at once, of streams as far as they are ready.
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>

#include "runtime/into_guest.h"
#include "runtime/wasi_vectors.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

constexpr u32 kVectorsAtOnce = 64;  // Host iovecs on the guest's stack.
constexpr u64 kOffsetMax = std::numeric_limits<std::int64_t>::max();

}  // namespace

Errno Calls::fd_read(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result) {
  const Descriptor* found = At(fd);
  if (found != nullptr && found->kind == Kind::kListener) return Errno::kNotConn;
  if (found != nullptr && found->stream) return ReadStream(call, fd, vectors, count, result);
  return Transfer(call, fd, vectors, count, std::nullopt, result, false);
}

Errno Calls::fd_write(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result) {
  const Descriptor* found = At(fd);
  if (found != nullptr && found->stream) return WriteStream(call, fd, vectors, count, result);
  return Transfer(call, fd, vectors, count, std::nullopt, result, true);
}

Errno Calls::fd_pread(GuestCall& call, u32 fd, u32 vectors, u32 count, u64 offset, u32 result) {
  return Transfer(call, fd, vectors, count, offset, result, false);
}

Errno Calls::fd_pwrite(GuestCall& call, u32 fd, u32 vectors, u32 count, u64 offset, u32 result) {
  return Transfer(call, fd, vectors, count, offset, result, true);
}

Errno Calls::Transfer(GuestCall& call, u32 fd, u32 vectors, u32 count, std::optional<u64> offset, u32 result,
                      bool write) {
  Descriptor* file;
  const Rights needed = (write ? right::kFdWrite : right::kFdRead) | (offset ? right::kFdSeek : 0);
  if (const Errno error = FindFile(fd, needed, file); error != Errno::kSuccess) return error;
  const GuestMemory memory = call.memory();
  std::uint8_t* out = memory.Range(result, 4);
  if (out == nullptr) return Errno::kFault;
  u64 total;
  if (const Errno error = CheckVectors(memory, vectors, count, total); error != Errno::kSuccess) return error;
  if (offset && *offset > kOffsetMax) return Errno::kInval;

  const int host = file->host.get();
  u64 done = 0;
  u32 first = 0;
  do {
    iovec batch[kVectorsAtOnce];
    const u32 size = std::min(kVectorsAtOnce, count - first);
    u64 batch_bytes = 0;
    for (u32 i = 0; i < size; ++i) {
      const auto span = Vector(memory, vectors, first + i);
      batch[i] = {span.data(), span.size()};
      batch_bytes += span.size();
    }
    const ssize_t bytes = IntoGuest(write ? std::span<const iovec>() : std::span<const iovec>(batch, size), [&] {
      const int n = static_cast<int>(size);
      if (offset) {
        const off_t at = static_cast<off_t>(*offset + done);
        return write ? ::pwritev(host, batch, n, at) : ::preadv(host, batch, n, at);
      }
      return write ? ::writev(host, batch, n) : ::readv(host, batch, n);
    });
    if (bytes < 0) {
      if (done > 0) break;
      return FromHostErrno(errno);
    }
    done += static_cast<u64>(bytes);
    if (static_cast<u64>(bytes) < batch_bytes) break;
    first += size;
  } while (first < count);
  Put<u32>(out, static_cast<u32>(done));
  return Errno::kSuccess;
}

Errno Calls::ReadStream(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result) {
  for (;;) {
    Descriptor* found;
    if (const Errno error = Find(fd, right::kFdRead, found); error != Errno::kSuccess) return error;
    if (!found->stream) return Errno::kBadF;  // Another task put something else there while we waited.
    const GuestMemory memory = call.memory();
    std::uint8_t* out = memory.Range(result, 4);
    if (out == nullptr) return Errno::kFault;
    u64 total;
    if (const Errno error = CheckVectors(memory, vectors, count, total); error != Errno::kSuccess) return error;
    u64 done = 0;
    bool again = false;
    for (u32 i = 0; i < count; ++i) {
      const auto to = Vector(memory, vectors, i);
      if (to.empty()) continue;
      auto bytes = found->stream->TryRead(to);
      if (!bytes.ok()) {
        if (done > 0) break;
        return StreamErrno(bytes.error());
      }
      if (!*bytes) {
        again = done == 0;
        break;
      }
      done += **bytes;
      if (**bytes < to.size()) break;
    }
    if (!again) {
      Put<u32>(out, static_cast<u32>(done));
      return Errno::kSuccess;
    }
    if (found->flags & kFdNonblock) return Errno::kAgain;
    if (call.Block(WaitFor(*found->stream, POLLIN)) == Instance::Wait::kInterrupted) {
      call.Restart();
      return Errno::kSuccess;
    }
  }
}

// Writes all of it, as programs expect of a blocking descriptor; an interruption in between is remembered, and
// the restarted call goes on where it was.
Errno Calls::WriteStream(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 result) {
  const std::array<u32, 4> arguments{fd, vectors, count, result};
  u64 done = 0;
  if (const auto pending = TakePending(call.task(), kPendingWrite, arguments)) done = pending->value;
  for (;;) {
    Descriptor* found;
    if (const Errno error = Find(fd, right::kFdWrite, found); error != Errno::kSuccess) return error;
    if (!found->stream) return Errno::kBadF;
    const GuestMemory memory = call.memory();
    std::uint8_t* out = memory.Range(result, 4);
    if (out == nullptr) return Errno::kFault;
    u64 total;
    if (const Errno error = CheckVectors(memory, vectors, count, total); error != Errno::kSuccess) return error;
    done = std::min(done, total);
    u64 begin = 0;  // Of vector i within the whole.
    bool again = false;
    for (u32 i = 0; i < count && !again; ++i) {
      const auto vector = Vector(memory, vectors, i);
      const u64 end = begin + vector.size();
      while (done < end) {
        auto bytes = found->stream->TryWrite(vector.subspan(done - begin));
        if (!bytes.ok()) {
          if (done == 0) return StreamErrno(bytes.error());
          total = done;
          break;
        }
        if (!*bytes) {
          again = true;
          break;
        }
        done += **bytes;
      }
      begin = end;
      if (done >= total) break;
    }
    if (again && (found->flags & kFdNonblock)) {
      if (done == 0) return Errno::kAgain;
      again = false;
    }
    if (!again) {
      Put<u32>(out, static_cast<u32>(done));
      return Errno::kSuccess;
    }
    if (call.Block(WaitFor(*found->stream, POLLOUT)) == Instance::Wait::kInterrupted) {
      return Interrupted(call, kPendingWrite, arguments, done);
    }
  }
}

}  // namespace godwit::runtime::wasi
