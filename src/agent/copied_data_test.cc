#include "agent/copied_data.h"

#include <gtest/gtest.h>

namespace godwit::agent {
namespace {

constexpr std::uint64_t kBlock = CopiedData::kBlockBytes;

std::shared_ptr<const Bytes> Block(std::uint64_t bytes = kBlock) { return std::make_shared<const Bytes>(bytes); }

TEST(CopiedDataTest, KeepsWhatWasUsedLast) {
  CopiedData data(3 * kBlock);
  for (std::uint64_t block = 0; block < 3; ++block) data.Put("a", block, Block());
  EXPECT_TRUE(data.Get("a", 0));
  data.Put("b", 7, Block());
  EXPECT_FALSE(data.Get("a", 1)) << "the least recently used";
  EXPECT_TRUE(data.Get("a", 0) && data.Get("a", 2) && data.Get("b", 7));
  EXPECT_FALSE(data.Get("b", 0));
  data.Put("a", 2, Block());
  EXPECT_EQ(data.bytes(), 3 * kBlock) << "the same block is not kept twice";
  CopiedData none(0);
  none.Put("a", 0, Block());
  EXPECT_EQ(none.bytes(), 0u);
  EXPECT_FALSE(none.Get("a", 0));
}

TEST(CopiedDataTest, OfEachCopyThereMayBeALimit) {
  CopiedData data(10 * kBlock, 1);
  data.Put("a", 0, Block());
  data.Put("b", 0, Block());
  data.Put("a", 1, Block());
  EXPECT_FALSE(data.Get("a", 0));
  EXPECT_TRUE(data.Get("a", 1) && data.Get("b", 0));
  EXPECT_EQ(data.bytes(), 2 * kBlock);
  CopiedData two(10 * kBlock, 2);
  for (const std::uint64_t block : {8, 9, 0, 1}) two.Put("a", block, Block());
  EXPECT_TRUE(two.Get("a", 0) && two.Get("a", 1)) << "what was put first goes, wherever it lies";
}

TEST(CopiedDataTest, TellsHowMuchOfARangeIsHere) {
  CopiedData data(10 * kBlock);
  EXPECT_EQ(data.Here("a", 0, 100), 0u);
  data.Put("a", 1, Block());
  data.Put("a", 3, Block(1000));
  EXPECT_EQ(data.Here("a", 0, 100 * kBlock), kBlock + 1000);
  EXPECT_EQ(data.Here("a", kBlock + 10, 2 * kBlock), kBlock - 10);
  EXPECT_EQ(data.Here("a", kBlock + 10, kBlock + 30), 20u);
  EXPECT_EQ(data.Here("a", 3 * kBlock + 900, 4 * kBlock), 100u);
  EXPECT_EQ(data.Here("a", 3 * kBlock + 2000, 4 * kBlock), 0u) << "behind the last byte";
  EXPECT_EQ(data.Here("a", 0, kBlock), 0u);
  EXPECT_EQ(data.Here("b", 0, 100 * kBlock), 0u);
}

}  // namespace
}  // namespace godwit::agent
