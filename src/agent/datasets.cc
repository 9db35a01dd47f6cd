#include "agent/datasets.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <fstream>

#include <fmt/format.h>

namespace godwit::agent {

namespace fs = std::filesystem;

namespace {

class FileDataset final : public Dataset {
 public:
  FileDataset(int fd, std::uint64_t size, const std::uint8_t* mapping) : fd_(fd), size_(size), mapping_(mapping) {}
  ~FileDataset() override {
    if (mapping_ != nullptr) munmap(const_cast<std::uint8_t*>(mapping_), size_);
    close(fd_);
  }
  std::uint64_t size() const override { return size_; }
  Result<std::size_t> Read(std::uint64_t offset, std::span<std::uint8_t> to) const override {
    if (offset >= size_) return std::size_t{0};
    const std::size_t wanted = std::min<std::uint64_t>(to.size(), size_ - offset);
    if (mapping_ != nullptr) {
      std::memcpy(to.data(), mapping_ + offset, wanted);
      return wanted;
    }
    std::size_t done = 0;
    while (done < wanted) {
      const ssize_t got = pread(fd_, to.data() + done, wanted - done, static_cast<off_t>(offset + done));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) return ErrnoError("reading a dataset");
      if (got == 0) return Corrupt("a dataset's file became shorter");
      done += static_cast<std::size_t>(got);
    }
    return done;
  }

 private:
  const int fd_;
  const std::uint64_t size_;
  const std::uint8_t* mapping_;
};

}  // namespace

class FileDatasetWriter final : public DatasetWriter {
 public:
  FileDatasetWriter(Datasets& datasets, model::DatasetName name, std::string owner, fs::path path, int fd)
      : datasets_(datasets), name_(std::move(name)), owner_(std::move(owner)), path_(std::move(path)), fd_(fd), hash_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    GODWIT_CHECK(hash_ && EVP_DigestInit_ex(hash_.get(), EVP_sha256(), nullptr) == 1, "SHA-256 is not available");
  }
  ~FileDatasetWriter() override {
    if (fd_ >= 0) close(fd_);
    std::error_code ignored;
    if (!committed_) fs::remove(path_, ignored);
  }

  Status Write(ByteView bytes) override {
    EVP_DigestUpdate(hash_.get(), bytes.data(), bytes.size());
    bytes_ += bytes.size();
    while (!bytes.empty()) {
      const ssize_t put = write(fd_, bytes.data(), bytes.size());
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) return ErrnoError("writing dataset " + name_.value);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
    return {};
  }

  Result<DatasetInfo> Commit() override {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    EVP_DigestFinal_ex(hash_.get(), digest, &length);
    DatasetInfo info{name_, bytes_, "sha256:", owner_};
    for (unsigned i = 0; i < length; ++i) info.digest += fmt::format("{:02x}", digest[i]);
    close(std::exchange(fd_, -1));
    const fs::path info_path = datasets_.folder_ / "info" / name_.value, info_new = info_path.string() + "~";
    std::ofstream(info_new) << info.digest << ' ' << info.owner << '\n';
    const std::lock_guard lock(datasets_.mutex_);
    std::error_code error;
    fs::rename(path_, datasets_.folder_ / "data" / name_.value, error);
    if (error) return Internal("dataset " + name_.value + ": " + error.message());
    committed_ = true;
    fs::rename(info_new, info_path, error);
    if (error) return Internal("dataset " + name_.value + ": " + error.message());
    datasets_.open_.erase(name_);
    datasets_.infos_[name_] = info;
    for (const auto& [service, names] : datasets_.folders_) {
      if (names.count(name_) != 0) GODWIT_TRY(datasets_.Link(service, name_));
    }
    return info;
  }

 private:
  Datasets& datasets_;
  const model::DatasetName name_;
  const std::string owner_;
  const fs::path path_;
  int fd_;
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> hash_;
  std::uint64_t bytes_ = 0;
  bool committed_ = false;
};

Result<std::unique_ptr<Datasets>> Datasets::Create(const fs::path& folder, bool mapped) {
  std::unique_ptr<Datasets> datasets(new Datasets(folder, mapped));
  std::error_code error;
  for (const char* part : {"new", "services"}) fs::remove_all(folder / part, error);
  for (const char* part : {"data", "info", "new", "services"}) {
    fs::create_directories(folder / part, error);
    if (error) return Internal((folder / part).string() + ": " + error.message());
  }
  GODWIT_TRY(datasets->LoadInfos());
  return datasets;
}

Status Datasets::LoadInfos() {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_ / "data", error)) {
    const model::DatasetName name(entry.path().filename().string());
    if (!model::CheckDatasetName(name.value).ok() || !entry.is_regular_file(error)) continue;
    DatasetInfo info{name, entry.file_size(error), "", ""};
    std::ifstream(folder_ / "info" / name.value) >> info.digest >> info.owner;
    infos_[name] = std::move(info);
  }
  return {};
}

Result<std::shared_ptr<const Dataset>> Datasets::Open(const model::DatasetName& name) {
  const std::lock_guard lock(mutex_);
  if (const auto open = open_.find(name); open != open_.end()) return open->second;
  if (infos_.count(name) == 0) return NotFound("dataset '" + name.value + "' is not on this device");
  const fs::path path = folder_ / "data" / name.value;
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return ErrnoError(path.string());
  struct stat status{};
  if (fstat(fd, &status) != 0) {
    const Error error = ErrnoError(path.string());
    close(fd);
    return error;
  }
  const auto size = static_cast<std::uint64_t>(status.st_size);
  void* mapping = nullptr;
  if (mapped_ && size > 0) {
    mapping = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (mapping == MAP_FAILED) {
      const Error error = ErrnoError(path.string());
      close(fd);
      return error;
    }
  }
  auto dataset = std::make_shared<FileDataset>(fd, size, static_cast<const std::uint8_t*>(mapping));
  open_[name] = dataset;
  return std::shared_ptr<const Dataset>(dataset);
}

Result<std::unique_ptr<DatasetWriter>> Datasets::Write(const model::DatasetName& name, const std::string& owner) {
  GODWIT_TRY(model::CheckDatasetName(name.value));
  std::string path = (folder_ / "new" / (name.value + ".XXXXXX")).string();
  const int fd = mkostemp(path.data(), O_CLOEXEC);
  if (fd < 0) return ErrnoError(path);
  return std::unique_ptr<DatasetWriter>(std::make_unique<FileDatasetWriter>(*this, name, owner, path, fd));
}

Status Datasets::Remove(const model::DatasetName& name) {
  const std::lock_guard lock(mutex_);
  if (infos_.erase(name) == 0) return NotFound("dataset '" + name.value + "' is not on this device");
  open_.erase(name);
  std::error_code error;
  fs::remove(folder_ / "data" / name.value, error);
  fs::remove(folder_ / "info" / name.value, error);
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
  fs::create_hard_link(folder_ / "data" / name.value, link, error);
  return error ? Status(Internal(link.string() + ": " + error.message())) : Status();
}

Result<fs::path> Datasets::FolderOf(const model::ServiceName& service, const std::set<model::DatasetName>& names) {
  GODWIT_TRY(model::CheckName("service name", service.value));
  const fs::path folder = folder_ / "services" / service.value;
  const std::lock_guard lock(mutex_);
  const auto known = folders_.find(service.value);
  if (known != folders_.end() && known->second == names) return folder;
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
