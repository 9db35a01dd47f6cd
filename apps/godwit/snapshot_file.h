// Snapshots as files: written whole or not at all, read through one mapping that package and pages share.
#pragma once

#include <filesystem>
#include <memory>

#include "base/result.h"
#include "package/package.h"
#include "snapshot/snapshot.h"

namespace godwit::cli {

// Writes the encoding to `path`, replacing a file there only when all is written.
Status WriteSnapshotFile(const std::filesystem::path& path, const snapshot::Snapshot& snapshot);

// Puts all of the package's blobs into the snapshot; they point into the package.
void CarryPackage(snapshot::Snapshot& snapshot, const package::Package& package);

struct SnapshotFile {
  package::Blob file;           // Owns what the snapshot points into.
  snapshot::Snapshot snapshot;
};
Result<SnapshotFile> ReadSnapshotFile(const std::filesystem::path& path);

// The package that the snapshot carries, mapped from its file; null where it carries none.
Result<std::shared_ptr<const package::Package>> CarriedPackage(const SnapshotFile& file);

}  // namespace godwit::cli
