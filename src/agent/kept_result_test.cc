#include "agent/kept_result.h"

#include <gtest/gtest.h>

#include "device/conformance.h"
#include "transport/transport_fixture.h"

namespace godwit::agent {
namespace {

using transport::Awaited;

class KeptResultTest : public ::testing::Test {
 protected:
  KeptResultTest() {
    std::string text;
    for (int i = 0; i < 100'000; ++i) text += std::to_string(i) + "\n";
    EXPECT_TRUE(storage_->Create("", "numbers", AsBytes(text)).ok());
    text_ = text;
    device::Engine::Options options;
    options.profile = {.name = "there", .device_class = "csd"};
    options.storage = storage_;
    options.built_in = device::BuiltInFunctions();
    engine_ = std::make_unique<device::Engine>(std::move(options));
  }
  device::Request Match(const std::string& pattern) {
    device::Request request;
    request.opcode = device::Opcode::kExecute;
    request.tenant = "orders";
    request.name = "numbers";
    request.function = 2;
    const std::string arguments = R"({"pattern": ")" + pattern + "\"}";
    request.data.assign(arguments.begin(), arguments.end());
    request.id = 7;
    return request;
  }
  // `pieces`: how many there were.
  Result<std::uint64_t> Keep(device::Request request, const std::string& result, int* pieces = nullptr) {
    Awaited<std::uint64_t> kept;
    std::optional<Error> error;
    const std::shared_ptr<device::Device> device(engine_.get(), [](device::Device*) {});
    KeepResult(device, [&](device::Request piece, device::Device::Done done) {
      if (pieces != nullptr) ++*pieces;
      device->Submit(std::move(piece), std::move(done));
    }, std::move(request), result, [&](Result<std::uint64_t> told) {
      if (!told.ok()) error = told.error();
      kept.Set(told.ok() ? *told : 0);
    });
    const std::uint64_t bytes = kept.Wait().value();
    EXPECT_NE(engine_->Call({.opcode = device::Opcode::kStatistics}).data.size(), 0u);
    EXPECT_NE(AsText(engine_->Call({.opcode = device::Opcode::kStatistics}).data).find("\"memory_used_bytes\":0"), std::string_view::npos) << "memory was left behind";
    return error ? Result<std::uint64_t>(*error) : bytes;
  }
  std::string Content(const std::string& name) {
    Bytes scratch;
    const auto source = storage_->Open("", name);
    return source.ok() ? std::string(AsText((*source)->Window(0, (*source)->size(), scratch).value())) : "none: " + source.error().message;
  }

  const std::shared_ptr<device::FakeStorage> storage_ = std::make_shared<device::FakeStorage>();
  std::unique_ptr<device::Engine> engine_;
  std::string text_;
};

TEST_F(KeptResultTest, AllPiecesAreKeptInOrder) {
  int pieces = 0;
  const auto kept = Keep(Match("."), "all", &pieces);
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  EXPECT_EQ(*kept, text_.size());
  EXPECT_GT(pieces, 1);
  EXPECT_EQ(Content("all"), text_);
}

TEST_F(KeptResultTest, MemoryOfACallerThatDiesIsFreedSomeDay) {
  std::uint64_t unused_for_us = 0;
  class Spy final : public device::Device {
   public:
    explicit Spy(std::uint64_t& told) : told_(told) {}
    void Submit(device::Request request, Done) override { told_ = request.value; }
    std::uint64_t& told_;
  };
  KeepResult(std::make_shared<Spy>(unused_for_us), nullptr, Match("."), "never", [](Result<std::uint64_t>) {});
  EXPECT_GE(unused_for_us, 60'000'000u);
  EXPECT_LE(unused_for_us, 3'600'000'000u);
}

TEST_F(KeptResultTest, NoOutputIsAnEmptyResult) {
  const auto kept = Keep(Match("none of them"), "empty");
  ASSERT_TRUE(kept.ok()) << kept.error().message;
  EXPECT_EQ(*kept, 0u);
  EXPECT_EQ(Content("empty"), "");
}

TEST_F(KeptResultTest, WhatFailsLeavesNothing) {
  EXPECT_FALSE(Keep(Match("("), "bad").ok());
  device::Request absent = Match(".");
  absent.name = "absent";
  EXPECT_FALSE(Keep(absent, "bad").ok());
  EXPECT_EQ(Content("bad").find("none: "), 0u);
}

TEST_F(KeptResultTest, AResultThatIsTooLargeIsRefused) {
  std::string large(kResultBytesMax + 1, 'x');
  for (std::size_t i = 100; i < large.size(); i += 101) large[i] = '\n';
  EXPECT_TRUE(storage_->Create("", "large", AsBytes(large)).ok());
  device::Request all = Match(".");
  all.name = "large";
  const auto kept = Keep(all, "copy");
  ASSERT_FALSE(kept.ok());
  EXPECT_EQ(kept.error().code, ErrorCode::kResourceExhausted) << kept.error().message;
  EXPECT_EQ(Content("copy").find("none: "), 0u);
}

}  // namespace
}  // namespace godwit::agent
