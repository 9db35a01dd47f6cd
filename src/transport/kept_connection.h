// KeptConnection: a TCP connection that stays open while who uses it changes, for example because its user moved.
//
// Problem: a user that is interrupted asks again, perhaps from elsewhere, and must lose and double nothing. So every byte
// has its offset in its direction: what was received is kept until a later Read shows that it is known, and what is
// written again is skipped. Loop-bound.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "transport/event_loop.h"

namespace godwit::transport {

inline constexpr std::size_t kKeptBytesMax = 256 << 10;  // Received and not read, or written and not sent: each.

class KeptConnection {
 public:
  struct Received {
    Bytes bytes;
    bool ended = false;  // The peer sends no more. Neither bytes nor the end: nothing came in time.
  };

  virtual ~KeptConnection() = default;  // Closes it.
  // Bytes from `offset` on, at most `length`, as soon as there is one; those before `offset` are dropped. One Read waits at
  // a time: an earlier one is answered with kAborted. kInvalidArgument: an offset whose bytes were dropped or have not been
  // received. kUnavailable: the connection broke.
  virtual void Read(std::uint64_t offset, std::size_t length, std::chrono::milliseconds wait,
                    std::function<void(Result<Received>)> done) = 0;
  // Queues what of `bytes` (the first of which has `offset`) is new and fits, as soon as one does, and gives the offset
  // after the last byte taken. Errors as Read.
  virtual void Write(std::uint64_t offset, ByteView bytes, std::chrono::milliseconds wait,
                     std::function<void(Result<std::uint64_t>)> done) = 0;
};

// Resolves and connects; `done` on the loop, once. kUnavailable, kDeadlineExceeded.
void ConnectKept(EventLoop& loop, const std::string& host, std::uint16_t port, std::chrono::milliseconds timeout,
                 std::function<void(Result<std::shared_ptr<KeptConnection>>)> done);

}  // namespace godwit::transport
