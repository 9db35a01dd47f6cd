#include "compiler/partition_cache.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>

#include "package/files.h"
#include "package/package.h"

namespace godwit::compiler {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMagic = 0x3130'5041'5754'4447;  // "GDTWAP01"
constexpr std::size_t kDigestBytes = 71;                  // "sha256:" and 64 digits, of what follows it.
constexpr std::uint64_t kEntryBytesMax = 1ull << 30;

class Writer {
 public:
  Bytes bytes;
  template <typename T>
  void Put(T value) {
    const std::size_t at = bytes.size();
    bytes.resize(at + sizeof value);
    std::memcpy(bytes.data() + at, &value, sizeof value);
  }
};

// Reads past the end give zeros and are remembered.
class Reader {
 public:
  explicit Reader(ByteView bytes) : left_(bytes) {}
  template <typename T>
  T Take() {
    T value{};
    if (left_.size() < sizeof value) {
      short_ = true;
      left_ = {};
      return value;
    }
    std::memcpy(&value, left_.data(), sizeof value);
    left_ = left_.subspan(sizeof value);
    return value;
  }
  ByteView rest() const { return left_; }
  bool ok() const { return !short_; }

 private:
  ByteView left_;
  bool short_ = false;
};

}  // namespace

fs::path PartitionCache::PathOf(const std::string& key, package::Isa isa) const {
  return folder_ / (key.substr(key.find(':') + 1) + "." + std::string(package::IsaName(isa)));
}

std::optional<CompiledPartition> PartitionCache::Find(const std::string& key, package::Isa isa) const {
  if (folder_.empty()) return std::nullopt;
  const fs::path path = PathOf(key, isa);
  const auto file = package::MapFile(path, kEntryBytesMax);
  if (!file.ok() || file->bytes.size() < kDigestBytes) return std::nullopt;
  const ByteView content = file->bytes.subspan(kDigestBytes);
  if (AsText(file->bytes.first(kDigestBytes)) != package::Sha256Digest(content)) return std::nullopt;
  Reader in(content);
  if (in.Take<std::uint64_t>() != kMagic) return std::nullopt;
  CompiledPartition found;
  for (auto functions = in.Take<std::uint32_t>(); functions != 0 && in.ok(); --functions) {
    FunctionSafepoints& function = found.safepoints.emplace_back(FunctionSafepoints{in.Take<std::uint32_t>(), {}});
    for (auto records = in.Take<std::uint32_t>(); records != 0 && in.ok(); --records) {
      SafepointRecord& record = function.safepoints.emplace_back();
      record.kind = static_cast<SafepointKind>(in.Take<std::uint8_t>());
      record.payload_bytes = in.Take<std::uint32_t>();
      for (auto pointers = in.Take<std::uint32_t>(); pointers != 0 && in.ok(); --pointers) {
        record.memory_pointers.push_back(in.Take<std::uint32_t>());
      }
    }
  }
  if (!in.ok()) return std::nullopt;
  found.object.assign(in.rest().begin(), in.rest().end());
  utimensat(AT_FDCWD, path.c_str(), nullptr, 0);  // Used just now.
  return found;
}

void PartitionCache::Store(const std::string& key, package::Isa isa, const std::vector<FunctionSafepoints>& safepoints,
                           ByteView object) const {
  if (folder_.empty()) return;
  Writer out;
  out.Put(kMagic);
  out.Put(static_cast<std::uint32_t>(safepoints.size()));
  for (const FunctionSafepoints& function : safepoints) {
    out.Put(function.function);
    out.Put(static_cast<std::uint32_t>(function.safepoints.size()));
    for (const SafepointRecord& record : function.safepoints) {
      out.Put(static_cast<std::uint8_t>(record.kind));
      out.Put(record.payload_bytes);
      out.Put(static_cast<std::uint32_t>(record.memory_pointers.size()));
      for (const std::uint32_t offset : record.memory_pointers) out.Put(offset);
    }
  }
  out.bytes.insert(out.bytes.end(), object.begin(), object.end());
  const std::string digest = package::Sha256Digest(out.bytes);
  out.bytes.insert(out.bytes.begin(), digest.begin(), digest.end());
  std::error_code error;
  fs::create_directories(folder_, error);
  static std::atomic<unsigned> number = 0;
  const fs::path path = PathOf(key, isa);
  const std::string made = path.string() + "." + std::to_string(getpid()) + "." + std::to_string(number++);
  if (!package::WriteFile(made, out.bytes).ok() || rename(made.c_str(), path.c_str()) != 0) fs::remove(made, error);
}

void PartitionCache::Trim(ByteCount most) const {
  if (folder_.empty()) return;
  struct Entry {
    fs::file_time_type used;
    fs::path path;
    std::uint64_t bytes;
  };
  std::vector<Entry> entries;
  std::uint64_t total = 0;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    const auto used = fs::last_write_time(it->path(), gone);
    const std::uint64_t bytes = gone ? 0 : fs::file_size(it->path(), gone);
    if (gone) continue;
    entries.push_back({used, it->path(), bytes});
    total += bytes;
  }
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.used < b.used; });
  for (const Entry& entry : entries) {
    if (total <= most.value) break;
    fs::remove(entry.path, error);
    total -= entry.bytes;
  }
}

}  // namespace godwit::compiler
