// What a guest can and cannot reach by a path.
#include <fcntl.h>
#include <unistd.h>

#include "runtime/wasi_fake_guest.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
constexpr u32 kOut = FakeGuest::kOut, kBuffer = FakeGuest::kBuffer;

class WasiPathTest : public WasiTest {
 protected:
  WasiPathTest() {
    WriteHost(root_ / "secret", "secret");
    std::filesystem::create_directories(data() / "a" / "b");
    WriteHost(data() / "a" / "b" / "file", "inside");
  }
  void Link(const std::string& target, const std::string& name) {
    ASSERT_EQ(::symlink(target.c_str(), (data() / name).c_str()), 0);
  }
};

TEST_F(WasiPathTest, NoPathLeavesTheFolder) {
  Link("..", "up");
  Link("../secret", "direct");
  Link((root_ / "secret").string(), "absolute");
  Link("/", "slash");
  Link("a/../../secret", "devious");
  Link("a/b", "down");
  Link("../../../secret", "a/b/deep");
  for (const char* path :
       {"../secret", "..", "a/../../secret", "a/b/../../../secret", "/etc/passwd", "/", "up/secret", "up",
        "direct", "absolute", "slash/etc/passwd", "devious", "down/../../../secret", "a/b/deep", "./../secret",
        "a//..//..//secret", "up/data/a/b/file"}) {
    EXPECT_EQ(TryOpen(path), Errno::kPerm) << path;
    EXPECT_EQ(Stat(path), Errno::kPerm) << path;
    EXPECT_EQ(TryOpen(path, kOpenCreate, kWriteRights), Errno::kPerm) << path;
  }
  for (const char* path : {"../new", "up/new", "slash/new"}) {
    EXPECT_EQ(MakeFolder(path), Errno::kPerm) << path;
    EXPECT_EQ(Symlink("x", path), Errno::kPerm) << path;
    EXPECT_EQ(Rename("a/b/file", path), Errno::kPerm) << path;
    EXPECT_EQ(Rename(path, "mine"), Errno::kPerm) << path;
    EXPECT_EQ(Unlink(path), Errno::kPerm) << path;
  }
  EXPECT_EQ(ReadHost(root_ / "secret"), "secret");
  EXPECT_EQ(ReadHost(data() / "a/b/file"), "inside");
}

TEST_F(WasiPathTest, ADescriptorOfASubfolderIsASandboxOfItsOwn) {
  WriteHost(data() / "above", "above");
  const u32 folder = OpenFolder("a");
  EXPECT_EQ(TryOpen("../above", 0, kReadRights, 0, 0, folder), Errno::kPerm);
  EXPECT_EQ(TryOpen("b/../../above", 0, kReadRights, 0, 0, folder), Errno::kPerm);
  ASSERT_EQ(TryOpen("b/../b/file", 0, kReadRights, 0, 0, folder), Errno::kSuccess);
  EXPECT_EQ(Read(guest_.Get<u32>(kOut), 10), "inside");
}

TEST_F(WasiPathTest, PathsInsideAreFollowed) {
  Link("a/b", "link");
  Link("link/file", "twice");
  Link("b/../b/file", "a/crooked");
  for (const char* path : {"a/b/file", "./a/./b/file", "a//b///file", "a/../a/b/file", "link/file", "twice",
                           "a/crooked", "link/../b/file"}) {
    EXPECT_EQ(Read(Open(path), 10), "inside") << path;
  }
  EXPECT_EQ(TryOpen("a/b/file/"), Errno::kNotDir);
  EXPECT_EQ(TryOpen("a/b/file/x"), Errno::kNotDir);
  EXPECT_EQ(TryOpen("none/x"), Errno::kNoEnt);
  EXPECT_EQ(TryOpen("none"), Errno::kNoEnt);
  EXPECT_EQ(TryOpen(""), Errno::kNoEnt);
  EXPECT_EQ(TryOpen(std::string_view("a\0b", 3)), Errno::kIlSeq);
  EXPECT_EQ(TryOpen(std::string(kPathBytesMax, '.')), Errno::kNameTooLong);
  EXPECT_EQ(TryOpen(std::string(kPathBytesMax + 1, '/')), Errno::kNameTooLong);
  std::string dots = "a/b/file";
  while (dots.size() + 2 <= kPathBytesMax) dots = "./" + dots;
  EXPECT_EQ(TryOpen(dots), Errno::kSuccess);
}

