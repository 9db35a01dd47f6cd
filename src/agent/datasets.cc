#include "agent/datasets.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "base/descriptor.h"
#include "base/fresh_file.h"

namespace godwit::agent {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kBlock = Dataset::kBlockBytes;
constexpr std::size_t kPieceBytes = 1 << 20;  // Of what is read to be checked.
constexpr std::size_t kWriteBytes = 4 << 20;  // At once: the page cache holds the file in pages that are as large.

std::uint64_t SumOf(ByteView bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }
std::uint64_t BlocksOf(std::uint64_t bytes) { return (bytes + kBlock - 1) / kBlock; }

// A file of `folder`, whole and on the disk.
Status WriteFile(const fs::path& path, ByteView bytes) {
  const Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return ErrnoError(path.string());
  GODWIT_TRY(WriteAll(file.get(), bytes, path.string()));
  return fsync(file.get()) == 0 ? Status() : Status(ErrnoError(path.string()));
}

Status SyncFolder(const fs::path& path) {
  const Descriptor folder(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  return folder.get() >= 0 && fsync(folder.get()) == 0 ? Status() : Status(ErrnoError(path.string()));
}

// A file that is mapped, whole.
class Mapping {
 public:
  Mapping() = default;
  static Result<Mapping> Of(int fd, std::uint64_t bytes) {
    Mapping mapping;
    if (bytes == 0) return mapping;
    void* base = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) return ErrnoError("mapping a dataset");
    mapping.bytes_ = {static_cast<const std::uint8_t*>(base), bytes};
    return mapping;
  }
  Mapping(Mapping&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping() {
    if (!bytes_.empty()) munmap(const_cast<std::uint8_t*>(bytes_.data()), bytes_.size());
  }
  ByteView bytes() const { return bytes_; }

 private:
  ByteView bytes_;
};

// --- Sums: magic, the dataset's size, a sum for each block, the sum of all that. docs/formats/dataset.md.

constexpr std::string_view kMagic = "GWDSUMS1";
constexpr std::size_t kHeadBytes = 16;

class Sums {
 public:
  Sums() = default;
  static Result<Sums> Of(const fs::path& path, std::uint64_t bytes) {
    const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    if (file.get() < 0) return ErrnoError(path.string());
    const std::uint64_t wanted = kHeadBytes + 8 * BlocksOf(bytes) + 8;
    struct stat status{};
    if (fstat(file.get(), &status) != 0 || static_cast<std::uint64_t>(status.st_size) != wanted) return Corrupt(path.string() + " does not fit its dataset");
    Sums sums;
    GODWIT_ASSIGN(sums.mapping_, Mapping::Of(file.get(), wanted));
    const ByteView all = sums.mapping_.bytes();
    if (AsText(all.first(8)) != kMagic || NumberAt(all, 8) != bytes || NumberAt(all, wanted - 8) != SumOf(all.first(wanted - 8))) {
      return Corrupt(path.string() + " is damaged");
    }
    return sums;
  }
  std::uint64_t operator[](std::uint64_t block) const { return NumberAt(mapping_.bytes(), kHeadBytes + 8 * block); }

 private:
  static std::uint64_t NumberAt(ByteView bytes, std::uint64_t at) {
    std::uint64_t number;
    std::memcpy(&number, bytes.data() + at, sizeof number);
    return number;
  }
  Mapping mapping_;
};

class SumsWriter {
 public:
  SumsWriter() : bytes_(kMagic.begin(), kMagic.end()) { bytes_.resize(kHeadBytes); }
  void Add(ByteView bytes) {
    size_ += bytes.size();
    while (!bytes.empty()) {
      if (begun_ == 0 && bytes.size() >= kBlock) {
        Put(SumOf(bytes.first(kBlock)));
        bytes = bytes.subspan(kBlock);
        continue;
      }
      const std::size_t taken = std::min<std::size_t>(kBlock - begun_, bytes.size());
      std::memcpy(block_.data() + begun_, bytes.data(), taken);
      bytes = bytes.subspan(taken);
      begun_ += taken;
      if (begun_ == kBlock) EndBlock();
    }
  }
  const Bytes& Finish() {
    if (begun_ > 0) EndBlock();
    std::memcpy(bytes_.data() + 8, &size_, sizeof size_);
    Put(SumOf(bytes_));
    return bytes_;
  }
  std::uint64_t size() const { return size_; }

 private:
  void EndBlock() { Put(SumOf(ByteView(block_).first(std::exchange(begun_, 0)))); }
  void Put(std::uint64_t number) {
    const auto* from = reinterpret_cast<const std::uint8_t*>(&number);
    bytes_.insert(bytes_.end(), from, from + sizeof number);
  }
  Bytes bytes_;
  std::array<std::uint8_t, kBlock> block_;
  std::size_t begun_ = 0;  // Of block_.
  std::uint64_t size_ = 0;
};

class FileDataset final : public Dataset {
 public:
  FileDataset(std::string name, Descriptor file, std::uint64_t size, Sums sums, Mapping mapping)
      : name_(std::move(name)), file_(std::move(file)), size_(size), sums_(std::move(sums)), mapping_(std::move(mapping)) {}
  std::uint64_t size() const override { return size_; }
  int file() const override { return file_.get(); }

  Result<std::size_t> Read(std::uint64_t offset, std::span<std::uint8_t> to) const override {
    if (offset >= size_) return std::size_t{0};
    to = to.first(std::min<std::uint64_t>(to.size(), size_ - offset));
    for (std::size_t done = 0; done < to.size();) {
      const std::uint64_t at = offset + done, inside = at % kBlock, left = to.size() - done;
      const std::uint64_t whole = inside != 0 ? 0 : at + left == size_ ? left : left / kBlock * kBlock;
      if (whole > 0) {
        GODWIT_TRY(Fetch(at, to.subspan(done, whole)));
        GODWIT_TRY(Check(at, to.subspan(done, whole)));
        done += whole;
        continue;
      }
      std::array<std::uint8_t, kBlock> buffer;
      const auto block = std::span(buffer).first(std::min(kBlock, size_ - (at - inside)));
      GODWIT_TRY(Fetch(at - inside, block));
      GODWIT_TRY(Check(at - inside, block));
      const std::size_t taken = std::min(left, block.size() - inside);
      std::memcpy(to.data() + done, block.data() + inside, taken);
      done += taken;
    }
    return to.size();
  }

  Status Check(std::uint64_t offset, ByteView bytes) const override {
    for (std::uint64_t block = offset / kBlock; !bytes.empty(); ++block) {
      const ByteView one = bytes.first(std::min<std::size_t>(kBlock, bytes.size()));
      if (SumOf(one) != sums_[block]) {
        const Error error = Corrupt(fmt::format("dataset '{}' is damaged: its {} bytes at {} are not what was put there", name_, one.size(), block * kBlock));
        spdlog::error("{}", error.message);
        return error;
      }
      bytes = bytes.subspan(one.size());
    }
    return {};
  }

 private:
  Status Fetch(std::uint64_t offset, std::span<std::uint8_t> to) const {
    if (const ByteView mapped = mapping_.bytes(); !mapped.empty()) {
      std::memcpy(to.data(), mapped.data() + offset, to.size());
      return {};
    }
    for (std::size_t done = 0; done < to.size();) {
      const ssize_t got = pread(file_.get(), to.data() + done, to.size() - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoError(fmt::format("reading dataset '{}' at {}", name_, offset + done));
      if (got == 0) return Corrupt(fmt::format("dataset '{}' is damaged: its file ends at {}", name_, offset + done));
      done += static_cast<std::size_t>(got);
    }
    return {};
  }

  const std::string name_;
  const Descriptor file_;
  const std::uint64_t size_;
  const Sums sums_;
  const Mapping mapping_;  // Empty: it is read.
};

}  // namespace

class FileDatasetWriter final : public DatasetWriter {
 public:
  FileDatasetWriter(Datasets& datasets, model::DatasetName name, std::string owner, fs::path folder, Descriptor file)
      : datasets_(datasets), name_(std::move(name)), owner_(std::move(owner)), folder_(std::move(folder)), file_(std::move(file)),
        hash_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    GODWIT_CHECK(hash_ && EVP_DigestInit_ex(hash_.get(), EVP_sha256(), nullptr) == 1, "SHA-256 is not available");
  }
  ~FileDatasetWriter() override {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);  // The one before, where this one took its place.
  }

