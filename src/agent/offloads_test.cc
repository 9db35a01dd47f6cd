// Offloads of one device to another, over a real channel.
#include "agent/offloads.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/remote.h"
#include "device/conformance.h"
#include "transport/transport_fixture.h"

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
using transport::Awaited;
using transport::Channel;

class OffloadsTest : public ::testing::Test {
 protected:
  OffloadsTest() : folder_(std::filesystem::temp_directory_path() / fmt::format("godwit-offloads-{}", getpid())) {
    std::filesystem::remove_all(folder_);
    for (int i = 0; i < 2; ++i) sets_[i] = Datasets::Create(folder_ / std::to_string(i), false).value();
    std::string text;
    for (int i = 0; i < 50'000; ++i) text += fmt::format("line {}\n", i);
    auto writer = sets_[0]->Write(model::DatasetName("table")).value();
    EXPECT_TRUE(writer->Write(AsBytes(text)).ok() && writer->Commit().ok());
    text_ = text;
    near_ = Make("near", 0);
    transport::ChannelServer::Options server;
    server.channel.self = {model::DeviceName("near"), model::BootId{1}};
    server.channel.token = "secret";
    server_ = transport::ChannelServer::Listen(loop_, server, [this](const std::shared_ptr<Channel>&) {
                transport::ChannelHandlers handlers;
                handlers.on_frame = [this](const std::shared_ptr<Channel>& from, transport::Frame frame) {
                  EXPECT_TRUE(device::ServeDevice(from, frame, near_->engine()));
                };
                return handlers;
              }).value();
    transport::ChannelOptions own;
    own.self = {model::DeviceName("home"), model::BootId{2}};
    own.token = "secret";
    Awaited<std::shared_ptr<Channel>> connected;
    loop_.Post([&] {
      transport::ConnectChannel(loop_, server_->address(), own, {}, [&](Result<std::shared_ptr<Channel>> channel) { connected.Set(channel.value()); });
    });
    channel_ = connected.Wait().value();
    home_ = Make("home", 1);
    holder_ = Offloads::Holder{{"near", "csd", "x86_64"}, server_->address(), model::BootId{1}, text_.size(), "digest"};
  }
  ~OffloadsTest() override {
    loop_.Run([this] { channel_->Drop(); });
    server_.reset();
    home_.reset();
    near_.reset();
    std::filesystem::remove_all(folder_);
  }
  std::unique_ptr<Offloads> Make(const std::string& name, int set) {
    Offloads::Options options;
    options.info = {name, name == "near" ? "csd" : "host", "x86_64"};
    options.profile.name = name;
    options.may = [this](const std::string& service, const model::DatasetName&, bool write) {
      return service == "reader" && !write ? Status() : Status(PermissionDenied("service '" + service + "' may not"));
    };
    options.read = [this](const Asker&, const model::DatasetName& dataset, std::uint64_t offset, std::uint32_t length, auto done) {
      ++fetches_;
      auto bytes = Bytes(length);
      bytes.resize(sets_[0]->Open(dataset).value()->Read(offset, bytes).value());
      done(std::move(bytes));
    };
    options.connect = [this](const std::string&, auto then) {
      loop_.Post([this, then = std::move(then)] { then(channel_); });
    };
    options.programs = std::make_shared<device::FakePrograms>();
    options.package_of = [](const std::string&) { return "sha256:package"; };
    options.made = [](const DatasetInfo&) {};
    return std::make_unique<Offloads>(std::move(options), *sets_[set]);
  }
  // All output of a function; pieces as they come.
  std::string Run(const std::string& arguments, const std::string& export_name = "", const std::string& service = "reader") {
    device::Request request;
    request.function = export_name.empty() ? static_cast<std::uint32_t>(device::BuiltIn::kMatch) : 0;
    request.data.assign(arguments.begin(), arguments.end());
    std::string output;
    for (;;) {
      Awaited<Result<device::Completion>> answer;
      home_->Run({model::ServiceName(service), model::InstanceId("i"), {1}}, model::DatasetName("table"), holder_, export_name, request,
                 [&](Result<device::Completion> completion) { answer.Set(std::move(completion)); });
      const auto result = answer.Wait(30s);
      if (!result) return "no answer";
      if (!result->ok()) return "error: " + result->error().message;
      const device::Completion& completion = **result;
      if (!completion.status.ok()) return "error: " + completion.status.error().message;
      output += AsText(completion.data);
      if (!completion.more) return output;
      request.state = completion.state;
    }
  }
  void Configure(const std::string& settings) {
    device::Request request;
    request.opcode = device::Opcode::kConfigure;
    request.data.assign(settings.begin(), settings.end());
    EXPECT_TRUE(near_->engine().Call(request).status.ok());
  }

  const std::filesystem::path folder_;
  std::unique_ptr<Datasets> sets_[2];
  std::string text_;
  std::atomic<int> fetches_{0};
  transport::EventLoop loop_{"offloads"};
  std::unique_ptr<Offloads> near_, home_;
  std::unique_ptr<transport::ChannelServer> server_;
  std::shared_ptr<Channel> channel_;
  Offloads::Holder holder_;
};

constexpr const char* kFew = R"({"pattern": "line 123.5$"})";

TEST_F(OffloadsTest, RunsAtTheDataAndMovesNothingElse) {
  std::string wanted;
  for (int digit = 0; digit < 10; ++digit) wanted += fmt::format("line 123{}5\n", digit);
  EXPECT_EQ(Run(kFew), wanted);
  EXPECT_EQ(fetches_.load(), 0);
  EXPECT_EQ(Run(kFew, "", "stranger"), "error: service 'stranger' may not") << "the holder checks too";
  EXPECT_NE(home_->MetricsText().find(R"(godwit_offloads_total{target_class="csd",result="ok"} 1)"), std::string::npos) << home_->MetricsText();
  const auto learned = nlohmann::json::parse(home_->Describe())["functions"];
  ASSERT_EQ(learned.size(), 1u) << learned;
  EXPECT_EQ(learned[0]["function"], "match");
  EXPECT_EQ(learned[0]["device"], "near");
}

TEST_F(OffloadsTest, WhatIsPushedBackRunsAtHomeOverFetchedData) {
  const std::string near = Run(kFew);
  Configure(R"({"cores": 0, "queue_max": 0})");
  EXPECT_EQ(Run(kFew), near);
  EXPECT_GT(fetches_.load(), 0);
  EXPECT_EQ(Run(R"({"pattern": "."})"), text_) << "also where it takes many pieces";
  EXPECT_NE(home_->MetricsText().find(R"(result="pushed_back")"), std::string::npos) << home_->MetricsText();
}

TEST_F(OffloadsTest, AServicesFunctionIsLoadedOnceAndPushedBackLikeAnyOther) {
  EXPECT_EQ(Run("10", "counter"), "10");
  EXPECT_EQ(Run("11", "counter"), "11");
  EXPECT_EQ(Run("10", "absent"), "error: no program is called 'absent'");
  Configure(R"({"cores": 0, "queue_max": 0})");
  EXPECT_EQ(Run("12", "counter"), "12");
  Configure(R"({"cores": 1, "queue_max": 100})");
  // The device has forgotten it, as after a start.
  device::Request discover;
  const auto functions = nlohmann::json::parse(AsText(near_->engine().Call(discover).data))["functions"];
  EXPECT_EQ(functions.size(), device::BuiltInFunctions().size() + 1) << "loaded once";
  device::Request change;
  change.tenant = "reader";
  change.function = functions.back()["number"].get<std::uint32_t>();
  for (const auto opcode : {device::Opcode::kDeactivate, device::Opcode::kUnload}) {
    change.opcode = opcode;
    ASSERT_TRUE(near_->engine().Call(change).status.ok());
  }
  EXPECT_EQ(Run("13", "counter"), "13");
}

}  // namespace
}  // namespace godwit::agent
