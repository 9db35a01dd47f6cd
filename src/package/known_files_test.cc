#include "package/known_files.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>

#include "base/fresh_file.h"
#include "package/files.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;

class KnownFilesTest : public testing::Test {
 protected:
  KnownFilesTest() {
    EXPECT_TRUE(WriteFile(folder_ / "file", AsBytes("content")).ok());
    fd_ = open((folder_ / "file").c_str(), O_RDWR | O_CLOEXEC);
  }
  ~KnownFilesTest() override {
    close(fd_);
  }
  // Looks until the file's last change is long enough ago.
  KnownFiles::Sight SettledSight() const {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    KnownFiles::Sight sight;
    while (sight.identity.empty() && std::chrono::steady_clock::now() < deadline) sight = KnownFiles::Look(fd_);
    EXPECT_FALSE(sight.identity.empty());
    return sight;
  }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
  int fd_ = -1;
};

TEST_F(KnownFilesTest, WhatWasRememberedIsRecalledUnderItsNameByOthersToo) {
  KnownFiles(folder_ / "known").Remember(SettledSight(), "digest", "abc");
  const KnownFiles again(folder_ / "known");
  EXPECT_EQ(again.Recall(KnownFiles::Look(fd_), "digest"), "abc");
  EXPECT_FALSE(again.Recall(KnownFiles::Look(fd_), "other"));
}

TEST_F(KnownFilesTest, AChangeInPlaceMakesAFileUnknownWhateverItsTimesAreSetTo) {
  const KnownFiles known(folder_ / "known");
  struct stat before;
  ASSERT_EQ(fstat(fd_, &before), 0);
  known.Remember(SettledSight(), "digest", "abc");
  ASSERT_EQ(pwrite(fd_, "C", 1, 0), 1);
  const timespec times[] = {before.st_atim, before.st_mtim};
  ASSERT_EQ(futimens(fd_, times), 0);
  EXPECT_FALSE(known.Recall(SettledSight(), "digest"));
}

TEST_F(KnownFilesTest, AFileThatChangedJustNowIsNotRemembered) {
  ASSERT_EQ(pwrite(fd_, "C", 1, 0), 1);
  EXPECT_TRUE(KnownFiles::Look(fd_).identity.empty());
  const KnownFiles known(folder_ / "known");
  known.Remember({}, "digest", "abc");
  EXPECT_FALSE(fs::exists(folder_ / "known"));
}

TEST_F(KnownFilesTest, FactsAreBounded) {
  const KnownFiles known(folder_ / "known");
  const KnownFiles::Sight sight = SettledSight();
  for (std::size_t i = 0; i <= KnownFiles::kFactsMax; ++i) known.Remember(sight, std::to_string(i), "x");
  EXPECT_FALSE(known.Recall(sight, "0"));
  EXPECT_TRUE(known.Recall(sight, std::to_string(KnownFiles::kFactsMax)));
  known.Remember(sight, "long", std::string(4097, 'x'));
  EXPECT_FALSE(known.Recall(sight, "long"));
}

}  // namespace
}  // namespace godwit::package