  Status Write(ByteView bytes) override {
    EVP_DigestUpdate(hash_.get(), bytes.data(), bytes.size());
    sums_.Add(bytes);
    while (!bytes.empty()) {
      const std::size_t taken = std::min(kWriteBytes - unwritten_.size(), bytes.size());
      unwritten_.insert(unwritten_.end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(taken));
      bytes = bytes.subspan(taken);
      if (unwritten_.size() == kWriteBytes) GODWIT_TRY(Flush());
    }
    return {};
  }

  Result<DatasetInfo> Commit() override {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    EVP_DigestFinal_ex(hash_.get(), digest, &length);
    DatasetInfo info{name_, sums_.size(), "sha256:", owner_};
    for (unsigned i = 0; i < length; ++i) info.digest += fmt::format("{:02x}", digest[i]);
    GODWIT_TRY(Flush());
    if (fsync(file_.get()) != 0) return ErrnoError("writing dataset " + name_.value);
    GODWIT_TRY(WriteFile(folder_ / "sums", sums_.Finish()));
    GODWIT_TRY(WriteFile(folder_ / "info", AsBytes(info.digest + ' ' + info.owner + '\n')));
    GODWIT_TRY(SyncFolder(folder_));
    const std::lock_guard lock(datasets_.mutex_);
    const fs::path place = datasets_.folder_ / "data" / name_.value;
    std::error_code error;
    const unsigned how = fs::exists(place, error) ? RENAME_EXCHANGE : RENAME_NOREPLACE;
    if (renameat2(AT_FDCWD, folder_.c_str(), AT_FDCWD, place.c_str(), how) != 0) {
      return ErrnoError("putting dataset " + name_.value + " in its place (its file system must know RENAME_EXCHANGE)");
    }
    GODWIT_TRY(SyncFolder(place.parent_path()));
    datasets_.open_.erase(name_);
    datasets_.infos_[name_] = info;
    for (const auto& [service, names] : datasets_.folders_) {
      if (names.count(name_) != 0) GODWIT_TRY(datasets_.Link(service, name_));
    }
    return info;
  }

