#include "compiler/partition.h"

#include <gtest/gtest.h>

#include <map>
#include <optional>

namespace godwit::compiler {
namespace {

// `count` functions of about 1 KiB each, of which `changed` differs from what it is in the module without.
Bytes ModuleOf(std::uint32_t count, std::optional<std::uint32_t> changed = {}, std::uint32_t longer = 0) {
  const auto leb = [](Bytes& out, std::uint32_t value) {
    for (; value >= 0x80; value >>= 7) out.push_back(static_cast<std::uint8_t>(value | 0x80));
    out.push_back(static_cast<std::uint8_t>(value));
  };
  Bytes functions, code;
  leb(functions, count);
  leb(code, count);
  for (std::uint32_t i = 0; i < count; ++i) {
    functions.push_back(0);
    Bytes body{0};
    for (std::uint32_t k = 0; k < 340 + (i == changed ? longer : 0); ++k) {
      body.insert(body.end(), {0x41, static_cast<std::uint8_t>((i * 7 + k + (i == changed)) % 64), 0x1a});  // i32.const, drop
    }
    body.push_back(0x0b);
    leb(code, static_cast<std::uint32_t>(body.size()));
    code.insert(code.end(), body.begin(), body.end());
  }
  Bytes binary{0, 'a', 's', 'm', 1, 0, 0, 0, 1, 4, 1, 0x60, 0, 0};
  for (const auto& [id, content] : {std::pair<std::uint8_t, Bytes>{3, functions}, {10, code}}) {
    binary.push_back(id);
    leb(binary, static_cast<std::uint32_t>(content.size()));
    binary.insert(binary.end(), content.begin(), content.end());
  }
  return binary;
}

std::vector<Partition> MustDivide(const Bytes& binary, const std::string& settings = "") {
  auto module = wasm::Read(binary, "test");
  EXPECT_TRUE(module.ok());
  return Divide(*module, settings);
}

constexpr std::uint32_t kFunctions = 2000;

TEST(PartitionTest, AllFunctionsAreInOneInOrder) {
  const auto partitions = MustDivide(ModuleOf(kFunctions));
  EXPECT_GT(partitions.size(), 5u);
  std::uint32_t next = 0;
  for (const Partition& partition : partitions) {
    EXPECT_EQ(partition.first, next);
    EXPECT_LE(partition.bytes, kPartitionBytesMax + 2048);
    next = partition.end;
  }
  EXPECT_EQ(next, kFunctions);
}

TEST(PartitionTest, AModuleWithoutFunctionsHasOnePartition) {
  const auto partitions = MustDivide({0, 'a', 's', 'm', 1, 0, 0, 0});
  ASSERT_EQ(partitions.size(), 1u);
  EXPECT_EQ(partitions[0].first, partitions[0].end);
}

TEST(PartitionTest, AChangeInOneFunctionChangesItsPartitionOnly) {
  std::map<std::string, int> before;
  for (const Partition& partition : MustDivide(ModuleOf(kFunctions))) ++before[partition.key];
  for (const std::uint32_t longer : {0u, 40u}) {
    std::size_t changed = 0;
    for (const Partition& partition : MustDivide(ModuleOf(kFunctions, 700, longer))) {
      changed += !before.contains(partition.key);
    }
    // More than one where the function was, or became, the end of one: the next ends soon agree again.
    EXPECT_GE(changed, 1u);
    EXPECT_LE(changed, 3u);
  }
}

TEST(PartitionTest, SettingsAndDeclarationsAreInTheKey) {
  const Bytes binary = ModuleOf(3);
  Bytes with_memory = binary;
  const Bytes memory{5, 3, 1, 0, 1};
  with_memory.insert(with_memory.begin() + 14 + 2 + 4, memory.begin(), memory.end());
  const std::string key = MustDivide(binary)[0].key;
  EXPECT_NE(MustDivide(binary, "O3")[0].key, key);
  EXPECT_NE(MustDivide(with_memory)[0].key, key);
  EXPECT_EQ(MustDivide(binary)[0].key, key);
}

}  // namespace
}  // namespace godwit::compiler
