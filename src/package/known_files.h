// Files whose content was looked at once, so that it need not be read again at each start.
//
// A file is known by where it is and by what its file system says changes with its content: device, inode, size, and
// the times of the last change of content and of the inode, in nanoseconds. The inode's time cannot be set by
// programs, so whoever changes a file, even in place, makes it unknown; only the owner of the machine's clock or disk
// could do otherwise, and could as well change this program. A file that changed less than kSettled before it began to
// be looked at is not remembered: file systems count time in steps, and one more change could fall into the same step.
// Nor is one on a file system that goes by another machine's clock.
//
// What is remembered counts for this build of the program only, since another one may look at files more closely.
// Self-synchronised: several processes may use one folder.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/result.h"

namespace godwit::package {

class KnownFiles {
 public:
  static constexpr std::chrono::milliseconds kSettled{100};
  // Smaller files are not worth a look at the folder: hashing them takes less time.
  static constexpr std::uint64_t kWorthRemembering = 1 << 20;
  // Facts in the folder; when there are more, all are forgotten.
  static constexpr std::size_t kFactsMax = 1024;

  // `folder` is made when there is something to remember.
  explicit KnownFiles(std::filesystem::path folder) : folder_(std::move(folder)) {}

  // A file as it was when somebody began to look at it.
  struct Sight {
    std::string identity;  // Empty: not to be remembered.
  };
  static Sight Look(int fd);
  // What was remembered of the file under this name ("digest", ...); nothing if it is unknown or has changed.
  std::optional<std::string> Recall(const Sight& sight, const std::string& name) const;
  // `sight` is from before the content was read for it. Best effort. `value` has at most 4096 bytes.
  void Remember(const Sight& sight, const std::string& name, const std::string& value) const;

 private:
  const std::filesystem::path folder_;
};

}  // namespace godwit::package
