#include "runtime/recycled.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "runtime/guest_fixture.h"
#include "runtime/live_memory.h"
#include "snapshot/snapshot.h"

namespace godwit::runtime {
namespace {

using namespace test;  // NOLINT: the fixture's vocabulary.

constexpr std::uint64_t kInitialBytes = kMemoryPages * abi::kWasmPageBytes;

Cell AsCell(std::int32_t value) {
  Cell cell{};
  std::memcpy(cell.data(), &value, sizeof value);
  return cell;
}

std::unique_ptr<Instance> MustCreate(const Limits& limits = {}) {
  auto created = Instance::Create(LoadGuest(), {std::make_shared<TestHost>()}, limits);
  EXPECT_TRUE(created.ok()) << created.error().message;
  return std::move(created).value();
}

Outcome Call(Instance& instance, std::uint32_t function, const std::vector<Cell>& arguments = {}) {
  auto task = instance.Start(function, arguments);
  EXPECT_TRUE(task.ok()) << task.error().message;
  return instance.Run(task.value());
}

// What the guest's module declares, byte by byte.
void ExpectInitialState(Instance& instance) {
  ASSERT_EQ(instance.context()->memory_bytes, kInitialBytes);
  Bytes want(kInitialBytes, 0);
  std::copy(kActiveData.begin(), kActiveData.end(), want.begin() + kDataOffset);
  EXPECT_EQ(std::memcmp(instance.context()->memory, want.data(), want.size()), 0);
  const auto trapped = std::get<Trapped>(Call(instance, kLoad, {AsCell(static_cast<std::int32_t>(kInitialBytes))}));
  EXPECT_EQ(trapped.code, abi::TrapCode::kMemoryOutOfBounds);
}

TEST(RecycledTest, TheNextInstanceOfAModuleFindsItAsDeclared) {
  auto first = MustCreate();
  const std::uint8_t* const memory = first->context()->memory;
  Call(*first, kGrow, {AsCell(4)});
  std::memset(first->context()->memory, 0x5a, first->context()->memory_bytes);
  first.reset();
  auto second = MustCreate();
  ASSERT_EQ(second->context()->memory, memory) << "the memory was made anew, so that this tests nothing";
  ExpectInitialState(*second);
  Call(*second, kGrow, {AsCell(4)});
  for (std::uint64_t at = kInitialBytes; at < second->context()->memory_bytes; ++at) ASSERT_EQ(memory[at], 0) << at;
}

TEST(RecycledTest, TablesAreAsDeclaredToo) {
  const auto elements = [](Instance& instance) {
    const abi::Table& table = instance.context()->tables[0];
    return std::vector<std::uint32_t>(table.elements, table.elements + table.size);
  };
  auto instance = MustCreate();
  const std::vector<std::uint32_t> declared = elements(*instance);
  Call(*instance, kTableOps, {AsCell(0), AsCell(1)});
  ASSERT_GT(instance->context()->tables[0].size, declared.size());
  std::fill_n(instance->context()->tables[0].elements, instance->context()->tables[0].size, 3u);
  instance = nullptr;
  instance = MustCreate();
  EXPECT_EQ(elements(*instance), declared);
  Call(*instance, kTableOps, {AsCell(0), AsCell(1)});
  EXPECT_EQ(elements(*instance).back(), 0u);
}

TEST(RecycledTest, WhatATrapLeftIsLikeAnyOther) {
  auto instance = MustCreate();
  const std::uint8_t* const memory = instance->context()->memory;
  const auto outcome = Call(*instance, kFill, {AsCell(static_cast<std::int32_t>(kInitialBytes) - 100), AsCell(200)});
  ASSERT_TRUE(std::holds_alternative<Trapped>(outcome));
  ASSERT_NE(memory[kInitialBytes - 1], 0);
  instance = nullptr;
  instance = MustCreate();
  ASSERT_EQ(instance->context()->memory, memory);
  ExpectInitialState(*instance);
}

TEST(RecycledTest, ARestoredInstanceFindsOnlyItsSnapshot) {
  auto instance = MustCreate();
  instance->context()->memory[5 * 4096] = 7;
  const auto captured = instance->Capture();
  ASSERT_TRUE(captured.ok()) << captured.error().message;
  const auto encoded = snapshot::EncodeToBytes(captured.value());
  ASSERT_TRUE(encoded.ok());
  std::memset(instance->context()->memory, 0x5a, kInitialBytes);
  instance = nullptr;
  const auto snapshot = snapshot::Decode(encoded.value());
  ASSERT_TRUE(snapshot.ok()) << snapshot.error().message;
  auto restored = Instance::Restore(LoadGuest(), {std::make_shared<TestHost>()}, {}, snapshot.value());
  ASSERT_TRUE(restored.ok()) << restored.error().message;
  std::uint8_t* memory = restored.value()->context()->memory;
  ASSERT_EQ(memory[5 * 4096], 7);
  memory[5 * 4096] = 0;
  ExpectInitialState(**restored);
}

// Frames have gaps that nobody writes: what another call had there must not be found in a later snapshot.
TEST(RecycledTest, BuffersThatHeldFramesAreNotHandedOn) {
  const auto is_clean = [](Instance& instance) {
    auto task = instance.Start(kFill, std::vector<Cell>{AsCell(0), AsCell(64)});
    EXPECT_TRUE(task.ok());
    EXPECT_TRUE(std::holds_alternative<Returned>(instance.Run(task.value())));
    const std::uint8_t* frames = instance.context()->frames_base;
    return std::all_of(frames, frames + 256, [](std::uint8_t byte) { return byte == 0; });
  };
  auto instance = MustCreate();
  ASSERT_TRUE(is_clean(*instance));
  instance->StopEvery(1);
  auto task = instance->Start(kFill, std::vector<Cell>{AsCell(0), AsCell(64)});
  ASSERT_TRUE(std::holds_alternative<Captured>(instance->Run(task.value())));
  const std::uint8_t* frames = instance->context()->frames_base;
  ASSERT_TRUE(std::any_of(frames, frames + 256, [](std::uint8_t byte) { return byte != 0; }));
  instance->StopEvery(0);
  ASSERT_TRUE(std::holds_alternative<Returned>(instance->Run(task.value())));
  EXPECT_TRUE(is_clean(*instance));
  instance = nullptr;
  EXPECT_TRUE(is_clean(*MustCreate()));
}

TEST(RecycledTest, AMemoryThatSomebodyLooksAtIsLeftAlone) {
  auto instance = MustCreate();
  std::memset(instance->context()->memory, 0x5a, kInitialBytes);
  const auto seen = instance->memory();
  ASSERT_NE(seen, nullptr);
  instance = nullptr;
  instance = MustCreate();
  EXPECT_NE(instance->context()->memory, seen->base());
  EXPECT_EQ(seen->base()[0], 0x5a);
  ExpectInitialState(*instance);
}

TEST(RecycledTest, APoolKeepsSoMuchAndNoMore) {
  RemainsPool pool;
  EXPECT_EQ(pool.Take(), nullptr);
  for (std::size_t i = 0; i < kRemainsMax + 1; ++i) pool.Give(std::make_unique<Remains>());
  for (std::size_t i = 0; i < kRemainsMax; ++i) EXPECT_NE(pool.Take(), nullptr) << i;
  EXPECT_EQ(pool.Take(), nullptr);
}

}  // namespace
}  // namespace godwit::runtime
