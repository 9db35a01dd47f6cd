// What FlatBuffers' verifier (2.0.8) leaves to the reader of bytes from outside.
//
// It checks that everything lies inside the bytes, but (1) not that lists of structs and of 8-byte numbers are
// aligned, and (2) not how often a thing is referred to: a thousand tables may share one string of a megabyte, and a
// reader that copies would hold a gigabyte.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <flatbuffers/flatbuffers.h>

#include "base/bytes.h"

namespace godwit {

// The verifier checks alignment relative to the first byte: `bytes`, or `copy` of them if they lie elsewhere.
inline ByteView AlignedOrCopied(ByteView bytes, Bytes& copy) {
  if (reinterpret_cast<std::uintptr_t>(bytes.data()) % alignof(std::max_align_t) == 0) return bytes;
  copy.assign(bytes.begin(), bytes.end());
  return copy;
}

// Empty lists need not be aligned.
template <typename Element>
bool IsAligned(const flatbuffers::Vector<Element>& list) {
  return list.size() == 0 || reinterpret_cast<std::uintptr_t>(list.Data()) % alignof(std::remove_pointer_t<Element>) == 0;
}

// Counts what is copied out of some bytes: what writers of ours put in once is copied at most once, so that more than
// there are is refused.
class CopyBudget {
 public:
  explicit CopyBudget(std::uint64_t bytes) : left_(bytes) {}
  [[nodiscard]] bool Take(std::uint64_t bytes) {
    if (bytes > left_) return false;
    left_ -= bytes;
    return true;
  }

 private:
  std::uint64_t left_;
};

}  // namespace godwit
