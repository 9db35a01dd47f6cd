// A key-value store of strings: a skip list in memory, flushed to sorted runs that are merged and searched.
#include <algorithm>
#include <string>
#include <vector>

#include "kernel.h"

namespace {

struct Entry {
  std::string key, value;
};

class SkipList {
 public:
  SkipList() : head_(kLevels, 0) { nodes_.push_back({}); }
  void Put(const std::string& key, const std::string& value, std::uint32_t random) {
    std::uint32_t before[kLevels];
    std::uint32_t at = 0;
    for (int level = kLevels - 1; level >= 0; level--) {
      for (std::uint32_t next; (next = Next(at, level)) != 0 && nodes_[next].entry.key < key;) at = next;
      before[level] = at;
    }
    const std::uint32_t found = Next(before[0], 0);
    if (found != 0 && nodes_[found].entry.key == key) {
      nodes_[found].entry.value = value;
      return;
    }
    int levels = 1;
    for (; levels < kLevels && (random & 3) == 0; levels++) random >>= 2;
    const std::uint32_t made = static_cast<std::uint32_t>(nodes_.size());
    nodes_.push_back({{key, value}, std::vector<std::uint32_t>(static_cast<std::size_t>(levels))});
    for (int level = 0; level < levels; level++) {
      nodes_[made].next[level] = Next(before[level], level);
      (before[level] ? nodes_[before[level]].next[level] : head_[level]) = made;
    }
  }
  std::vector<Entry> Take() {
    std::vector<Entry> entries;
    for (std::uint32_t at = head_[0]; at != 0; at = nodes_[at].next[0]) entries.push_back(std::move(nodes_[at].entry));
    nodes_.resize(1);
    std::fill(head_.begin(), head_.end(), 0);
    return entries;
  }
  std::size_t size() const { return nodes_.size() - 1; }

 private:
  static constexpr int kLevels = 8;
  struct Node {
    Entry entry;
    std::vector<std::uint32_t> next;
  };
  std::uint32_t Next(std::uint32_t at, int level) const { return at ? nodes_[at].next[level] : head_[level]; }
  std::vector<Node> nodes_;
  std::vector<std::uint32_t> head_;
};

const std::string* Find(const std::vector<Entry>& run, const std::string& key) {
  const auto found = std::lower_bound(run.begin(), run.end(), key, [](const Entry& e, const std::string& k) { return e.key < k; });
  return found != run.end() && found->key == key ? &found->value : nullptr;
}

std::vector<Entry> Merge(const std::vector<Entry>& older, const std::vector<Entry>& newer) {
  std::vector<Entry> merged;
  merged.reserve(older.size() + newer.size());
  std::size_t i = 0, j = 0;
  while (i < older.size() || j < newer.size()) {
    const int order = i == older.size() ? 1 : j == newer.size() ? -1 : older[i].key.compare(newer[j].key);
    if (order < 0) {
      merged.push_back(older[i++]);
    } else {
      i += order == 0;
      merged.push_back(newer[j++]);
    }
  }
  return merged;
}

std::string KeyOf(std::uint32_t number) {
  std::string key = "user/";
  for (int shift = 28; shift >= 0; shift -= 4) key += "0123456789abcdef"[number >> shift & 15];
  return key;
}

}  // namespace

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 1984;
  SkipList recent;
  std::vector<Entry> run;
  uint64_t sum = 1;
  for (int i = 0; i < 30000; i++) {
    const uint32_t r = next_random(&seed);
    recent.Put(KeyOf(r % 20000), std::string(8 + r % 40, static_cast<char>('a' + r % 26)), next_random(&seed));
    if (recent.size() >= 3000) run = Merge(run, recent.Take());
    if (i % 4 == 0) {
      const std::string* found = Find(run, KeyOf(next_random(&seed) % 20000));
      sum = mix(sum, found ? found->size() : 0);
    }
  }
  return mix(sum, run.size());
}
