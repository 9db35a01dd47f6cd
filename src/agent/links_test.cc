#include "agent/links.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "device/conformance.h"
#include "device/remote.h"
#include "device/ring.h"
#include "transport/transport_fixture.h"

namespace godwit::agent {
namespace {

using transport::Awaited;
using transport::Channel;

// A device whose functions run until they are aborted.
class Endless final : public device::Device {
 public:
  explicit Endless(device::Device& rest) : rest_(rest) {}
  void Submit(device::Request request, Done done) override {
    const std::pair key(request.tenant, request.opcode == device::Opcode::kAbort ? request.value : request.id);
    device::Completion ended, aborted;
    Done runs;
    {
      const std::lock_guard lock(mutex_);
      if (request.opcode == device::Opcode::kExecute) {
        running_[key] = std::move(done);
        return;
      }
      if (request.opcode == device::Opcode::kAbort && running_.contains(key)) runs = std::move(running_.extract(key).mapped());
    }
    if (!runs) return rest_.Submit(std::move(request), std::move(done));
    ended.id = key.second;
    ended.status = Aborted("by its user");
    runs(std::move(ended));
    aborted.id = request.id;
    done(std::move(aborted));
  }

 private:
  device::Device& rest_;
  std::mutex mutex_;
  std::map<std::pair<std::string, std::uint64_t>, Done> running_;
};

// A device behind a channel and, if a test starts it, a ring.
class LinksTest : public ::testing::Test {
 protected:
  LinksTest() {
    transport::ChannelServer::Options server;
    server.channel.self = {model::DeviceName("there"), boot_};
    server_ = transport::ChannelServer::Listen(loop_, server, [this](const std::shared_ptr<Channel>&) {
                transport::ChannelHandlers handlers;
                handlers.on_frame = [this](const std::shared_ptr<Channel>& from, transport::Frame frame) {
                  EXPECT_TRUE(device::ServeDevice(from, frame, device_, false, [this](const std::string& domain) {
                    return served_ ? served_->Invite(domain) : Result<device::UcxInvitation>(PermissionDenied("it is in no trust domain"));
                  }));
                };
                return handlers;
              }).value();
    transport::ChannelOptions own;
    own.self = {model::DeviceName("here"), model::BootId{2}};
    Awaited<std::shared_ptr<Channel>> connected;
    loop_.Post([&] {
      transport::ConnectChannel(loop_, server_->address(), own, {}, [&](Result<std::shared_ptr<Channel>> channel) { connected.Set(channel.value()); });
    });
    channel_ = connected.Wait().value();
  }
  ~LinksTest() override {
    links_.reset();
    loop_.Run([this] { channel_->Drop(); });
    ring_.reset();
    server_.reset();
    served_.reset();
  }
  // Both ends are in a trust domain, perhaps the same one.
  void Trust(const std::string& here, const std::string& there) {
    ASSERT_TRUE(device::Ucx::Load().ok());
    served_ = std::make_unique<Links>(false, "none", nullptr);
    served_->Trust(there, device::Ucx::Start("127.0.0.1", &device_).value());
    links_->Trust(here, device::Ucx::Start("127.0.0.1", nullptr).value());
  }
  void StartRing() { ring_ = device::RingServer::Listen(RingAddress(boot_), device_).value(); }
  void Make(bool rings = true) {
    links_ = std::make_unique<Links>(rings, "none", [this](const std::string&, auto then) {
      loop_.Post([this, then = std::move(then)] { then(channel_); });
    });
  }
  nlohmann::json Measure() {
    Awaited<std::string> measured;
    links_->Measure(server_->address(), boot_, [&](Result<std::string> told) { measured.Set(told.ok() ? *told : told.error().message); });
    return nlohmann::json::parse(measured.Wait().value(), nullptr, false);
  }
  Status Ask() {
    device::Request request;
    request.opcode = device::Opcode::kHealth;
    request.tenant = "t";
    return links_->To(server_->address(), boot_)->Call(request, std::chrono::minutes(4)).status;
  }
  std::uint64_t Counted(const std::string& transport) {
    const std::string text = links_->MetricsText(), begin = "transport=\"" + transport + "\"} ";
    return std::stoull(text.substr(text.find(begin) + begin.size()));
  }

