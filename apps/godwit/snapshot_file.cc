#include "snapshot_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "base/fresh_file.h"
#include "package/files.h"
#include "snapshot/layout.h"

namespace godwit::cli {
namespace {

// Gathers small writes; the first error sticks.
class FileWriter {
 public:
  explicit FileWriter(int fd) : fd_(fd) { buffer_.reserve(kBuffer); }
  Status Write(ByteView bytes) {
    if (buffer_.size() + bytes.size() > kBuffer) GODWIT_TRY(Flush());
    if (bytes.size() >= kBuffer) return Direct(bytes);
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    return {};
  }
  Status Flush() {
    GODWIT_TRY(Direct(buffer_));
    buffer_.clear();
    return {};
  }

 private:
  static constexpr std::size_t kBuffer = 256 << 10;
  Status Direct(ByteView bytes) { return WriteAll(fd_, bytes, "the snapshot"); }
  int fd_;
  Bytes buffer_;
};

}  // namespace

Status WriteSnapshotFile(const std::filesystem::path& path, const snapshot::Snapshot& snapshot) {
  GODWIT_ASSIGN(FreshFile made, MakeFileBeside(path));
  FileWriter writer(made.file.get());
  Status status = snapshot::Encode(snapshot, [&](ByteView bytes) { return writer.Write(bytes); });
  if (status.ok()) status = writer.Flush();
  if (close(made.file.Release()) != 0 && status.ok()) status = ErrnoError("writing the snapshot");
  if (status.ok() && rename(made.path.c_str(), path.c_str()) != 0) status = ErrnoError("cannot replace " + path.string());
  if (!status.ok()) unlink(made.path.c_str());
  return status;
}

void CarryPackage(snapshot::Snapshot& snapshot, const package::Package& package) {
  for (const package::Blob& blob : package.blobs()) snapshot.package.push_back({blob.digest, blob.bytes, 0});
}

Result<SnapshotFile> ReadSnapshotFile(const std::filesystem::path& path) {
  GODWIT_ASSIGN(package::Blob file, package::MapFile(path, snapshot::kFileBytesMax));
  Result<snapshot::Snapshot> snapshot = snapshot::Decode(file.bytes);
  if (!snapshot.ok()) return snapshot.error().Within(path.string());
  return SnapshotFile{std::move(file), std::move(*snapshot)};
}

Result<std::shared_ptr<const package::Package>> CarriedPackage(const SnapshotFile& file) {
  if (file.snapshot.package.empty()) return std::shared_ptr<const package::Package>();
  std::map<std::string, package::Blob> blobs;
  for (const snapshot::CarriedBlob& carried : file.snapshot.package) {
    blobs[carried.digest] = {carried.digest, carried.bytes, file.file.fd, carried.file_offset, file.file.keep};
  }
  return package::Package::FromBlobs(file.snapshot.package_digest, blobs);
}

}  // namespace godwit::cli
