// Lines of a part of a text, in runs of whole lines. A line belongs to the part in which its first byte lies.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "device/function.h"

namespace godwit::device {

inline constexpr std::size_t kRunBytes = 64 << 10;        // Of one run, unless one line is longer.
inline constexpr std::size_t kLineBytesMax = 128 << 10;

class Lines {
 public:
  // position: where to go on; nullopt at the start.
  Lines(Part part, std::optional<std::uint64_t> position);
  // The next run, each line with its '\n' but for the text's last one; empty at the part's end. Valid until the next call.
  // kInvalidArgument: a line is longer than kLineBytesMax.
  Result<std::string_view> Next(const Source& source, std::size_t run_bytes = kRunBytes);
  // Where the next run begins; what came before is done.
  std::uint64_t position() const { return position_; }
  std::uint64_t read_bytes() const { return read_bytes_; }

 private:
  const Part part_;
  std::uint64_t position_, read_bytes_ = 0;
  bool find_first_;
  Bytes scratch_;
};

}  // namespace godwit::device
