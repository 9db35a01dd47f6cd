#include "device/ucx.h"

#include <gtest/gtest.h>

#include <future>

#include "device/engine.h"

namespace godwit::device {
namespace {

using namespace std::chrono_literals;

// Takes requests and answers none until it is told to.
class Silent final : public Device {
 public:
  void Submit(Request request, Done done) override {
    const std::lock_guard lock(mutex_);
    waiting_.emplace_back(request.id, std::move(done));
    changed_.notify_all();
  }
  void Await(std::size_t requests) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return waiting_.size() >= requests; });
  }
  std::unique_lock<std::mutex> Busy() { return std::unique_lock(mutex_); }
  void AnswerAll() {
    std::vector<std::pair<std::uint64_t, Done>> waiting;
    {
      const std::lock_guard lock(mutex_);
      waiting.swap(waiting_);
    }
    for (auto& [id, done] : waiting) {
      Completion completion;
      completion.id = id;
      completion.data.assign(kDataBytesMax, 7);
      done(std::move(completion));
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::pair<std::uint64_t, Done>> waiting_;
};

class UcxTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const Status loaded = Ucx::Load();
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    there_ = Ucx::Start("127.0.0.1", &device_).value();
    here_ = Ucx::Start("127.0.0.1", nullptr).value();
  }
  static Request Health() {
    Request request;
    request.opcode = Opcode::kHealth;
    request.tenant = "t";
    return request;
  }

  Silent device_;
  std::unique_ptr<Ucx> there_, here_;
};

TEST_F(UcxTest, AnInvitationIsGoodForOneConnection) {
  const UcxInvitation invitation = there_->Invite().value();
  const auto first = here_->Connect(invitation);
  ASSERT_TRUE(first.ok()) << first.error().message;
  const auto second = here_->Connect(invitation);
  ASSERT_FALSE(second.ok());
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  EXPECT_TRUE(here_->Connect(there_->Invite().value()).ok());
}

TEST_F(UcxTest, NobodyIsServedWhoWasNotInvited) {
  UcxInvitation forged = there_->Invite().value();
  forged.ticket[15] ^= 1;
  EXPECT_FALSE(here_->Connect(forged).ok());
  forged.port = 1;
  EXPECT_FALSE(here_->Connect(forged).ok());
  forged.address = "no address";
  const auto named = here_->Connect(forged);
  ASSERT_FALSE(named.ok());
  EXPECT_EQ(named.error().code, ErrorCode::kInvalidArgument);
}

TEST_F(UcxTest, ThoseWhoWereInvitedAndDoNotComeAreLimited) {
  Result<UcxInvitation> invitation = there_->Invite();
  for (int i = 0; i < 1000 && invitation.ok(); ++i) invitation = there_->Invite();
  ASSERT_FALSE(invitation.ok());
  EXPECT_EQ(invitation.error().code, ErrorCode::kResourceExhausted);
}

TEST_F(UcxTest, WhatIsUnderWayIsUnavailableOnceTheDeviceIsGone) {
  const auto device = here_->Connect(there_->Invite().value()).value();
  Queue queue(*device);
  queue.Submit(Health());
  device_.Await(1);
  there_.reset();
  const auto lost = queue.Wait(60s);
  ASSERT_TRUE(lost);
  EXPECT_EQ(lost->status.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(device->Call(Health(), 60s).status.error().code, ErrorCode::kUnavailable);
  device_.AnswerAll();  // To nobody.
}

TEST_F(UcxTest, WhatIsUnderWayEndsWithThisEnd) {
  const auto device = here_->Connect(there_->Invite().value()).value();
  Queue queue(*device);
  queue.Submit(Health());
  device_.Await(1);
  here_.reset();
  EXPECT_EQ(queue.Wait(60s).value().status.error().code, ErrorCode::kUnavailable);
  EXPECT_EQ(device->Call(Health(), 60s).status.error().code, ErrorCode::kUnavailable);
}

TEST_F(UcxTest, ARequestWithoutATenantIsRefused) {
  const auto device = here_->Connect(there_->Invite().value()).value();
  Request request = Health();
  request.tenant.clear();
  EXPECT_EQ(device->Call(request, 60s).status.error().code, ErrorCode::kPermissionDenied);
}

TEST_F(UcxTest, WhatTheDeviceDoesNotTakeIsLimited) {
  const auto device = here_->Connect(there_->Invite().value()).value();
  Queue queue(*device);
  Request request = Health();
  request.data.assign(kDataBytesMax, 1);
  std::size_t refused = 0;
  {
    const auto busy = device_.Busy();  // Whoever gives it a request waits, and takes no other.
    for (std::size_t i = 0; i < 2 * kUcxUnsentBytesMax / kDataBytesMax; ++i) queue.Submit(request);
    for (auto ended = queue.Poll(); ended; ended = queue.Poll()) {
      ++refused;
      EXPECT_EQ(ended->status.error().code, ErrorCode::kResourceExhausted);
    }
  }
  EXPECT_GT(refused, 0u);
  EXPECT_LT(refused, kUcxUnsentBytesMax / kDataBytesMax);
  while (queue.under_way() > 0) {  // What was not refused is answered.
    device_.AnswerAll();
    while (const auto ended = queue.Poll()) EXPECT_TRUE(ended->status.ok());
  }
}

TEST_F(UcxTest, WhoDoesNotTakeCompletionsLosesTheConnection) {
  const auto device = here_->Connect(there_->Invite().value()).value();
  std::promise<void> slow;
  device->Submit(Health(), [taken = slow.get_future().share()](Completion) { taken.wait(); });
  constexpr std::size_t kMore = 2 * kUcxUnsentBytesMax / kDataBytesMax;
  Queue queue(*device);
  for (std::size_t i = 0; i < kMore; ++i) queue.Submit(Health());
  device_.Await(kMore + 1);
  device_.AnswerAll();
  slow.set_value();
  std::size_t lost = 0;
  for (std::size_t i = 0; i < kMore; ++i) {
    const auto ended = queue.Wait(60s);
    ASSERT_TRUE(ended);
    if (ended->status.ok()) continue;
    ++lost;
    EXPECT_EQ(ended->status.error().code, ErrorCode::kUnavailable);
  }
  EXPECT_GT(lost, 0u);
}

TEST_F(UcxTest, ServedConnectionsAreLimited) {
  std::vector<std::unique_ptr<Device>> devices;
  for (std::size_t i = 0; i < kUcxConnectionsMax; ++i) devices.push_back(here_->Connect(there_->Invite().value()).value());
  EXPECT_FALSE(here_->Connect(there_->Invite().value()).ok());
  devices.pop_back();
  // That it was closed is noticed at the other end in time.
  Result<std::unique_ptr<Device>> next = Unavailable("");
  for (const auto begin = std::chrono::steady_clock::now(); !next.ok() && std::chrono::steady_clock::now() - begin < 60s;) next = here_->Connect(there_->Invite().value());
  EXPECT_TRUE(next.ok());
}

TEST(UcxWithoutTest, AnAddressThatIsNotHereIsNamed) {
  ASSERT_TRUE(Ucx::Load().ok());
  Silent device;
  const auto none = Ucx::Start("192.0.2.1", &device);
  ASSERT_FALSE(none.ok());
  EXPECT_NE(none.error().message.find("192.0.2.1"), std::string::npos) << none.error().message;
}

}  // namespace
}  // namespace godwit::device