 private:
  Status Flush() {
    const Status written = WriteAll(file_.get(), unwritten_, "dataset " + name_.value);
    unwritten_.clear();
    return written;
  }

  Datasets& datasets_;
  const model::DatasetName name_;
  const std::string owner_;
  const fs::path folder_;
  const Descriptor file_;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash_;
  SumsWriter sums_;
  Bytes unwritten_;
};

Result<std::unique_ptr<Datasets>> Datasets::Create(const fs::path& folder, bool mapped) {
  std::unique_ptr<Datasets> datasets(new Datasets(folder, mapped));
  std::error_code error;
  for (const char* part : {"new", "services"}) fs::remove_all(folder / part, error);
  for (const char* part : {"data", "new", "services"}) {
    fs::create_directories(folder / part, error);
    if (error) return Internal((folder / part).string() + ": " + error.message());
  }
  GODWIT_TRY(datasets->LoadInfos());
  return datasets;
}

Status Datasets::LoadInfos() {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_ / "data", error)) {
    DatasetInfo info{model::DatasetName(entry.path().filename().string()), 0, "", ""};
    std::error_code none;
    info.bytes = fs::file_size(entry.path() / "bytes", none);
    if (none || !model::CheckDatasetName(info.name.value).ok()) {
      spdlog::warn("{} is no dataset: it is left alone", entry.path().string());
      continue;
    }
    std::ifstream(entry.path() / "info") >> info.digest >> info.owner;
    infos_[info.name] = std::move(info);
  }
  return {};
}

