#include "device/wire.h"

#include <gtest/gtest.h>

namespace godwit::device {
namespace {

Request Sample() {
  Request request;
  request.id = 7;
  request.opcode = Opcode::kBatch;
  request.tenant = "alice";
  request.deadline = std::chrono::microseconds(8);
  request.name = "object";
  request.offset = 9;
  request.ranges = {{{1, 2, 3, Rights::kRead, {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}}, 4, 5}};
  request.data = {1, 2, 3};
  Request step;
  step.opcode = Opcode::kRead;
  step.state = {4, 5};
  request.steps = {step, step};
  request.steps[1].after = {0};
  return request;
}

TEST(DeviceWireTest, RequestsAndCompletionsComeBackAsTheyWent) {
  const Request request = Sample();
  const auto back = DecodeRequest(Encode(request).value());
  ASSERT_TRUE(back.ok()) << back.error().message;
  EXPECT_EQ(back->tenant, "alice");
  EXPECT_EQ(back->deadline, request.deadline);
  EXPECT_EQ(back->ranges[0].capability.seal, request.ranges[0].capability.seal);
  EXPECT_EQ(back->ranges[0].capability.rights, Rights::kRead);
  EXPECT_EQ(back->ranges[0].bytes, 5u);
  EXPECT_EQ(back->data, request.data);
  EXPECT_EQ(back->steps[1].after, request.steps[1].after);
  EXPECT_EQ(back->steps[0].state, request.steps[0].state);
  Completion completion;
  completion.id = 3;
  completion.status = PermissionDenied("no");
  completion.capability = request.ranges[0].capability;
  completion.more = true;
  completion.energy_uj = 11;
  completion.steps.resize(2);
  completion.steps[1].data = {9};
  const auto answer = DecodeCompletion(Encode(completion).value());
  ASSERT_TRUE(answer.ok());
  EXPECT_EQ(answer->status.error().message, "no");
  EXPECT_EQ(answer->capability.seal, completion.capability.seal);
  EXPECT_TRUE(answer->more);
  EXPECT_EQ(answer->energy_uj, 11u);
  EXPECT_EQ(answer->steps[1].data, Bytes{9});
}

TEST(DeviceWireTest, DamageIsRefusedAtEachByteOrMeansSomethingElse) {
  const Bytes good = Encode(Sample()).value();
  for (std::size_t i = 0; i < good.size(); ++i) {
    Bytes damaged = good;
    damaged[i] ^= 0x41;
    static_cast<void>(DecodeRequest(damaged).ok());  // Under the sanitizers: it reads nothing that is not there.
    constexpr std::size_t kPadding = 8;
    if (i + kPadding > good.size()) continue;
    EXPECT_FALSE(DecodeRequest(ByteView(good).first(i)).ok()) << i;
  }
  EXPECT_EQ(DecodeCompletion(good).error().code, ErrorCode::kCorrupt) << "a request is no completion";
}

TEST(DeviceWireTest, LimitsHoldOnBothSides) {
  Request request = Sample();
  request.steps.resize(kStepsMax + 1);
  EXPECT_EQ(Encode(request).error().code, ErrorCode::kInvalidArgument);
  request = Sample();
  request.steps[0].steps = {Request()};
  EXPECT_FALSE(Encode(request).ok());
  request = Sample();
  request.data.resize(kDataBytesMax);
  request.state.resize(kDataBytesMax);
  EXPECT_NE(Encode(request).error().message.find("limited to"), std::string::npos);
  request.state.clear();
  EXPECT_TRUE(Encode(request).ok());
}

}  // namespace
}  // namespace godwit::device
