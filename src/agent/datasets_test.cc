#include "agent/datasets.h"
#include "base/fresh_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include <fmt/format.h>

namespace godwit::agent {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

class DatasetsTest : public ::testing::TestWithParam<bool> {
 protected:
  DatasetsTest() {
    Restart();
    std::mt19937_64 random(7);
    for (std::size_t i = 0; i < 100'001; ++i) bytes_.push_back(static_cast<std::uint8_t>(random()));
  }
  void Restart() { datasets_ = Datasets::Create(folder_, GetParam()).value(); }
  void Put(const std::string& name, ByteView bytes) {
    auto writer = datasets_->Write(model::DatasetName(name)).value();
    std::size_t pieces = 1;
    for (ByteView left = bytes; !left.empty(); pieces = pieces * 3 % 7919 + 1) {
      const ByteView piece = left.first(std::min(left.size(), pieces));
      ASSERT_TRUE(writer->Write(piece).ok());
      left = left.subspan(piece.size());
    }
    const auto info = writer->Commit();
    ASSERT_TRUE(info.ok()) << info.error().message;
    EXPECT_EQ(info->bytes, bytes.size());
  }
  // Changes a byte behind its back.
  void Damage(const std::string& file, std::uint64_t at) {
    std::fstream there(folder_ / "data" / file, std::ios::in | std::ios::out | std::ios::binary);
    there.seekg(static_cast<std::streamoff>(at));
    const int byte = there.get();
    there.seekp(static_cast<std::streamoff>(at));
    there.put(static_cast<char>(byte ^ 1));
  }
  std::shared_ptr<const Dataset> Open(const std::string& name) { return datasets_->Open(model::DatasetName(name)).value(); }
  static Result<Bytes> Read(const Dataset& dataset, std::uint64_t offset, std::size_t bytes) {
    Bytes to(bytes);
    GODWIT_ASSIGN(const std::size_t got, dataset.Read(offset, to));
    to.resize(got);
    return to;
  }
  Bytes Wanted(std::uint64_t offset, std::size_t bytes) const {
    const ByteView part = ByteView(bytes_).subspan(std::min<std::size_t>(offset, bytes_.size()));
    return {part.begin(), part.begin() + static_cast<std::ptrdiff_t>(std::min(bytes, part.size()))};
  }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
  std::unique_ptr<Datasets> datasets_;
  Bytes bytes_;
};

TEST_P(DatasetsTest, AnyRangeIsRead) {
  Put("a", bytes_);
  Restart();
  const auto dataset = Open("a");
  EXPECT_EQ(dataset->size(), bytes_.size());
  for (const std::uint64_t offset : {0, 1, 4095, 4096, 4097, 8192, 98'303, 98'304, 100'000, 100'001, 200'000}) {
    for (const std::size_t bytes : {0, 1, 4095, 4096, 4097, 20'000, 300'000}) {
      const auto read = Read(*dataset, offset, bytes);
      ASSERT_TRUE(read.ok()) << read.error().message;
      EXPECT_TRUE(*read == Wanted(offset, bytes)) << bytes << " at " << offset;
    }
  }
  for (const std::size_t size : {0, 1, 4096, 8192}) {
    Put("of-that-size", ByteView(bytes_).first(size));
    EXPECT_EQ(Read(*Open("of-that-size"), 0, 1 << 20)->size(), size);
  }
}

TEST_P(DatasetsTest, DamageIsNamedWhereItIsAndNowhereElse) {
  Put("a", bytes_);
  const auto dataset = Open("a");
  Damage("a/bytes", 50'000);
  for (const auto& [offset, bytes] : {std::pair<std::uint64_t, std::size_t>{0, 100'001}, {50'000, 1}, {49'152, 4096}, {49'152, 1}, {40'000, 10'000}}) {
    const auto read = Read(*dataset, offset, bytes);
    ASSERT_FALSE(read.ok()) << bytes << " at " << offset;
    EXPECT_EQ(read.error().code, ErrorCode::kCorrupt);
    EXPECT_EQ(read.error().message, "dataset 'a' is damaged: its 4096 bytes at 49152 are not what was put there");
  }
  EXPECT_TRUE(Read(*dataset, 0, 49'152).ok());
  EXPECT_TRUE(Read(*dataset, 53'248, 100'000).ok());
  EXPECT_THAT(datasets_->FolderOf(model::ServiceName("reader"), {model::DatasetName("a")}).error().message, HasSubstr("dataset 'a' is damaged"));
  Put("a", bytes_);
  EXPECT_TRUE(Read(*Open("a"), 0, 100'001).ok());
  EXPECT_TRUE(datasets_->FolderOf(model::ServiceName("reader"), {model::DatasetName("a"), model::DatasetName("absent")}).ok());
}

TEST_P(DatasetsTest, DamagedSumsAndShortFilesAreNamed) {
  for (const std::uint64_t at : {0, 9, 17, 100, 223}) {
    Put("a", bytes_);
    Damage("a/sums", at);
    const auto opened = datasets_->Open(model::DatasetName("a"));
    ASSERT_FALSE(opened.ok()) << at;
    EXPECT_THAT(opened.error().message, HasSubstr("data/a/sums is damaged"));
  }
  Put("a", bytes_);
  if (!GetParam()) {  // A mapped file that becomes shorter under the process ends it, as a torn-out memory module would.
    const auto open = Open("a");
    fs::resize_file(folder_ / "data/a/bytes", 60'000);
    EXPECT_THAT(Read(*open, 0, 100'001).error().message, HasSubstr("its file ends at 60000"));
  }
  fs::resize_file(folder_ / "data/a/bytes", 60'000);
  Restart();
  EXPECT_THAT(datasets_->Open(model::DatasetName("a")).error().message, HasSubstr("does not fit its dataset"));
}

TEST_P(DatasetsTest, AReplacedOneIsReadOnAndNothingHalfWrittenIsSeen) {
  Put("a", bytes_);
  const auto before = Open("a");
  {
    auto writer = datasets_->Write(model::DatasetName("a")).value();
    ASSERT_TRUE(writer->Write(ByteView(bytes_).first(10)).ok());
  }
  EXPECT_TRUE(fs::is_empty(folder_ / "new"));
  Put("a", ByteView(bytes_).subspan(5));
  EXPECT_TRUE(*Read(*before, 0, 100'001) == bytes_);
  EXPECT_TRUE(*Read(*Open("a"), 0, 100'001) == Wanted(5, 100'001));
  EXPECT_TRUE(fs::is_empty(folder_ / "new"));
  // What a process left that was killed while it wrote.
  fs::create_directory(folder_ / "new/a.abcdef");
  std::ofstream(folder_ / "new/a.abcdef/bytes") << "half";
  std::ofstream(folder_ / "data/stray") << "of another kind";
  Restart();
  EXPECT_TRUE(fs::is_empty(folder_ / "new"));
  ASSERT_EQ(datasets_->List().size(), 1u);
  EXPECT_EQ(datasets_->List()[0].digest.size(), std::string("sha256:").size() + 64);
  EXPECT_TRUE(*Read(*Open("a"), 0, 100'001) == Wanted(5, 100'001));
  EXPECT_TRUE(datasets_->Remove(model::DatasetName("a")).ok());
  EXPECT_EQ(datasets_->Open(model::DatasetName("a")).error().code, ErrorCode::kNotFound);
  Restart();
  EXPECT_TRUE(datasets_->List().empty());
}

INSTANTIATE_TEST_SUITE_P(Both, DatasetsTest, ::testing::Bool(), [](const auto& of) { return of.param ? "mapped" : "read"; });

}  // namespace
}  // namespace godwit::agent
