#include "runtime/wasi_paths.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>
#include <vector>

namespace godwit::runtime::wasi {

void HostFd::reset() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

namespace {

class Walk {
 public:
  Walk(int root, Location& location) : root_(root), location_(location) {}

  Errno Run(std::string_view path, bool follow_last) {
    if (const Errno error = Push(path); error != Errno::kSuccess) return error;
    while (!remaining_.empty()) {
      std::string name = std::move(remaining_.back());
      remaining_.pop_back();
      if (name == ".") continue;
      if (name == "..") {
        if (opened_.empty()) return Errno::kPerm;
        opened_.pop_back();
        continue;
      }
      const bool last = remaining_.empty();
      if (last && !follow_last && !directory_) return Finish(std::move(name));
      if (last) {
        bool expanded = false;
        if (const Errno error = Expand(name, expanded); error != Errno::kSuccess) return error;
        if (!expanded) return Finish(std::move(name));
        continue;
      }
      if (const Errno error = Enter(std::move(name)); error != Errno::kSuccess) return error;
    }
    return Finish(".");
  }

 private:
  int current() const { return opened_.empty() ? root_ : opened_.back().first.get(); }

  // Puts the path's components in front of what is left to walk.
  Errno Push(std::string_view path) {
    if (path.empty()) return Errno::kNoEnt;
    if (path.size() > kPathBytesMax) return Errno::kNameTooLong;
    if (path.find('\0') != path.npos) return Errno::kIlSeq;
    if (path.front() == '/') return Errno::kPerm;
    if (remaining_.empty() && path.back() == '/') directory_ = true;
    std::vector<std::string> parts;
    for (std::size_t begin = 0; begin < path.size();) {
      std::size_t end = path.find('/', begin);
      if (end == path.npos) end = path.size();
      if (end > begin) parts.emplace_back(path.substr(begin, end - begin));
      begin = end + 1;
    }
    remaining_.insert(remaining_.end(), std::make_move_iterator(parts.rbegin()), std::make_move_iterator(parts.rend()));
    return Errno::kSuccess;
  }

  // If `name` is a link its target becomes what is walked next.
  Errno Expand(const std::string& name, bool& expanded) {
    char target[kPathBytesMax + 1];
    const ssize_t bytes = ::readlinkat(current(), name.c_str(), target, sizeof target);
    expanded = bytes >= 0;
    if (!expanded) return Errno::kSuccess;
    if (++links_ > kPathLinksMax) return Errno::kLoop;
    return Push(std::string_view(target, static_cast<std::size_t>(bytes)));
  }

  Errno Enter(std::string name) {
    HostFd next(::openat(current(), name.c_str(), O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    if (!next.valid()) {
      const int error = errno;
      if (error != ENOTDIR && error != ELOOP) return FromHostErrno(error);
      bool expanded = false;
      if (const Errno refused = Expand(name, expanded); refused != Errno::kSuccess) return refused;
      return expanded ? Errno::kSuccess : Errno::kNotDir;
    }
    if (opened_.size() >= kPathDepthMax) return Errno::kNameTooLong;
    opened_.emplace_back(std::move(next), std::move(name));
    return Errno::kSuccess;
  }

  Errno Finish(std::string name) {
    std::string path;
    for (const auto& [fd, part] : opened_) path.append(path.empty() ? "" : "/").append(part);
    if (name != ".") path.append(path.empty() ? "" : "/").append(name);
    location_.name = std::move(name);
    location_.path = std::move(path);
    location_.must_be_directory = directory_;
    location_.at = current();
    if (!opened_.empty()) location_.owned = std::move(opened_.back().first);
    return Errno::kSuccess;
  }

  const int root_;
  Location& location_;
  std::vector<std::string> remaining_;  // Components, the next one last.
  std::vector<std::pair<HostFd, std::string>> opened_;
  bool directory_ = false;
  int links_ = 0;
};

}  // namespace

Errno Resolve(int root, std::string_view path, bool follow_last, Location& location) {
  return Walk(root, location).Run(path, follow_last);
}

}  // namespace godwit::runtime::wasi
