// Streams: what a guest's standard input, output and error are connected to.
//
// A stream never blocks: what cannot be done now is reported as such, and the instance then waits on poll_fd(),
// or, for a stream without one, until its owner calls Instance::Wake. Used by the instance's thread only
// unless an implementation says otherwise.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "runtime/wasi_paths.h"

namespace godwit::runtime {

class Stream {
 public:
  virtual ~Stream() = default;
  // Bytes read into `to` (not empty), 0 at the end, nullopt if there are none yet. An error's code
  // kUnavailable becomes the guest's EPIPE, kUnsupported EBADF, any other EIO.
  virtual Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) = 0;
  // Bytes taken of `from` (not empty), at least 1, or nullopt if there is no room yet.
  virtual Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) = 0;
  // Bytes that TryRead would find (0 at the end), or nullopt if none yet.
  virtual std::optional<std::size_t> Readable() = 0;
  virtual bool Writable() = 0;
  // What to wait on in poll(), or -1.
  virtual int poll_fd() const { return -1; }
  virtual bool is_terminal() const { return false; }
};

// A host file descriptor: terminal, pipe, socket or file. Leaves the descriptor's flags as they are, since
// other processes may share it. Writing to a pipe nobody reads raises SIGPIPE unless the process ignores it.
class FdStream final : public Stream {
 public:
  // `fd` stays the caller's and must outlive the stream.
  static std::shared_ptr<FdStream> Borrow(int fd);

  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override;
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override;
  bool Writable() override;
  int poll_fd() const override { return fd_; }
  bool is_terminal() const override { return terminal_; }

 private:
  explicit FdStream(int fd);
  int fd_;
  bool terminal_ = false;
  bool polled_ = true;  // False for regular files: they never block.
};

// In memory: what is written is kept in output(); what is fed is read. Bounded on the output side by `room`.
class MemoryStream final : public Stream {
 public:
  static constexpr std::size_t kRoomDefault = 1 << 20;
  explicit MemoryStream(std::string input = "", bool closed = true, std::size_t room = kRoomDefault)
      : input_(std::move(input)), closed_(closed), room_(room) {}

  void Feed(std::string_view more) { input_ += more; }
  void CloseInput() { closed_ = true; }
  // What was written since the last Take; makes room for as much.
  std::string Take() { return std::exchange(output_, {}); }
  const std::string& output() const { return output_; }

  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override;
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override;
  bool Writable() override { return output_.size() < room_; }

 private:
  std::string input_, output_;
  bool closed_;
  std::size_t room_;
};

}  // namespace godwit::runtime