TEST_F(WasiPathTest, FollowsTheLastLinkOnlyWhereAskedTo) {
  Link("a/b/file", "link");
  EXPECT_EQ(TryOpen("link", 0, kReadRights, 0), Errno::kLoop);
  EXPECT_EQ(TryOpen("link", kOpenDirectory, kReadRights, 0), Errno::kLoop);
  EXPECT_EQ(TryOpen("link", 0, kReadRights, kLookupFollow), Errno::kSuccess);
  ASSERT_EQ(Stat("link", 0), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kBuffer + 16), 7);  // symbolic_link
  ASSERT_EQ(Stat("link", kLookupFollow), Errno::kSuccess);
  EXPECT_EQ(guest_.Get<std::uint8_t>(kBuffer + 16), 4);
  EXPECT_EQ(TryOpen("link", kOpenCreate | kOpenExclusive, kWriteRights), Errno::kExist);
  Link("round", "about");
  Link("about", "round");
  EXPECT_EQ(TryOpen("about"), Errno::kLoop);
  EXPECT_EQ(TryOpen("about/x"), Errno::kLoop);
}

TEST_F(WasiPathTest, ADanglingLinkIsCreatedInsideOnly) {
  Link("fresh", "dangling");
  ASSERT_EQ(TryOpen("dangling"), Errno::kNoEnt);
  Write(Create("dangling"), "made");
  EXPECT_EQ(ReadHost(data() / "fresh"), "made");
}

TEST_F(WasiPathTest, ExpandsAsManyLinksAsLinuxDoes) {
  std::string target = "a/b/file";
  for (int i = 1; i <= kPathLinksMax + 1; ++i) {
    Link(target, "l" + std::to_string(i));
    target = "l" + std::to_string(i);
  }
  EXPECT_EQ(TryOpen("l" + std::to_string(kPathLinksMax)), Errno::kSuccess);
  EXPECT_EQ(TryOpen("l" + std::to_string(kPathLinksMax + 1)), Errno::kLoop);
}

TEST_F(WasiPathTest, BoundsTheDepthOfOnePath) {
  std::string path;
  int at = ::open(data().c_str(), O_PATH);
  for (std::size_t i = 0; i <= kPathDepthMax; ++i) {
    ASSERT_EQ(::mkdirat(at, "d", 0777), 0);
    const int next = ::openat(at, "d", O_PATH);
    ::close(at);
    at = next;
    path += i == 0 ? "d" : "/d";
    if (i == kPathDepthMax) {
      EXPECT_EQ(Stat(path), Errno::kSuccess);
    }
  }
  ::close(at);
  EXPECT_EQ(Stat(path + "/d"), Errno::kNameTooLong);
}

TEST_F(WasiPathTest, CreatesTruncatesAndRefusesAsFlagsSay) {
  Write(Create("new"), "text");
  EXPECT_EQ(TryOpen("new", kOpenCreate | kOpenExclusive, kWriteRights), Errno::kExist);
  EXPECT_EQ(TryOpen("new", kOpenDirectory), Errno::kNotDir);
  EXPECT_EQ(TryOpen("a", 0, kWriteRights), Errno::kIsDir);
  EXPECT_EQ(TryOpen("other/", kOpenCreate, kWriteRights), Errno::kIsDir);
  EXPECT_EQ(TryOpen("other", kOpenCreate | kOpenDirectory, kWriteRights), Errno::kInval);
  EXPECT_EQ(TryOpen("other", 16), Errno::kInval);
  EXPECT_EQ(TryOpen("new", 0, kReadRights, 0, 32), Errno::kInval);
  EXPECT_EQ(ReadHost(data() / "new"), "text");
  Open("new", kOpenTruncate, kWriteRights);
  EXPECT_EQ(ReadHost(data() / "new"), "");
}

TEST_F(WasiPathTest, AFolderCannotBeOpenedForWriting) {
  const Rights both = right::kFdRead | right::kFdWrite;
  EXPECT_EQ(TryOpen("a", kOpenDirectory, right::kFdRead), Errno::kSuccess);
  EXPECT_EQ(TryOpen("a", kOpenDirectory, both), Errno::kIsDir);
  EXPECT_EQ(TryOpen("a/", 0, both), Errno::kIsDir);
  EXPECT_EQ(TryOpen("a", 0, both), Errno::kIsDir);
  EXPECT_EQ(TryOpen("a/b/file", kOpenDirectory, both), Errno::kNotDir);
}

TEST_F(WasiPathTest, APipeInAFolderIsRefusedInsteadOfWaitedFor) {
  ASSERT_EQ(::mkfifo((data() / "fifo").c_str(), 0600), 0);
  EXPECT_EQ(TryOpen("fifo"), Errno::kNotSup);
}

