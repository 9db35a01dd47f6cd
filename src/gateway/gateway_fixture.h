// A gateway with fake agents behind it, over real loopback sockets: what the gateway's tests are written in.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gateway/gateway.h"
#include "gateway/relay.h"
#include "transport/channel.h"
#include "transport/http_client.h"
#include "transport/http_server.h"
#include "transport/transport_fixture.h"

namespace godwit::gateway {

using namespace std::chrono_literals;
using transport::Channel;
using transport::Frame;
using ChannelPtr = std::shared_ptr<Channel>;

// The agent's end of the request protocol, as far as a test scripts it. Loop-bound.
class FakeAgent {
 public:
  using Script = std::function<void(FakeAgent&, const ChannelPtr&, const Frame&)>;

  FakeAgent(transport::EventLoop& loop, std::string device, std::uint64_t boot, Script script)
      : device_(std::move(device)), script_(std::move(script)) {
    transport::ChannelServer::Options options;
    options.channel.self = {model::DeviceName(device_), model::BootId{boot}};
    auto server = transport::ChannelServer::Listen(loop, options, [this](const ChannelPtr& channel) {
      channels_.push_back(channel);
      return transport::ChannelHandlers{.on_frame = [this](const ChannelPtr& from, Frame frame) { script_(*this, from, frame); }};
    });
    server_ = std::move(server).value();
  }

  const std::string& device() const { return device_; }
  std::string address() const { return server_->address(); }
  void Stop() { server_.reset(); }
  // Cuts the channels, but goes on listening.
  void CutChannels() {
    for (const auto& channel : channels_) channel->Close("cut by the test");
    channels_.clear();
  }

  static void Head(const ChannelPtr& channel, const wire::RequestId& id, std::uint16_t status = 200, std::int64_t bytes = -1) {
    flatbuffers::FlatBufferBuilder builder;
    std::vector<flatbuffers::Offset<wire::Header>> headers{wire::CreateHeaderDirect(builder, "X-From", channel->peer().device.value.c_str())};
    ASSERT_TRUE(channel->Tell(builder, wire::CreateResponseHeadDirect(builder, &id, status, &headers, bytes)).ok());
  }
  static void Chunk(const ChannelPtr& channel, const wire::RequestId& id, std::uint64_t offset, std::string_view bytes, bool last) {
    flatbuffers::FlatBufferBuilder builder;
    ASSERT_TRUE(channel->Tell(builder, wire::CreateResponseChunk(builder, &id, offset, last), AsBytes(bytes)).ok());
  }
  static void Ack(const ChannelPtr& channel, const wire::RequestId& id, std::uint64_t offset) {
    flatbuffers::FlatBufferBuilder builder;
    ASSERT_TRUE(channel->Tell(builder, wire::CreateBodyAck(builder, &id, offset)).ok());
  }
  static void Answer(const ChannelPtr& channel, const wire::RequestId& id, std::string_view body, std::uint16_t status = 200) {
    Head(channel, id, status, static_cast<std::int64_t>(body.size()));
    Chunk(channel, id, 0, body, true);
  }
  static void Fail(const ChannelPtr& channel, const wire::RequestId& id, std::uint16_t status, ErrorCode code, bool begun, std::string_view problem = {}) {
    flatbuffers::FlatBufferBuilder builder;
    ASSERT_TRUE(channel->Tell(builder, wire::CreateRequestFailedDirect(builder, &id, status, static_cast<std::uint8_t>(code), "scripted", begun), AsBytes(problem)).ok());
  }
  static void MoveTo(const ChannelPtr& channel, const wire::RequestId& id, const FakeAgent& to, std::uint64_t epoch, std::uint64_t body_offset, bool carried) {
    flatbuffers::FlatBufferBuilder builder;
    ASSERT_TRUE(channel->Tell(builder, wire::CreateMovedDirect(builder, &id, "i0", to.device_.c_str(), to.address().c_str(), epoch, body_offset, carried)).ok());
  }

