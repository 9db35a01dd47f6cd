// sock_*: connections that are accepted from listening sockets which were opened for the program.
#include <algorithm>
#include <cerrno>

#include "runtime/wasi_vectors.h"

namespace godwit::runtime::wasi {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

Descriptor ListenerDescriptor(std::uint64_t listener) {
  Descriptor descriptor;
  descriptor.kind = Kind::kListener;
  descriptor.type = FileType::kSocketStream;
  descriptor.rights = right::kListener;
  descriptor.inheriting = right::kConnection;
  descriptor.socket = listener;
  return descriptor;
}

Descriptor ConnectionDescriptor(std::uint64_t id, std::shared_ptr<Connection> connection) {
  Descriptor descriptor;
  descriptor.kind = Kind::kConnection;
  descriptor.type = FileType::kSocketStream;
  descriptor.rights = right::kConnection;
  descriptor.socket = id;
  descriptor.stream = std::move(connection);
  return descriptor;
}

Errno Calls::FindConnection(u32 fd, Rights needed, Descriptor*& found) {
  found = At(fd);
  if (found == nullptr) return Errno::kBadF;
  if (found->kind == Kind::kListener) return Errno::kNotConn;
  if (found->kind != Kind::kConnection) return Errno::kNotSock;
  return Find(fd, needed, found);
}

Errno Calls::sock_accept(GuestCall& call, u32 fd, u32 flags, u32 result) {
  for (;;) {
    Descriptor* listener = At(fd);
    if (listener == nullptr) return Errno::kBadF;
    if (!listener->is_socket()) return Errno::kNotSock;
    if (listener->kind != Kind::kListener) return Errno::kInval;
    if (const Errno error = Find(fd, right::kSockAccept, listener); error != Errno::kSuccess) return error;
    if ((flags & ~kFdNonblock) != 0) return Errno::kInval;
    std::uint8_t* out = call.memory().Range(result, 4);
    if (out == nullptr) return Errno::kFault;
    if (!HasRoom()) return Errno::kMFile;
    const auto accepted = options_.sockets->Accept(listener->socket);
    if (!accepted.ok()) return accepted.error().code == ErrorCode::kResourceExhausted ? Errno::kNFile : Errno::kIo;
    if (*accepted) {
      Descriptor connection = ConnectionDescriptor(**accepted, options_.sockets->Find(**accepted));
      connection.rights &= listener->inheriting;
      connection.flags = flags;
      Put<u32>(out, Add(std::move(connection)));
      return Errno::kSuccess;
    }
    if (listener->flags & kFdNonblock) return Errno::kAgain;
    Blocked blocked;
    blocked.fds.push_back({options_.sockets->poll_fd(listener->socket), POLLIN, 0});
    if (call.Block(std::move(blocked)) == Instance::Wait::kInterrupted) {
      call.Restart();
      return Errno::kSuccess;
    }
  }
}

// What was received before an interruption is in the guest's memory already; with kReceiveAll the call that is made
// again goes on behind it.
Errno Calls::sock_recv(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 flags, u32 result, u32 result_flags) {
  const std::array<u32, 4> arguments{fd, vectors, count, result};
  u64 done = 0;
  if (const auto pending = TakePending(call.task(), kPendingReceive, arguments)) done = pending->value;
  const bool peek = flags & kReceivePeek, all = (flags & kReceiveAll) && !peek;
  for (;;) {
    Descriptor* found;
    if (const Errno error = FindConnection(fd, right::kFdRead, found); error != Errno::kSuccess) return error;
    if ((flags & ~kReceiveFlagsAll) != 0) return Errno::kInval;
    const GuestMemory memory = call.memory();
    std::uint8_t *out = memory.Range(result, 4), *out_flags = memory.Range(result_flags, 2);
    if (out == nullptr || out_flags == nullptr) return Errno::kFault;
    u64 total;
    if (const Errno error = CheckVectors(memory, vectors, count, total); error != Errno::kSuccess) return error;
    auto& connection = static_cast<Connection&>(*found->stream);
    done = std::min(done, total);
    u64 begin = 0;  // Of vector i within the whole.
    bool again = false, ended = done == total;
    for (u32 i = 0; i < count && !again && !ended; ++i) {
      const auto vector = Vector(memory, vectors, i);
      const u64 end = begin + vector.size();
      while (done < end && !again && !ended) {
        const auto bytes = connection.TryReceive(vector.subspan(done - begin), peek);
        if (!bytes.ok()) {
          if (done == 0) return StreamErrno(bytes.error());
          ended = true;  // What came before counts; the next call finds the error.
        } else if (!*bytes) {
          again = true;
        } else {
          done += **bytes;
          // A second look would see the same bytes again.
          ended = **bytes == 0 || peek;
        }
      }
      begin = end;
    }
    if (!again || (done > 0 && !all) || (found->flags & kFdNonblock)) {
      if (again && done == 0) return Errno::kAgain;
      Put<u32>(out, static_cast<u32>(done));
      Put<std::uint16_t>(out_flags, 0);
      return Errno::kSuccess;
    }
    if (call.Block(WaitFor(connection, POLLIN)) == Instance::Wait::kInterrupted) {
      return Interrupted(call, kPendingReceive, arguments, done);
    }
  }
}

Errno Calls::sock_send(GuestCall& call, u32 fd, u32 vectors, u32 count, u32 flags, u32 result) {
  Descriptor* found;
  if (const Errno error = FindConnection(fd, right::kFdWrite, found); error != Errno::kSuccess) return error;
  if (flags != 0) return Errno::kInval;
  return WriteStream(call, fd, vectors, count, result);
}

Errno Calls::sock_shutdown(GuestCall&, u32 fd, u32 how) {
  Descriptor* found;
  if (const Errno error = FindConnection(fd, right::kSockShutdown, found); error != Errno::kSuccess) return error;
  if (how == 0 || (how & ~(kShutdownReads | kShutdownWrites)) != 0) return Errno::kInval;
  return FromHostErrno(static_cast<Connection&>(*found->stream).Shutdown(how & kShutdownReads, how & kShutdownWrites));
}

}  // namespace godwit::runtime::wasi
