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
    for (int i = 0; i < 300'000; ++i) text += fmt::format("line {}\n", i);
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
    if (name == "home") options.profile.speed = 1e-6;  // However busy the machine is, the data's device is expected to be faster.
    options.may = [](const std::string& service, const model::DatasetName& dataset, bool write) {
      return service == "reader" && (!write || dataset.value.starts_with("kept")) ? Status() : Status(PermissionDenied("service '" + service + "' may not"));
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
    options.made = [this](const DatasetInfo& made) { made_.push_back(made.name.value); };
    options.results_bytes_max = 1000;
    options.copies_bytes_max = copies_bytes_max_;
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
  std::uint64_t copies_bytes_max_ = 8 << 20;
  std::vector<std::string> made_;
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

TEST_F(OffloadsTest, WhatWasFetchedIsThereForTheNextWorkOverThatVersion) {
  Configure(R"({"cores": 0, "queue_max": 0})");
  const std::string few = Run(kFew);
  const int fetched = fetches_.load();
  EXPECT_EQ(fetched, static_cast<int>((text_.size() + CopiedData::kBlockBytes - 1) / CopiedData::kBlockBytes)) << "block by block";
  EXPECT_EQ(Run(kFew), few);
  EXPECT_EQ(fetches_.load(), fetched);
  EXPECT_EQ(nlohmann::json::parse(home_->Describe())["copied_bytes"], text_.size());
  holder_.digest = "another";
  EXPECT_EQ(Run(kFew), few);
  EXPECT_EQ(fetches_.load(), 2 * fetched);
}

TEST_F(OffloadsTest, WithoutRoomForCopiesEachBlockIsFetchedOnceForEachWork) {
  copies_bytes_max_ = 0;
  home_.reset();
  home_ = Make("home", 1);
  Configure(R"({"cores": 0, "queue_max": 0})");
  const int blocks = static_cast<int>((text_.size() + CopiedData::kBlockBytes - 1) / CopiedData::kBlockBytes);
  for (int work = 1; work <= 3; ++work) {
    EXPECT_EQ(Run(R"({"pattern": "."})"), text_) << "in many pieces, some of which begin in the block before";
    EXPECT_LE(fetches_.load(), work * blocks);
  }
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

TEST_F(OffloadsTest, AResultIsKeptWhereTheDataIsOnceAndWithinTheServicesShare) {
  const auto keep = [&](const std::string& pattern, const std::string& name, const std::string& service = "reader") {
    device::Request request;
    request.function = static_cast<std::uint32_t>(device::BuiltIn::kMatch);
    const std::string arguments = R"({"pattern": ")" + pattern + "\"}";
    request.data.assign(arguments.begin(), arguments.end());
    Awaited<Result<std::uint64_t>> answer;
    home_->Keep({model::ServiceName(service), model::InstanceId("i"), {1}}, model::DatasetName("table"), holder_, "", request, model::DatasetName(name),
                [&](Result<std::uint64_t> kept) { answer.Set(std::move(kept)); });
    const auto kept = *answer.Wait(4min);
    return kept.ok() ? std::to_string(*kept) : std::string(kept.error().message);
  };
  const std::string few = "line 123.5$", bytes = std::to_string(Run(kFew).size());
  EXPECT_EQ(keep(few, "kept"), bytes);
  EXPECT_EQ(keep(few, "kept"), bytes) << "who was interrupted asks again";
  EXPECT_EQ(made_, std::vector<std::string>{"kept"});
  EXPECT_EQ(sets_[0]->Open(model::DatasetName("kept")).value()->size(), std::stoull(bytes)) << "near the data";
  EXPECT_FALSE(sets_[1]->Open(model::DatasetName("kept")).ok());
  EXPECT_EQ(keep("line 123.6$", "kept"), "there is a dataset 'kept' already; objects do not change");
  EXPECT_EQ(keep(few, "other"), "service 'reader' may not");
  EXPECT_EQ(keep(few, "kept-too", "stranger"), "service 'stranger' may not");
  std::string last;
  for (int i = 0; i < 20 && last.find("would keep") == std::string::npos; ++i) last = keep(few, "kept-" + std::to_string(i));
  EXPECT_NE(last.find("may keep 1000"), std::string::npos) << last;
  // Its share is known after a start, too.
  const auto again = Datasets::Create(folder_ / "0", false);
  ASSERT_TRUE(again.ok());
  for (const DatasetInfo& info : (*again)->List()) EXPECT_EQ(info.owner, info.name.value == "table" ? "" : "reader") << info.name.value;
}

}  // namespace
}  // namespace godwit::agent