  const model::BootId boot_ = model::BootId::Random();
  transport::EventLoop loop_{"links-test"};
  device::Engine engine_{{.profile = {.name = "there", .device_class = "csd"}, .built_in = device::BuiltInFunctions()}};
  Endless device_{engine_};
  std::unique_ptr<transport::ChannelServer> server_;
  std::shared_ptr<Channel> channel_;
  std::unique_ptr<device::RingServer> ring_;
  std::unique_ptr<Links> links_, served_;  // There, it answers who asks for an invitation alone.
};

TEST_F(LinksTest, WithoutARingAllGoesOverTheChannelAndTheReasonIsSaid) {
  Make();
  EXPECT_TRUE(Ask().ok());
  const nlohmann::json link = Measure();
  ASSERT_EQ(link["transports"].size(), 3u) << link;
  EXPECT_FALSE(link["transports"][0]["available"]);
  EXPECT_NE(link["transports"][0]["why"].get<std::string>().find("no device listens"), std::string::npos) << link;
  EXPECT_FALSE(link["transports"][1]["available"]);
  EXPECT_NE(link["transports"][1]["why"].get<std::string>().find("no trust domain"), std::string::npos) << link;
  EXPECT_TRUE(link["transports"][2]["available"]);
  for (const auto& size : link["sizes"]) {
    EXPECT_EQ(size["chosen"], "channel");
    EXPECT_GT(size["channel_us"], 0);
    EXPECT_FALSE(size.contains("ring_us") || size.contains("ucx_us"));
  }
  EXPECT_EQ(Counted("channel"), 1u) << "what measuring takes is not counted";
  EXPECT_EQ(Counted("ring"), 0u);
}

TEST_F(LinksTest, WhereARingIsFoundEachSizeGoesTheFasterWay) {
  StartRing();
  Make();
  const nlohmann::json link = Measure();
  ASSERT_TRUE(link["transports"][0]["available"]) << link;
  ASSERT_EQ(link["sizes"].size(), 9u) << link;
  EXPECT_EQ(link["sizes"][8]["bytes"], 16 << 20);
  for (const auto& size : link["sizes"]) EXPECT_GT(size["ring_us"], 0);
  const auto cost = [&](int transport) { return LinkCost{link["transports"][transport]["latency_us"], link["transports"][transport]["bytes_per_second"].get<double>() / 1e6}; };
  const bool small_by_ring = cost(0).us(64) <= cost(2).us(64);
  EXPECT_EQ(link["sizes"][0]["chosen"], small_by_ring ? "ring" : "channel");
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(Counted(cost(0).us(0) <= cost(2).us(0) ? "ring" : "channel"), 10u);
}

TEST_F(LinksTest, AfterARingIsLostRequestsGoOverTheChannel) {
  StartRing();
  Make();
  ASSERT_TRUE(Measure()["transports"][0]["available"]);
  ring_.reset();
  static_cast<void>(Ask().ok());  // It may have been under way.
  EXPECT_TRUE(Ask().ok());
  EXPECT_GE(Counted("channel"), 1u);
  EXPECT_FALSE(Measure()["transports"][0]["available"]);
  StartRing();
  EXPECT_TRUE(Measure()["transports"][0]["available"]) << "it came back";
}

TEST_F(LinksTest, InOneTrustDomainUcxIsAWayToo) {
  Make();
  Trust("lab", "lab");
  const nlohmann::json link = Measure();
  ASSERT_TRUE(link["transports"][1]["available"]) << link;
  EXPECT_EQ(link["transports"][1]["name"], "ucx");
  EXPECT_NE(link["transports"][1]["security"].get<std::string>().find("none"), std::string::npos);
  for (const auto& size : link["sizes"]) {
    EXPECT_GT(size["ucx_us"], 0);
    EXPECT_TRUE(size["chosen"] == "ucx" || size["chosen"] == "channel") << size;
  }
  const auto cost = [&](int transport) { return LinkCost{link["transports"][transport]["latency_us"], link["transports"][transport]["bytes_per_second"].get<double>() / 1e6}; };
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(Ask().ok());
  EXPECT_EQ(Counted(cost(1).us(0) <= cost(2).us(0) ? "ucx" : "channel"), 10u);
}

TEST_F(LinksTest, AfterUcxIsLostRequestsGoOverTheChannel) {
  Make();
  Trust("lab", "lab");
  ASSERT_TRUE(Measure()["transports"][1]["available"]);
  served_.reset();
  static_cast<void>(Ask().ok());  // It may have been under way.
  EXPECT_TRUE(Ask().ok());
  EXPECT_GE(Counted("channel"), 1u);
  const nlohmann::json link = Measure();
  EXPECT_FALSE(link["transports"][1]["available"]);
  EXPECT_NE(link["transports"][1]["why"].get<std::string>().find("no trust domain"), std::string::npos) << link;
}

TEST_F(LinksTest, AQuestionThatIsDroppedIsAnswered) {
  ASSERT_TRUE(device::Ucx::Load().ok());
  Awaited<bool> asked;
  links_ = std::make_unique<Links>(false, "none", [&](const std::string&, const auto&) { asked.Set(true); });
  links_->Trust("lab", device::Ucx::Start("127.0.0.1", nullptr).value());
  static_cast<void>(links_->To(server_->address(), boot_));
  ASSERT_TRUE(asked.Wait());
  links_.reset();  // Which waits for whoever waits for the answer.
}

TEST_F(LinksTest, AnotherTrustDomainGetsNoInvitation) {
  Make();
  Trust("lab", "office");
  const nlohmann::json link = Measure();
  EXPECT_FALSE(link["transports"][1]["available"]);
  EXPECT_NE(link["transports"][1]["why"].get<std::string>().find("'office', not in 'lab'"), std::string::npos) << link;
  EXPECT_TRUE(Ask().ok());
}

TEST_F(LinksTest, AnAbortFindsItsRequestWhicheverWayItWent) {
  Make();
  const auto to = links_->To(server_->address(), boot_);
  device::Queue queue(*to);
  device::Request waits;
  waits.opcode = device::Opcode::kExecute;
  waits.tenant = "t";
  waits.id = 7;
  queue.Submit(waits);  // There is nothing but the channel.
  StartRing();
  ASSERT_TRUE(Measure()["transports"][0]["available"]);
  waits.id = 8;
  queue.Submit(waits);
  for (const std::uint64_t id : {7, 8}) {
    device::Request abort;
    abort.opcode = device::Opcode::kAbort;
    abort.tenant = "t";
    abort.value = id;
    EXPECT_TRUE(to->Call(abort, std::chrono::seconds(60)).status.ok()) << id;
    const auto ended = queue.Wait(std::chrono::seconds(60));
    ASSERT_TRUE(ended);
    EXPECT_EQ(ended->id, id);
    EXPECT_EQ(ended->status.error().code, ErrorCode::kAborted) << id;
    EXPECT_EQ(to->Call(abort, std::chrono::seconds(60)).status.error().code, ErrorCode::kNotFound) << id;
  }
}

TEST_F(LinksTest, RequestsToAnAgentThatStartedAnewStayCounted) {
  Make();
  EXPECT_TRUE(Ask().ok());
  const model::BootId next = model::BootId::Random();
  Awaited<bool> measured;
  links_->Measure(server_->address(), next, [&](const Result<std::string>&) { measured.Set(true); });
  ASSERT_TRUE(measured.Wait());
  EXPECT_EQ(Counted("channel"), 1u);
}

TEST_F(LinksTest, ShapedLinksHaveNoRings) {
  StartRing();
  Make(false);
  const nlohmann::json link = Measure();
  EXPECT_FALSE(link["transports"][0]["available"]);
  EXPECT_NE(link["transports"][0]["why"].get<std::string>().find("shaped"), std::string::npos);
}

}  // namespace
}  // namespace godwit::agent
