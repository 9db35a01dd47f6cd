// Files and folders whose names nobody else has: to be filled and then renamed, or for a while only.
#pragma once

#include <filesystem>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/descriptor.h"
#include "base/result.h"

namespace godwit {

struct FreshFile {
  std::filesystem::path path;
  Descriptor file;  // For reading and writing, closed on exec.
};

// Beside `path`, named after it, for this user alone. Errors of the system.
Result<FreshFile> MakeFileBeside(const std::filesystem::path& path);
Result<std::filesystem::path> MakeFolderBeside(const std::filesystem::path& path);

// Errors of the system, "writing WHAT".
Status WriteAll(int fd, ByteView bytes, std::string_view what);

// A folder among the system's temporary files, removed with all that is in it.
class TemporaryFolder {
 public:
  static Result<TemporaryFolder> Create();
  TemporaryFolder(TemporaryFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  TemporaryFolder& operator=(TemporaryFolder&& other) noexcept {
    std::swap(path_, other.path_);
    return *this;
  }
  ~TemporaryFolder();
  const std::filesystem::path& path() const { return path_; }

 private:
  explicit TemporaryFolder(std::filesystem::path path) : path_(std::move(path)) {}
  std::filesystem::path path_;
};

}  // namespace godwit
