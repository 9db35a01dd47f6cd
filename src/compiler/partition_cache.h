// The cache of compiled partitions: a folder of files, one for a partition's key and an ISA.
//
// Entries appear whole and are checked when they are read: a damaged one is as good as none. Trim removes those that
// were used longest ago. Several processes may use one folder. Self-synchronised: any thread.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "compiler/safepoint_records.h"
#include "package/isa.h"

namespace godwit::compiler {

// What Trim leaves at most.
inline constexpr ByteCount kPartitionCacheBytesMax = 2_GiB;

// What comes of one partition for one ISA.
struct CompiledPartition {
  std::vector<FunctionSafepoints> safepoints;
  Bytes object;
};

class PartitionCache {
 public:
  // A cache in `folder`, which is made at the first Store. An empty path: no cache, nothing is found or kept.
  explicit PartitionCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

  std::optional<CompiledPartition> Find(const std::string& key, package::Isa isa) const;
  // Best effort: a cache that cannot be written only makes the next build longer.
  void Store(const std::string& key, package::Isa isa, const std::vector<FunctionSafepoints>& safepoints, ByteView object) const;
  void Trim(ByteCount most = kPartitionCacheBytesMax) const;

 private:
  std::filesystem::path PathOf(const std::string& key, package::Isa isa) const;
  const std::filesystem::path folder_;
};

}  // namespace godwit::compiler