Result<std::shared_ptr<const Dataset>> Datasets::Open(const model::DatasetName& name) {
  const std::lock_guard lock(mutex_);
  if (const auto open = open_.find(name); open != open_.end()) return open->second;
  if (infos_.count(name) == 0) return NotFound("dataset '" + name.value + "' is not on this device");
  const fs::path place = folder_ / "data" / name.value, path = place / "bytes";
  Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat status{};
  if (file.get() < 0 || fstat(file.get(), &status) != 0) return ErrnoError(path.string());
  const auto size = static_cast<std::uint64_t>(status.st_size);
  GODWIT_ASSIGN(Sums sums, Sums::Of(place / "sums", size));
  Mapping mapping;
  if (mapped_) {
    GODWIT_ASSIGN(mapping, Mapping::Of(file.get(), size));
  }
  const auto dataset = std::make_shared<FileDataset>(name.value, std::move(file), size, std::move(sums), std::move(mapping));
  open_[name] = dataset;
  return std::shared_ptr<const Dataset>(dataset);
}

Result<std::unique_ptr<DatasetWriter>> Datasets::Write(const model::DatasetName& name, const std::string& owner) {
  GODWIT_TRY(model::CheckDatasetName(name.value));
  GODWIT_ASSIGN(const fs::path folder, MakeFolderBeside(folder_ / "new" / name.value));
  const std::string path = folder / "bytes";
  Descriptor file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) return ErrnoError(path);
  return std::unique_ptr<DatasetWriter>(std::make_unique<FileDatasetWriter>(*this, name, owner, folder, std::move(file)));
}

Status Datasets::Remove(const model::DatasetName& name) {
  const std::lock_guard lock(mutex_);
  if (infos_.erase(name) == 0) return NotFound("dataset '" + name.value + "' is not on this device");
  open_.erase(name);
  std::error_code error;
  // In one step as well: what is in `new` is nothing any more.
  const fs::path place = folder_ / "data" / name.value, gone = folder_ / "new" / (name.value + ".gone");
  fs::rename(place, gone, error);
  if (error) return Internal(place.string() + ": " + error.message());
  fs::remove_all(gone, error);
  for (const auto& [service, names] : folders_) {
    if (names.count(name) != 0) GODWIT_TRY(Link(service, name));
  }
  return {};
}

Status Datasets::Link(const std::string& service, const model::DatasetName& name) {
  const fs::path link = folder_ / "services" / service / name.value;
  std::error_code error;
  fs::remove(link, error);
  if (infos_.count(name) == 0) return {};
  fs::create_hard_link(folder_ / "data" / name.value / "bytes", link, error);
  return error ? Status(Internal(link.string() + ": " + error.message())) : Status();
}

Result<fs::path> Datasets::FolderOf(const model::ServiceName& service, const std::set<model::DatasetName>& names) {
  GODWIT_TRY(model::CheckName("service name", service.value));
  const fs::path folder = folder_ / "services" / service.value;
  {
    const std::lock_guard lock(mutex_);
    const auto known = folders_.find(service.value);
    if (known != folders_.end() && known->second == names) return folder;
  }
  for (const model::DatasetName& name : names) {
    auto dataset = Open(name);
    if (!dataset.ok() && dataset.error().code == ErrorCode::kNotFound) continue;
    GODWIT_TRY(dataset);
    Bytes piece(std::min<std::uint64_t>(kPieceBytes, (*dataset)->size()));
    for (std::uint64_t at = 0; at < (*dataset)->size(); at += piece.size()) GODWIT_TRY((*dataset)->Read(at, piece));
  }
  const std::lock_guard lock(mutex_);
  std::error_code error;
  fs::remove_all(folder, error);
  fs::create_directory(folder, error);
  if (error) return Internal(folder.string() + ": " + error.message());
  folders_[service.value] = names;
  for (const model::DatasetName& name : names) GODWIT_TRY(Link(service.value, name));
  return folder;
}

std::vector<DatasetInfo> Datasets::List() const {
  const std::lock_guard lock(mutex_);
  std::vector<DatasetInfo> list;
  for (const auto& [name, info] : infos_) list.push_back(info);
  return list;
}

}  // namespace godwit::agent
