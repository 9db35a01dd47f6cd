// FileWindow: a piece of a linear memory in which the guest sees a piece of a file, without a copy.
//
// Pages of the page cache are mapped over those of the guest, privately: what the guest writes there never reaches the file. It is
// cheaper than a copy where pieces are large, and by far so where they are aligned alike on both sides and the page cache holds the
// file in huge pages (docs/decisions/0024-data-in-place.md).
#pragma once

#include <cstdint>
#include <span>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::runtime {

// Used by its instance's thread only; destroyed before the instance.
class FileWindow {
 public:
  static constexpr std::uint64_t kAlignment = 2 << 20;  // Huge pages.

  // Takes what is aligned inside `room`, accessible linear memory that nobody else needs. bytes() is 0 if that is nothing.
  explicit FileWindow(std::span<std::uint8_t> room);
  ~FileWindow() { Clear(); }
  FileWindow(const FileWindow&) = delete;
  FileWindow& operator=(const FileWindow&) = delete;

  std::uint64_t bytes() const { return bytes_; }
  // What is shown now, in whole pages.
  std::span<const std::uint8_t> shown() const { return {base_, shown_}; }
  // Shows what is at `offset`, a multiple of kAlignment, in the first `size` bytes of the file: at most bytes() of them. They are
  // in memory already, or kUnavailable says why they could not be read. Where the file becomes shorter, or its pages are lost and cannot be
  // read again, an access faults: a guest's is a trap.
  Result<std::span<std::uint8_t>> Show(int file, std::uint64_t offset, std::uint64_t size);
  // Nothing of a file any more: zeros.
  void Clear();

 private:
  std::uint8_t* base_ = nullptr;
  std::uint64_t bytes_ = 0, shown_ = 0;
};

}  // namespace godwit::runtime
