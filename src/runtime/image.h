// A native image, checked and mapped: code of one module for this ISA, shared by all its instances.
//
// Nothing in the ELF file is believed before it was checked: every segment lies inside the blob, none is
// writable and executable, there is nothing to relocate, and every code offset of abi::ImageHeader leads into
// an executable segment. Whether the code itself is what the compiler wrote is the package digest's matter.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "package/native_abi.h"
#include "package/package.h"

namespace godwit::runtime {

inline constexpr std::uint32_t kImageSegmentsMax = 32;
inline constexpr std::uint64_t kImageSpanMax = 4ull << 30;  // Code offsets are 32-bit.

// Immutable.
class Image {
 public:
  // kCorrupt names what is wrong; kUnsupported for another machine or ABI version; kFailedPrecondition if the
  // image was built from another IR than `module` describes.
  static Result<std::unique_ptr<const Image>> Map(const package::Blob& blob, const fbs::Module& module);
  ~Image();
  Image(const Image&) = delete;
  Image& operator=(const Image&) = delete;

  std::uint32_t function_count() const { return header_->function_count; }
  // Indices must be in range. resume() is null where the function has no safepoint.
  abi::Code function(std::uint32_t index) const { return CodeAt(functions_[index]); }
  abi::Code resume(std::uint32_t index) const { return CodeAt(resumes_[index]); }
  // Distance from function(index) to its entry for tail calls; 0 where there is none.
  std::int32_t tail(std::uint32_t index) const { return tails_[index] == 0 ? 0 : tails_[index] - functions_[index]; }
  abi::Code entry(std::uint32_t type) const { return CodeAt(entries_[type]); }
  abi::Code reentry(std::uint32_t type) const { return CodeAt(reentries_[type]); }

  bool InText(std::uintptr_t pc) const {
    for (const Range& range : text_) {
      if (pc - range.begin < range.bytes) return true;
    }
    return false;
  }
  // The function whose code is nearest before `pc`: for messages only, since the compiler may split functions.
  std::optional<std::uint32_t> FunctionAt(std::uintptr_t pc) const;
  // "file:line" of the source that the instruction at `pc` comes from; empty where the image does not know.
  std::string SourceAt(std::uintptr_t pc) const;

 private:
  struct Range {
    std::uintptr_t begin;
    std::uint64_t bytes;
  };
  struct Named {
    std::uintptr_t begin;
    std::uint32_t function;  // ~0u: a thunk.
  };

  Image() = default;
  Status MapSegments(const package::Blob& blob);
  Status ReadHeader(const fbs::Module& module);
  Result<const std::int32_t*> CodeTable(std::int32_t offset, std::uint32_t count, const char* what, bool may_be_absent);
  bool Readable(std::uintptr_t begin, std::uint64_t bytes) const;
  Status ReadLines();
  abi::Code CodeAt(std::int32_t offset) const {
    return offset == 0 ? nullptr
                       : reinterpret_cast<abi::Code>(reinterpret_cast<std::uintptr_t>(header_) +
                                                     static_cast<std::intptr_t>(offset));
  }

  std::uint8_t* base_ = nullptr;
  std::uint64_t span_ = 0;
  std::uint64_t entry_address_ = 0;
  std::vector<Range> text_, readable_;
  const std::vector<Named>& names() const;

  mutable std::once_flag names_once_;
  mutable std::vector<Named> names_;  // Sorted; made at first use, since only messages need it.
  const abi::ImageHeader* header_ = nullptr;
  const abi::LineTable* lines_ = nullptr;
  const std::int32_t *functions_ = nullptr, *resumes_ = nullptr, *entries_ = nullptr, *reentries_ = nullptr,
                     *tails_ = nullptr;
  std::shared_ptr<const void> keep_;
};

}  // namespace godwit::runtime
