#include "migration/block_codec.h"

#include <gtest/gtest.h>

#include <random>

namespace godwit::migration {
namespace {

using namespace std::chrono_literals;

constexpr std::uint64_t kBatch = 512 << 10;

// A stream over a link and with a codec of these speeds (ns per byte) and this yield; true if the last of `bytes` are compressed.
bool Ends(double link_ns, double codec_ns, double ratio, std::uint64_t bytes, CodecPolicy& policy) {
  for (std::uint64_t sent = 0; sent < bytes; sent += kBatch) {
    const bool packs = policy.packs();
    const auto wire = static_cast<std::uint64_t>(static_cast<double>(kBatch) * (packs ? ratio : 1));
    policy.Add({kBatch, wire, std::chrono::nanoseconds(packs ? static_cast<std::int64_t>(codec_ns * kBatch) : 0),
                std::chrono::nanoseconds(static_cast<std::int64_t>(link_ns * static_cast<double>(wire)))});
  }
  return policy.packs();
}

TEST(CodecPolicyTest, CompressesWhereTheLinkIsSlowerThanTheCodec) {
  CodecPolicy slow, fast, dense;
  EXPECT_TRUE(Ends(8, 2.5, 0.3, 32 << 20, slow)) << "1 Gbit/s";
  EXPECT_FALSE(Ends(0.8, 2.5, 0.3, 32 << 20, fast)) << "10 Gbit/s";
  EXPECT_FALSE(Ends(8, 2.5, 0.99, 32 << 20, dense)) << "nothing to gain";
}

TEST(CodecPolicyTest, SmallMovesAreSentAsTheyAre) {
  CodecPolicy policy;
  EXPECT_FALSE(Ends(8, 2.5, 0.3, 4 << 20, policy));
}

TEST(CodecPolicyTest, ASlowLinkIsKnownAfterAFewBlocks) {
  CodecPolicy policy;
  EXPECT_TRUE(Ends(200, 2.5, 0.3, 3 << 20, policy)) << "40 Mbit/s";
}

TEST(CodecPolicyTest, FollowsALinkThatChanges) {
  CodecPolicy policy;
  ASSERT_TRUE(Ends(8, 2.5, 0.3, 32 << 20, policy));
  EXPECT_FALSE(Ends(0.8, 2.5, 0.3, 300 << 20, policy));
  EXPECT_TRUE(Ends(8, 2.5, 0.3, 300 << 20, policy));
}

TEST(BlockCodecTest, PacksWhatGetsSmallerAndNothingElse) {
  BlockCodec codec;
  Bytes packed{7};
  const Bytes even(16 << 10, 3);
  const auto bytes = codec.Pack(even, packed);
  ASSERT_TRUE(bytes);
  EXPECT_EQ(packed.size(), 1 + *bytes);
  EXPECT_LT(*bytes, 100u);
  Bytes back(even.size());
  EXPECT_EQ(ZSTD_decompress(back.data(), back.size(), packed.data() + 1, *bytes), back.size());
  EXPECT_EQ(back, even);
  std::mt19937_64 random(1);
  Bytes noise(16 << 10);
  for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random());
  EXPECT_FALSE(codec.Pack(noise, packed));
  EXPECT_EQ(packed.size(), 1 + *bytes);
}

}  // namespace
}  // namespace godwit::migration
