#include "package/known_files.h"

#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <iterator>

#include "package/files.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kValueBytesMax = 4096;

std::string IdentityOf(const struct stat& status) {
  const auto number = [](auto n) { return std::to_string(n) + " "; };
  return number(status.st_dev) + number(status.st_ino) + number(status.st_size) + number(status.st_mtim.tv_sec) +
         number(status.st_mtim.tv_nsec) + number(status.st_ctim.tv_sec) + number(status.st_ctim.tv_nsec);
}

// Of the file that this program was started from; empty where it cannot be told.
std::string ProgramIdentity() {
  struct stat status;
  return stat("/proc/self/exe", &status) == 0 ? IdentityOf(status) : std::string();
}

// Whether the file system's times are not this machine's.
bool IsElsewhere(int fd) {
  constexpr std::uint32_t kNetwork[] = {0x6969 /* NFS */, 0x517b /* SMB */, 0xff534d42 /* CIFS */, 0xfe534d42 /* SMB2 */,
                                        0x65735546 /* FUSE */, 0x01021997 /* 9P */, 0x00c36400 /* Ceph */};
  struct statfs status;
  if (fstatfs(fd, &status) != 0) return true;
  return std::any_of(std::begin(kNetwork), std::end(kNetwork),
                     [&](std::uint32_t type) { return static_cast<std::uint32_t>(status.f_type) == type; });
}

fs::path PlaceOf(const fs::path& folder, const KnownFiles::Sight& sight, const std::string& name) {
  return folder / Sha256Digest(AsBytes(sight.identity + "\n" + name)).substr(7);
}

}  // namespace

KnownFiles::Sight KnownFiles::Look(int fd) {
  timespec now;
  struct stat status;
  const std::string program = ProgramIdentity();
  if (clock_gettime(CLOCK_REALTIME, &now) != 0 || fstat(fd, &status) != 0 || program.empty() || IsElsewhere(fd)) return {};
  const auto ns = [](const timespec& at) { return std::chrono::seconds(at.tv_sec) + std::chrono::nanoseconds(at.tv_nsec); };
  if (ns(now) < ns(status.st_ctim) + kSettled) return {};
  return {IdentityOf(status) + "\n" + program};
}

std::optional<std::string> KnownFiles::Recall(const Sight& sight, const std::string& name) const {
  if (folder_.empty() || sight.identity.empty()) return std::nullopt;
  const auto fact = MapFile(PlaceOf(folder_, sight, name), kValueBytesMax);
  if (!fact.ok()) return std::nullopt;
  return std::string(AsText(fact->bytes));
}

void KnownFiles::Remember(const Sight& sight, const std::string& name, const std::string& value) const {
  if (folder_.empty() || sight.identity.empty() || value.size() > kValueBytesMax) return;
  const fs::path place = PlaceOf(folder_, sight, name);
  std::error_code error;
  std::size_t facts = 0;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) ++facts;
  if (facts >= kFactsMax) fs::remove_all(folder_, error);
  fs::create_directories(folder_, error);
  const std::string made = place.string() + "." + std::to_string(getpid());
  fs::remove(made, error);
  if (!WriteFile(made, AsBytes(value)).ok() || rename(made.c_str(), place.c_str()) != 0) fs::remove(made, error);
}

}  // namespace godwit::package