TEST_F(WasiPathTest, AReadOnlyFolderRefusesEveryChange) {
  WasiOptions options = Options();
  options.preopens[0].read_only = true;
  Start(std::move(options));
  const u32 fd = Open("a/b/file");
  EXPECT_EQ(Read(fd, 10), "inside");
  EXPECT_EQ(TryOpen("a/b/file", 0, kWriteRights), Errno::kRoFs);
  EXPECT_EQ(TryOpen("a/b/file", kOpenTruncate), Errno::kRoFs);
  EXPECT_EQ(TryOpen("new", kOpenCreate), Errno::kRoFs);
  EXPECT_EQ(MakeFolder("new"), Errno::kRoFs);
  EXPECT_EQ(Unlink("a/b/file"), Errno::kRoFs);
  EXPECT_EQ(Rename("a", "z"), Errno::kRoFs);
  EXPECT_EQ(Symlink("a", "z"), Errno::kRoFs);
  EXPECT_EQ(calls().path_remove_directory(guest_, 3, PathAt(0, "a"), 1), Errno::kRoFs);
  EXPECT_EQ(calls().path_link(guest_, 3, 0, PathAt(0, "a/b/file"), 8, 3, PathAt(1, "z"), 1), Errno::kRoFs);
  EXPECT_EQ(calls().path_filestat_set_times(guest_, 3, 0, PathAt(0, "a"), 1, 0, 0, kSetMtimNow), Errno::kRoFs);
  EXPECT_EQ(calls().fd_filestat_set_times(guest_, 3, 0, 0, kSetMtimNow), Errno::kRoFs);
  EXPECT_EQ(OpenFolder("a"), fd + 1);
}

TEST_F(WasiPathTest, MakesRenamesLinksAndRemoves) {
  ASSERT_EQ(MakeFolder("c"), Errno::kSuccess);
  EXPECT_EQ(MakeFolder("c"), Errno::kExist);
  EXPECT_EQ(MakeFolder("d/"), Errno::kSuccess);
  ASSERT_EQ(Rename("a/b/file", "c/moved"), Errno::kSuccess);
  EXPECT_EQ(Rename("c/moved", "d/x/"), Errno::kNotDir);
  ASSERT_EQ(calls().path_link(guest_, 3, 0, PathAt(0, "c/moved"), 7, 3, PathAt(1, "hard"), 4), Errno::kSuccess);
  EXPECT_EQ(ReadHost(data() / "hard"), "inside");
  EXPECT_EQ(calls().path_remove_directory(guest_, 3, PathAt(0, "c"), 1), Errno::kNotEmpty);
  EXPECT_EQ(calls().path_remove_directory(guest_, 3, PathAt(0, "hard"), 4), Errno::kNotDir);
  EXPECT_EQ(Unlink("c"), Errno::kIsDir);
  EXPECT_EQ(Unlink("c/moved/"), Errno::kNotDir);
  EXPECT_EQ(Unlink("c/moved"), Errno::kSuccess);
  EXPECT_EQ(Unlink("c/moved"), Errno::kNoEnt);
  EXPECT_EQ(calls().path_remove_directory(guest_, 3, PathAt(0, "c/"), 2), Errno::kSuccess);
}

TEST_F(WasiPathTest, MakesAndReadsLinks) {
  EXPECT_EQ(Symlink("/etc/passwd", "out"), Errno::kPerm);
  EXPECT_EQ(Symlink("", "out"), Errno::kNoEnt);
  ASSERT_EQ(Symlink("a/b/file", "link"), Errno::kSuccess);
  EXPECT_EQ(Symlink("x", "link"), Errno::kExist);
  ASSERT_EQ(calls().path_readlink(guest_, 3, PathAt(0, "link"), 4, kBuffer, 100, kOut), Errno::kSuccess);
  EXPECT_EQ(Taken(), "a/b/file");
  ASSERT_EQ(calls().path_readlink(guest_, 3, PathAt(0, "link"), 4, kBuffer, 3, kOut), Errno::kSuccess);
  EXPECT_EQ(Taken(), "a/b");
  EXPECT_EQ(calls().path_readlink(guest_, 3, PathAt(0, "a"), 1, kBuffer, 3, kOut), Errno::kInval);
  EXPECT_EQ(Unlink("link"), Errno::kSuccess);
  EXPECT_TRUE(std::filesystem::exists(data() / "a/b/file"));
}

}  // namespace
}  // namespace godwit::runtime::wasi
