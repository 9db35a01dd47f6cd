// What an instance leaves behind for the next one of its module: its memory, its tables, a capture buffer.
//
// Making these anew takes system calls and a page fault for every page that the guest touches. Taking them over costs
// a look at the pages that were touched: those that differ from the module's initial image are written back, so the
// next instance finds exactly what a new one would. Nothing goes from one module to another.
#pragma once

#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/capture_buffer.h"
#include "runtime/memory.h"

namespace godwit::runtime {

// Remains kept, per module.
inline constexpr std::size_t kRemainsMax = 8;
// Instances with larger memories leave nothing behind: it would keep physical memory from others.
inline constexpr ByteCount kRemainsMemoryMax = 4_MiB;

// Table elements, reserved up to the table's maximum so that they never move.
class TableElements {
 public:
  TableElements() = default;
  static Result<TableElements> Create(std::uint64_t maximum);
  TableElements(TableElements&& other) noexcept : data_(std::exchange(other.data_, nullptr)), bytes_(other.bytes_) {}
  TableElements& operator=(TableElements&&) = delete;
  ~TableElements();
  std::uint32_t* data() const { return data_; }
  bool Fits(std::uint64_t maximum) const { return bytes_ == BytesFor(maximum); }

 private:
  static std::uint64_t BytesFor(std::uint64_t maximum) { return maximum == 0 ? 1 : maximum * sizeof(std::uint32_t); }
  std::uint32_t* data_ = nullptr;
  std::uint64_t bytes_ = 0;
};

struct Remains {
  LinearMemory memory;  // As the guest left it.
  // All elements are null.
  std::vector<TableElements> tables;
  CaptureBuffer capture;  // May be none.
};

// Self-synchronised: instances of one module may be on many threads.
class RemainsPool {
 public:
  // Null if there are none.
  std::unique_ptr<Remains> Take();
  // Drops them when there are enough.
  void Give(std::unique_ptr<Remains> remains);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Remains>> remains_;
};

}  // namespace godwit::runtime
