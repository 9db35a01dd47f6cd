#include "base/fresh_file.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace godwit {

namespace fs = std::filesystem;

namespace {

// mkdtemp(3) and mkstemp(3) fill in the last six.
std::string Pattern(const fs::path& path) { return path.string() + ".XXXXXX"; }

}  // namespace

Result<FreshFile> MakeFileBeside(const fs::path& path) {
  std::string name = Pattern(path);
  Descriptor file(mkostemp(name.data(), O_CLOEXEC));
  if (file.get() < 0) return ErrnoError("cannot make a file beside " + path.string());
  return FreshFile{name, std::move(file)};
}

Result<fs::path> MakeFolderBeside(const fs::path& path) {
  std::string name = Pattern(path);
  if (mkdtemp(name.data()) == nullptr) return ErrnoError("cannot make a folder beside " + path.string());
  return fs::path(name);
}

Status WriteAll(int fd, ByteView bytes, std::string_view what) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoError("writing " + std::string(what));
    bytes = bytes.subspan(static_cast<std::size_t>(written));
  }
  return {};
}

Result<TemporaryFolder> TemporaryFolder::Create() {
  std::error_code error;
  GODWIT_ASSIGN(fs::path made, MakeFolderBeside(fs::temp_directory_path(error) / "godwit"));
  return TemporaryFolder(std::move(made));
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

}  // namespace godwit
