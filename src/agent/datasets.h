// Datasets: the named data that lives on this device, as files of one folder. On a device of class cpm they are
// memory-mapped, as its persistent memory is; elsewhere they are read with pread.
//
// A dataset is a folder data/NAME that takes the place of the one before in one step, once all of it is on the disk: `bytes`, the data;
// `sums`, the XXH3-64 of each 4096 bytes of it, by which damage is found whenever they are read (docs/formats/dataset.md); `info`.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"

namespace godwit::agent {

// Immutable; a replaced or removed dataset can be read on until this is dropped. Any thread.
class Dataset {
 public:
  virtual ~Dataset() = default;
  virtual std::uint64_t size() const = 0;
  // Bytes read: fewer than asked only at the end. The pages may come from the disk: this may block for that long. kCorrupt names
  // the place that is damaged.
  virtual Result<std::size_t> Read(std::uint64_t offset, std::span<std::uint8_t> to) const = 0;
  virtual int file() const = 0;  // Whose first size() bytes it is.
  // kCorrupt unless `bytes` are what was put at `offset`, a multiple of kBlockBytes; they end at another one or with the dataset.
  virtual Status Check(std::uint64_t offset, ByteView bytes) const = 0;
  static constexpr std::uint64_t kBlockBytes = 4096;
};

struct DatasetInfo {
  model::DatasetName name;
  std::uint64_t bytes = 0;
  std::string digest;  // "sha256:<hex>"
  std::string owner;   // The service whose result it is; empty: somebody put it.
};

// One dataset being written; what was there stays until Commit. Dropping it without Commit leaves nothing.
class DatasetWriter {
 public:
  virtual ~DatasetWriter() = default;
  virtual Status Write(ByteView bytes) = 0;
  // Once it is on the disk.
  virtual Result<DatasetInfo> Commit() = 0;
};

// Self-synchronised.
class Datasets {
 public:
  // Makes the folder. `mapped`: memory-map the files.
  static Result<std::unique_ptr<Datasets>> Create(const std::filesystem::path& folder, bool mapped);
  // kNotFound.
  Result<std::shared_ptr<const Dataset>> Open(const model::DatasetName& name);
  Result<std::unique_ptr<DatasetWriter>> Write(const model::DatasetName& name, const std::string& owner = {});
  Status Remove(const model::DatasetName& name);
  // A folder of this service's own with those of `names` that are here, now and later, each as a file (a hard link), which was read once to
  // see that it is not damaged.
  Result<std::filesystem::path> FolderOf(const model::ServiceName& service, const std::set<model::DatasetName>& names);
  std::vector<DatasetInfo> List() const;

 private:
  friend class FileDatasetWriter;
  Datasets(std::filesystem::path folder, bool mapped) : folder_(std::move(folder)), mapped_(mapped) {}
  Status LoadInfos();
  // With the mutex held: `name` as it is now in the folder of `service`, or not any more.
  Status Link(const std::string& service, const model::DatasetName& name);

  const std::filesystem::path folder_;
  const bool mapped_;
  mutable std::mutex mutex_;
  std::map<model::DatasetName, DatasetInfo> infos_;
  std::map<model::DatasetName, std::shared_ptr<const Dataset>> open_;
  std::map<std::string, std::set<model::DatasetName>> folders_;  // By service: what is linked there where it is here.
};

}  // namespace godwit::agent
