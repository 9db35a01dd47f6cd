// Computational storage functions (CSF): what a device runs over data, in small steps that can end anywhere and go on elsewhere.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::device {

// What a function reads: an object of the device's storage, or a range of function memory. Any thread.
class Source {
 public:
  virtual ~Source() = default;
  virtual std::uint64_t size() const = 0;
  // At most `bytes` from `offset`, fewer only at the end: where it lies, or copied to `scratch`, until either goes.
  virtual Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes& scratch) const = 0;
  // The file whose first size() bytes these are, to be mapped; open for as long as this lives. Nullopt: it is none.
  virtual std::optional<int> file() const { return std::nullopt; }
  // kCorrupt, naming the place, unless `bytes`, read from that file, are what was put there: from `offset`, a multiple of
  // kCheckedBytes, to another one or to the end. Window does that by itself.
  virtual Status Check(std::uint64_t /*offset*/, ByteView /*bytes*/) const { return {}; }
  static constexpr std::uint64_t kCheckedBytes = 4096;
};

// Bytes in memory. `owner` keeps them; null: they outlive this.
class BytesSource final : public Source {
 public:
  explicit BytesSource(ByteView bytes, std::shared_ptr<const void> owner = nullptr) : bytes_(bytes), owner_(std::move(owner)) {}
  std::uint64_t size() const override { return bytes_.size(); }
  Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes&) const override {
    const ByteView rest = bytes_.subspan(std::min<std::uint64_t>(offset, bytes_.size()));
    return rest.first(std::min(bytes, rest.size()));
  }

 private:
  const ByteView bytes_;
  const std::shared_ptr<const void> owner_;
};

// How long work may go on. Asked after each small step: about 64 KiB of data, or 100 us.
class Pace {
 public:
  virtual ~Pace() = default;
  virtual bool Over(std::size_t output_bytes) const = 0;
  // For who watches over work that does not ask itself: how long it is to rest now.
  virtual std::chrono::microseconds Owed() const { return std::chrono::microseconds(0); }
};

// The part of a source that one request is about. A record belongs to the part in which its first byte lies.
struct Part {
  std::uint64_t begin = 0, end = 0;
};

// One request's work. One thread at a time.
class Work {
 public:
  virtual ~Work() = default;
  // Goes on until it has finished (true) or `pace` is over (false), and appends its output; it may be called again then, with the
  // same source. After an error it is of no use.
  virtual Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) = 0;
  // What Begin needs to go on after the output so far, on any device. At most kDataBytesMax, or kResourceExhausted.
  virtual Result<Bytes> Save() = 0;
  virtual std::uint64_t read_bytes() const = 0;
};

// Immutable.
class Function {
 public:
  virtual ~Function() = default;
  virtual std::string_view name() const = 0;
  // kInvalidArgument naming what is wrong with the arguments; kCorrupt: `state` (empty at the start) is none of Save's.
  virtual Result<std::unique_ptr<Work>> Begin(ByteView arguments, ByteView state, Part part) const = 0;
  // What Begin's work takes so little time that a switch of threads would be felt.
  virtual bool brief(ByteView /*arguments*/, Part part) const { return part.end - part.begin <= 4096; }
};

}  // namespace godwit::device
