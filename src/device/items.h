// Work over a list of independent items, one small step each; its state is which item is next.
#pragma once

#include "device/arguments.h"
#include "device/function.h"

namespace godwit::device {

class ItemWork : public Work {
 public:
  ItemWork(std::size_t count, std::size_t next) : count_(count), next_(next) {}
  Result<bool> Run(const Source& source, const Pace& pace, Bytes* output) final {
    while (next_ < count_) {
      GODWIT_TRY(Item(source, next_, output));
      if (++next_ < count_ && pace.Over(output->size())) return false;
    }
    return true;
  }
  Result<Bytes> Save() final {
    const std::string text = nlohmann::json{{"next", next_}}.dump();
    return Bytes(text.begin(), text.end());
  }
  std::uint64_t read_bytes() const final { return read_bytes_; }

  // Of `state` as Save gives it, empty at the start. kCorrupt: none of Save's for `count` items.
  static Result<std::size_t> Next(const std::string& function, ByteView state, std::size_t count) {
    if (state.empty()) return std::size_t{0};
    Arguments saved("state of " + function, state);
    const std::size_t next = saved.Number("next", 0, 0, count);
    if (const Status status = saved.Finish(); !status.ok()) return Corrupt(status.error().message);
    return next;
  }

 protected:
  virtual Status Item(const Source& source, std::size_t number, Bytes* output) = 0;
  // `bytes` from `offset`, all of them; kCorrupt, with what they are, where the source ends before.
  Result<ByteView> Read(const Source& source, std::uint64_t offset, std::size_t bytes, std::string_view what, std::uint64_t number) {
    GODWIT_ASSIGN(const ByteView window, source.Window(offset, bytes, scratch_));
    if (window.size() != bytes) return Corrupt(std::string(what) + " " + std::to_string(number) + " ends too soon");
    read_bytes_ += bytes;
    return window;
  }
  void CountRead(std::uint64_t bytes) { read_bytes_ += bytes; }

 private:
  const std::size_t count_;
  std::size_t next_;
  std::uint64_t read_bytes_ = 0;
  Bytes scratch_;
};

}  // namespace godwit::device
