#include "runtime/file_window.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

namespace godwit::runtime {
namespace {

constexpr std::uint64_t kAlignment = FileWindow::kAlignment;

class FileWindowTest : public ::testing::Test {
 protected:
  static constexpr std::uint64_t kRoom = 3 * kAlignment;
  FileWindowTest() : room_(static_cast<std::uint8_t*>(mmap(nullptr, kRoom, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)), kRoom) {
    file_ = memfd_create("file", MFD_CLOEXEC);
    Bytes bytes(2 * kAlignment + 1000);
    for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::uint8_t>(i >> 12 | 1);
    EXPECT_EQ(write(file_, bytes.data(), bytes.size()), static_cast<ssize_t>(bytes.size()));
    size_ = bytes.size();
  }
  ~FileWindowTest() override {
    munmap(room_.data(), room_.size());
    close(file_);
  }
  bool IsZero() const { return std::all_of(room_.begin(), room_.end(), [](std::uint8_t byte) { return byte == 0; }); }

  std::span<std::uint8_t> room_;
  int file_ = -1;
  std::uint64_t size_ = 0;
};

TEST_F(FileWindowTest, ShowsAFileUntilItIsCleared) {
  FileWindow window(room_);
  ASSERT_GE(window.bytes(), 2 * kAlignment);
  const auto shown = window.Show(file_, 0, size_);
  ASSERT_TRUE(shown.ok()) << shown.error().message;
  ASSERT_EQ(shown->size(), std::min(window.bytes(), size_));
  EXPECT_GE(shown->data(), room_.data());
  EXPECT_EQ((*shown)[0], 1);
  EXPECT_EQ((*shown)[kAlignment], static_cast<std::uint8_t>(kAlignment >> 12 | 1));
  (*shown)[0] = 99;  // The guest's own copy.
  std::uint8_t there = 0;
  EXPECT_EQ(pread(file_, &there, 1, 0), 1);
  EXPECT_EQ(there, 1);
  window.Clear();
  EXPECT_TRUE(IsZero());
}

TEST_F(FileWindowTest, OfTheFilesEndThereIsNoMoreThanTheFileHas) {
  FileWindow window(room_);
  ASSERT_TRUE(window.Show(file_, 0, size_).ok());
  const auto end = window.Show(file_, 2 * kAlignment, size_);
  ASSERT_TRUE(end.ok());
  EXPECT_EQ(end->size(), 1000u);
  EXPECT_TRUE(std::all_of(end->data() + 1000, end->data() + 2 * kAlignment, [](std::uint8_t byte) { return byte == 0; })) << "nothing of what was shown before";
  const auto beyond = window.Show(file_, 4 * kAlignment, size_);
  EXPECT_TRUE(beyond.ok() && beyond->empty());
  EXPECT_TRUE(IsZero());
}

TEST_F(FileWindowTest, TakesWhatIsAlignedInItsRoom) {
  FileWindow window(room_.subspan(1, 2 * kAlignment));
  EXPECT_GE(window.bytes(), kAlignment);
  EXPECT_LT(window.bytes(), 2 * kAlignment);
  const auto shown = window.Show(file_, 0, size_);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(shown->data()) % kAlignment, 0u);
  EXPECT_EQ(FileWindow(room_.first(1000)).bytes(), 0u);
}

TEST_F(FileWindowTest, AFileThatCannotBeMappedIsRefused) {
  FileWindow window(room_);
  int pipes[2];
  ASSERT_EQ(pipe(pipes), 0);
  EXPECT_FALSE(window.Show(pipes[0], 0, size_).ok());
  EXPECT_TRUE(IsZero());
  close(pipes[0]);
  close(pipes[1]);
}

TEST_F(FileWindowTest, ClearsWhenItGoes) {
  { ASSERT_TRUE(FileWindow(room_).Show(file_, 0, size_).ok()); }
  EXPECT_TRUE(IsZero());
}

}  // namespace
}  // namespace godwit::runtime
