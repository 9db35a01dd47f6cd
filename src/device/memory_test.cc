#include "device/memory.h"

#include <gtest/gtest.h>

namespace godwit::device {
namespace {

using namespace std::chrono_literals;

TEST(FunctionMemoryTest, WhatIsUsedIsKept) {
  FunctionMemory memory({100}, {100});
  const auto begin = FunctionMemory::Clock::now();
  const Capability used = memory.Allocate("alice", 40, 10s, begin).value(), left = memory.Allocate("alice", 40, 10s, begin).value();
  EXPECT_TRUE(memory.Resolve({used, 0, 1}, Rights::kRead, begin + 9s).ok());
  EXPECT_FALSE(memory.Allocate("alice", 60, {}, begin + 9s).ok()) << "neither was unused for so long";
  EXPECT_TRUE(memory.Allocate("alice", 60, {}, begin + 10s).ok());
  EXPECT_TRUE(memory.Resolve({used, 0, 1}, Rights::kRead, begin + 10s).ok());
  EXPECT_EQ(memory.Resolve({left, 0, 1}, Rights::kRead, begin + 10s).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(memory.used().value, 100u);
}

TEST(FunctionMemoryTest, NoTimeIsForever) {
  FunctionMemory memory({100}, {100});
  const auto begin = FunctionMemory::Clock::now();
  const Capability all = memory.Allocate("alice", 100, {}, begin).value();
  EXPECT_EQ(memory.Allocate("alice", 1, {}, begin + 24h).error().code, ErrorCode::kResourceExhausted);
  EXPECT_TRUE(memory.Free(all).ok());
  EXPECT_EQ(memory.allocations(), 0u);
}

}  // namespace
}  // namespace godwit::device
