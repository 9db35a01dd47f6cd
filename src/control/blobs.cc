#include "control/blobs.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

#include <fstream>

#include "model/ids.h"

namespace godwit::control {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kComing = ".coming";  // Suffix of files that are being written.

class FileWriter final : public Blobs::Writer {
 public:
  FileWriter(fs::path to, std::string digest) : to_(std::move(to)), digest_(std::move(digest)) {}
  ~FileWriter() override {
    if (fd_ >= 0) close(fd_);
    std::error_code ignored;
    if (!finished_) fs::remove(coming_, ignored);
    EVP_MD_CTX_free(hash_);
  }

  Status Open() {
    coming_ = to_.string() + model::RandomId("") + std::string(kComing);
    fd_ = open(coming_.c_str(), O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd_ < 0) return ErrnoError(coming_.string());
    hash_ = EVP_MD_CTX_new();
    if (!hash_ || EVP_DigestInit_ex(hash_, EVP_sha256(), nullptr) != 1) return Internal("SHA-256 is not available");
    return {};
  }

  Status Append(std::string_view bytes) override {
    size_ += bytes.size();
    if (size_ > kBlobBytesMax.value) return ResourceExhausted("blob " + digest_ + ": is larger than 2 GiB");
    EVP_DigestUpdate(hash_, bytes.data(), bytes.size());
    while (!bytes.empty()) {
      const ssize_t written = write(fd_, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return ErrnoError(coming_.string());
      bytes.remove_prefix(static_cast<std::size_t>(written));
    }
    return {};
  }

  Status Finish() override {
    unsigned char hash[32];
    unsigned size = 0;
    EVP_DigestFinal_ex(hash_, hash, &size);
    std::string digest = "sha256:";
    for (const unsigned char byte : hash) {
      digest += "0123456789abcdef"[byte >> 4];
      digest += "0123456789abcdef"[byte & 15];
    }
    if (digest != digest_) return Corrupt("blob " + digest_ + ": the bytes that came have the digest " + digest);
    if (rename(coming_.c_str(), to_.c_str()) != 0) return ErrnoError(to_.string());
    finished_ = true;
    return {};
  }

 private:
  const fs::path to_;
  const std::string digest_;
  fs::path coming_;
  int fd_ = -1;
  EVP_MD_CTX* hash_ = nullptr;
  std::uint64_t size_ = 0;
  bool finished_ = false;
};

}  // namespace

bool IsDigest(std::string_view text) {
  return text.size() == 71 && text.starts_with("sha256:") &&
         text.substr(7).find_first_not_of("0123456789abcdef") == text.npos;
}

Result<std::unique_ptr<Blobs>> Blobs::Open(fs::path folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Internal(folder.string() + ": " + error.message());
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    std::error_code ignored;
    if (entry.path().native().ends_with(kComing)) fs::remove(entry.path(), ignored);
  }
  if (error) return Internal(folder.string() + ": " + error.message());
  return std::unique_ptr<Blobs>(new Blobs(std::move(folder)));
}

Result<std::unique_ptr<Blobs::Writer>> Blobs::Write(const std::string& digest) {
  if (!IsDigest(digest)) return InvalidArgument("'" + digest + "' is not sha256: and 64 hexadecimal digits");
  auto writer = std::make_unique<FileWriter>(NameOf(digest), digest);
  GODWIT_TRY(writer->Open());
  return std::unique_ptr<Writer>(std::move(writer));
}

Result<ByteCount> Blobs::SizeOf(const std::string& digest) const {
  GODWIT_ASSIGN(const fs::path path, PathOf(digest));
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  if (error) return NotFound("blob " + digest + ": is not here");
  return ByteCount{size};
}

Result<fs::path> Blobs::PathOf(const std::string& digest) const {
  if (!IsDigest(digest)) return InvalidArgument("'" + digest + "' is not sha256: and 64 hexadecimal digits");
  std::error_code error;
  if (!fs::is_regular_file(NameOf(digest), error)) return NotFound("blob " + digest + ": is not here");
  return NameOf(digest);
}

Result<std::string> Blobs::Read(const std::string& digest, ByteCount limit) const {
  GODWIT_ASSIGN(const ByteCount size, SizeOf(digest));
  if (size > limit) return ResourceExhausted("blob " + digest + ": is too large for this");
  std::string bytes(size.value, '\0');
  std::ifstream file(NameOf(digest), std::ios::binary);
  if (!file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()))) return Internal("blob " + digest + ": cannot be read");
  return bytes;
}

}  // namespace godwit::control
