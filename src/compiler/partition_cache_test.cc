#include "compiler/partition_cache.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <fstream>

#include "base/fresh_file.h"
#include "compiler/compile.h"

namespace godwit::compiler {
namespace {

namespace fs = std::filesystem;
using package::Isa;

class PartitionCacheTest : public testing::Test {
 protected:
  std::size_t Entries() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), fs::directory_iterator())); }
  void Age(const std::string& key, int seconds) const {
    for (const auto& entry : fs::directory_iterator(folder_)) {
      if (!entry.path().filename().string().starts_with(key)) continue;
      fs::last_write_time(entry, fs::file_time_type::clock::now() - std::chrono::seconds(seconds));
    }
  }

  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
  const std::vector<FunctionSafepoints> safepoints_{{7, {{SafepointKind::kCall, 24, {0, 8}}, {SafepointKind::kLoop, 4, {}}}}, {9, {}}};
  const Bytes object_{1, 2, 3, 4};
};

TEST_F(PartitionCacheTest, GivesBackWhatWasStoredForTheKeyAndIsa) {
  const PartitionCache cache(folder_);
  cache.Store("sha256:aa", Isa::kX86_64, safepoints_, object_);
  const auto found = cache.Find("sha256:aa", Isa::kX86_64);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->object, object_);
  ASSERT_EQ(found->safepoints.size(), 2u);
  EXPECT_EQ(found->safepoints[0].function, 7u);
  ASSERT_EQ(found->safepoints[0].safepoints.size(), 2u);
  EXPECT_EQ(found->safepoints[0].safepoints[0].payload_bytes, 24u);
  EXPECT_EQ(found->safepoints[0].safepoints[0].memory_pointers, (std::vector<std::uint32_t>{0, 8}));
  EXPECT_EQ(found->safepoints[0].safepoints[1].kind, SafepointKind::kLoop);
  EXPECT_FALSE(cache.Find("sha256:aa", Isa::kAarch64));
  EXPECT_FALSE(cache.Find("sha256:bb", Isa::kX86_64));
}

TEST_F(PartitionCacheTest, DamagedEntriesAreNotFound) {
  const PartitionCache cache(folder_);
  cache.Store("aa", Isa::kX86_64, safepoints_, object_);
  const fs::path path = *fs::directory_iterator(folder_);
  std::ifstream in(path, std::ios::binary);
  const std::string good{std::istreambuf_iterator<char>(in), {}};
  for (std::size_t at = 0; at < good.size(); at += 5) {
    for (const std::string& bad : {good.substr(0, at), good.substr(0, at) + static_cast<char>(good[at] ^ 1) + good.substr(at + 1)}) {
      std::ofstream(path, std::ios::binary | std::ios::trunc) << bad;
      EXPECT_FALSE(cache.Find("aa", Isa::kX86_64)) << at;
    }
  }
}

TEST_F(PartitionCacheTest, TrimmingRemovesWhatWasUsedLongestAgo) {
  const PartitionCache cache(folder_);
  for (const char* key : {"aa", "bb", "cc"}) cache.Store(key, Isa::kX86_64, safepoints_, object_);
  const std::uint64_t one = fs::file_size(*fs::directory_iterator(folder_));
  Age("aa", 30);
  Age("bb", 20);
  Age("cc", 10);
  EXPECT_TRUE(cache.Find("aa", Isa::kX86_64));  // Used again.
  cache.Trim({3 * one});
  EXPECT_EQ(Entries(), 3u);
  cache.Trim({3 * one - 1});
  EXPECT_FALSE(cache.Find("bb", Isa::kX86_64));
  EXPECT_TRUE(cache.Find("aa", Isa::kX86_64));
  EXPECT_TRUE(cache.Find("cc", Isa::kX86_64));
}

TEST_F(PartitionCacheTest, WithoutAFolderNothingIsKept) {
  const PartitionCache cache{fs::path()};
  cache.Store("aa", Isa::kX86_64, safepoints_, object_);
  EXPECT_FALSE(cache.Find("aa", Isa::kX86_64));
}

TEST_F(PartitionCacheTest, CompilingFromTheCacheGivesTheSameBytes) {
  constexpr std::string_view kModule = R"((module (memory 1)
    (func $f (export "f") (param i32) (result i32)
      (local $s i32)
      (loop $l (result i32)
        (local.set $s (i32.add (local.get $s) (i32.load (local.get 0))))
        (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 4))))
        (local.get $s)))
    (func (export "g") (param i32) (result i32) (i32.mul (call $f (local.get 0)) (local.get 0)))))";
  for (const int level : {0, 3}) {
    Options options;
    options.targets = {Isa::kX86_64, Isa::kAarch64};
    options.optimisation_level = level;
    const auto fresh = Compile(AsBytes(kModule), "test.wat", options);
    options.cache = folder_.string();
    std::string phases;
    options.progress = [&](std::uint64_t, std::uint64_t, std::string_view phase) { phases += phase; };
    const auto first = Compile(AsBytes(kModule), "test.wat", options);
    EXPECT_EQ(phases.find("cache"), std::string::npos);
    const auto second = Compile(AsBytes(kModule), "test.wat", options);
    EXPECT_NE(phases.find("cache"), std::string::npos);
    options.targets = {Isa::kX86_64};
    const auto one = Compile(AsBytes(kModule), "test.wat", options);
    options.cache.clear();
    const auto alone = Compile(AsBytes(kModule), "test.wat", options);
    ASSERT_TRUE(fresh.ok() && first.ok() && second.ok() && one.ok() && alone.ok());
    EXPECT_EQ(first->images, fresh->images);
    EXPECT_EQ(second->images, fresh->images);
    EXPECT_EQ(second->module, fresh->module);
    EXPECT_EQ(one->images.at(Isa::kX86_64), fresh->images.at(Isa::kX86_64));
    EXPECT_EQ(alone->images.at(Isa::kX86_64), fresh->images.at(Isa::kX86_64));
  }
}

}  // namespace
}  // namespace godwit::compiler
