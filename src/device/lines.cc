#include "device/lines.h"

#include <algorithm>

#include <fmt/format.h>

namespace godwit::device {

Lines::Lines(Part part, std::optional<std::uint64_t> position)
    : part_(part), position_(position.value_or(part.begin)), find_first_(!position && part.begin > 0) {}

Result<std::string_view> Lines::Next(const Source& source, std::size_t run_bytes) {
  while (find_first_) {
    // The byte before the part ends the line before it, or is in the middle of one that is another part's.
    GODWIT_ASSIGN(const ByteView window, source.Window(position_ - 1, kRunBytes, scratch_));
    const std::size_t end = AsText(window).find('\n');
    find_first_ = end == std::string_view::npos && !window.empty();
    position_ += end == std::string_view::npos ? window.size() : end;
    if (position_ >= part_.end) find_first_ = false;
  }
  if (position_ >= part_.end) return std::string_view();
  for (std::size_t bytes = run_bytes;; bytes = kLineBytesMax) {
    GODWIT_ASSIGN(const ByteView window, source.Window(position_, bytes, scratch_));
    std::string_view text = AsText(window);
    if (text.empty()) return text;
    const std::uint64_t inside = part_.end - position_;  // Bytes from here on that begin lines of this part.
    std::size_t end = inside < text.size() ? text.find('\n', inside - 1) : text.rfind('\n');
    if (end == std::string_view::npos && inside < text.size()) end = text.rfind('\n', inside - 1);  // A long line follows: the next run.
    if (end == std::string_view::npos) {
      if (text.size() == bytes && bytes < kLineBytesMax) continue;
      if (text.size() >= kLineBytesMax) {
        return InvalidArgument(fmt::format("the line at byte {} is longer than {} bytes", position_, kLineBytesMax));
      }
      end = text.size() - 1;  // The text's last line has no end.
    }
    text = text.substr(0, end + 1);
    position_ += text.size();
    read_bytes_ += text.size();
    return text;
  }
}

}  // namespace godwit::device
