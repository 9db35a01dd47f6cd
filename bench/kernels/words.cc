// Words of a text are counted in a hash map of strings and sorted by count: allocation, hashing, comparison.
#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernel.h"

namespace {

// Not std::hash, which need not be the same in two standard libraries.
struct Hash {
  std::size_t operator()(const std::string& text) const {
    std::uint32_t sum = 2166136261u;
    for (char c : text) sum = (sum ^ static_cast<std::uint8_t>(c)) * 16777619u;
    return sum;
  }
};

std::string MakeText() {
  uint32_t seed = 1066;
  std::string text;
  while (text.size() < 600000) {
    uint32_t word = next_random(&seed) % 4096;
    word = word * word >> 12;  // Some words are more frequent.
    for (uint32_t k = 0, n = 2 + word % 9; k < n; k++) text += static_cast<char>('a' + (word * (k + 3) + k * k) % 26);
    text += next_random(&seed) % 9 ? " " : ". ";
  }
  return text;
}

}  // namespace

static uint64_t kernel(int round) {
  (void)round;
  static const std::string text = MakeText();
  uint64_t sum = 1;
  for (int pass = 0; pass < 12; pass++) {
    std::unordered_map<std::string, uint32_t, Hash> counts;
    for (std::size_t at = 0; at < text.size();) {
      std::size_t end = text.find_first_of(" .", at);
      if (end == std::string::npos) end = text.size();
      if (end > at) ++counts[text.substr(at, end - at)];
      at = end + 1;
    }
    std::vector<std::pair<std::string, uint32_t>> sorted(counts.begin(), counts.end());
    std::sort(sorted.begin(), sorted.end(), [](const auto& x, const auto& y) {
      return x.second != y.second ? x.second > y.second : x.first < y.first;
    });
    for (std::size_t i = 0; i < sorted.size(); i += 7) sum = mix(mix(sum, sorted[i].second), sorted[i].first.size());
  }
  return sum;
}