 private:
  const std::string device_;
  const Script script_;
  std::vector<ChannelPtr> channels_;
  std::unique_ptr<transport::ChannelServer> server_;
};

// `bytes` bytes of an endless text from `from` on. Its period is a prime, so that no chunk looks like another.
inline std::string Pattern(std::size_t bytes, std::uint64_t from = 0) {
  static const std::string period = [] {
    std::string text(65521, '\0');
    for (std::size_t i = 0; i < text.size(); ++i) text[i] = static_cast<char>(i * 2654435761u >> 13);
    return text;
  }();
  std::string text;
  text.reserve(bytes);
  while (text.size() < bytes) {
    const std::size_t at = (from + text.size()) % period.size();
    text.append(period, at, std::min(period.size() - at, bytes - text.size()));
  }
  return text;
}

class GatewayTest : public ::testing::Test {
 protected:
  GatewayTest() { StartGateway({}); }
  void StartGateway(Relay::Options options) {
    http_.reset();
    gateway_.reset();
    relay_.reset();
    options.channel.self = {model::DeviceName("gateway"), model::BootId{77}};
    relay_ = std::make_unique<Relay>(loop_, options);
    gateway_ = std::make_unique<Gateway>(*relay_);
    http_ = transport::HttpServer::Listen(loop_, {}, [this](auto exchange) { gateway_->Handle(exchange); }).value();
  }
  ~GatewayTest() override {
    http_.reset();
    gateway_.reset();
    relay_.reset();
    loop_.Run([this] { agents_.clear(); });
  }

  // Ends the agents at the end of the test's body: their scripts write to variables that are declared before this.
  struct AgentsLeave {
    explicit AgentsLeave(GatewayTest& test) : test_(test) {}
    ~AgentsLeave() {
      test_.loop_.Run([&] { test_.agents_.clear(); });
    }
    GatewayTest& test_;
  };

  FakeAgent& Agent(const std::string& device, FakeAgent::Script script, std::uint64_t boot = 0) {
    if (boot == 0) boot = agents_.size() + 1;
    agents_.push_back(std::make_unique<FakeAgent>(loop_, device, boot, std::move(script)));
    return *agents_.back();
  }
  void KnowService(ByteCount body_limit = 64_MiB, std::chrono::milliseconds timeout = 4min, const std::string& route = "/orders/{key}") {
    model::ServiceRecord service;
    service.name = model::ServiceName("orders");
    service.manifest.name = service.name;
    service.manifest.http.push_back({route, 1});
    service.manifest.limits.body = body_limit;
    service.manifest.limits.request_timeout = timeout;
    relay_->Update([service](Directory& directory) { directory.Put(service); });
  }
  void KnowInstance(const std::string& device, const std::string& channel, std::uint64_t epoch = 1,
                    model::InstanceState state = model::InstanceState::kRunning) {
    model::DeviceRecord record;
    record.name = model::DeviceName(device);
    record.channel = channel;
    model::InstanceRecord instance;
    instance.id = model::InstanceId("i0");
    instance.service = model::ServiceName("orders");
    instance.device = record.name;
    instance.epoch = model::Epoch{epoch};
    instance.state = state;
    relay_->Update([record, instance](Directory& directory) {
      directory.Put(record);
      directory.Put(instance);
    });
  }
  void Serve(FakeAgent& agent) {
    KnowService();
    KnowInstance(agent.device(), agent.address());
  }

  std::unique_ptr<transport::HttpClient> Client() { return transport::HttpClient::Create("http://" + http_->address(), {.answer_bytes_max = 256_MiB}).value(); }
  transport::HttpAnswer Ask(transport::HttpCall call) {
    if (call.target == "/") call.target = "/orders/7";
    call.timeout = 4min;  // Machines that run tests are often busy.
    auto answer = Client()->Call(call);
    EXPECT_TRUE(answer.ok()) << answer.error().message;
    return answer.ok() ? *answer : transport::HttpAnswer{};
  }

  transport::EventLoop loop_{"gateway-test"};
  std::vector<std::unique_ptr<FakeAgent>> agents_;
  std::unique_ptr<Relay> relay_;
  std::unique_ptr<Gateway> gateway_;
  std::unique_ptr<transport::HttpServer> http_;
};

}  // namespace godwit::gateway
