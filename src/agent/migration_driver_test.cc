// Two devices' drivers over real channels on loopback, with hosts, sites and a store that are fakes.
#include "agent/migration_driver.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <map>
#include <mutex>

#include <nlohmann/json.hpp>

#include "migration/memory_fixture.h"
#include "transport/transport_fixture.h"

namespace godwit::agent {
namespace {

using transport::Awaited;
using nlohmann::json;

const model::InstanceId kInstance("store-0-a");
const model::MigrationId kMigration("m-1");
const model::DeviceName kHost0("host0"), kCsd1("csd1");

class FakeCaptured final : public CapturedHost {
 public:
  FakeCaptured(const Bytes& state, std::size_t memories) : state_(state), elsewhere_(memories, true) {}
  Status Encode(const std::function<Status(ByteView)>& sink) override { return sink(state_); }
  std::uint64_t bytes_estimate() const override { return state_.size(); }
  std::uint64_t memory_bytes() const override { return state_.size(); }
  std::size_t running() const override { return 1; }
  std::size_t requests() const override { return 3; }
  const std::vector<bool>& elsewhere() const override { return elsewhere_; }

 private:
  const Bytes& state_;
  const std::vector<bool> elsewhere_;
};

class FakeHost final : public InstanceHost {
 public:
  FakeHost(model::InstanceRecord record, model::ServiceRecord service, Bytes state, bool running)
      : state(std::move(state)), running(running), record_(std::move(record)), service_(std::move(service)) {}
  void Open(NewRequest, std::shared_ptr<RequestSink>) override {}
  void Body(const RequestId&, std::uint64_t, ByteView, bool) override {}
  bool ResponseAck(const RequestId&, std::uint64_t) override { return true; }
  void Cancel(const RequestId&) override {}
  void Attach(const RequestId&, std::uint64_t, bool, std::shared_ptr<RequestSink>) override {}
  void Detach(const RequestSink*) override {}
  void EndWebSockets() override {}
  LiveMemories Memories() override { return memory ? LiveMemories{memory} : LiveMemories{}; }
  void Nap(std::chrono::microseconds) override { ++naps; }
  Computed Pace(double, std::chrono::steady_clock::duration) override { return {}; }
  Result<std::unique_ptr<CapturedHost>> PauseAndCapture(std::chrono::milliseconds, const LiveMemories& elsewhere) override {
    ++pauses;
    if (cannot_move) return FailedPrecondition("an open socket cannot move");
    running = false;
    return std::unique_ptr<CapturedHost>(std::make_unique<FakeCaptured>(state, elsewhere.size()));
  }
  void Resume() override {
    running = true;
    running_since = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() < *running_since + resume_takes) std::this_thread::yield();
  }
  void Release(const Location& to) override { released_to = to; }
  Statistics statistics() const override { return {.memory_bytes = state.size(), .running_since = running_since}; }
  const model::InstanceRecord& record() const override { return record_; }
  const model::ServiceRecord& service() const override { return service_; }

  Bytes state;
  std::atomic<bool> running;
  std::atomic<int> pauses{0}, naps{0};
  std::shared_ptr<migration::FakeLiveMemory> memory;   // At the source.
  std::unique_ptr<runtime::ArrivingMemory> arrived;    // At the target.
  bool cannot_move = false;
  std::chrono::milliseconds resume_takes{0};  // After the guest runs.
  std::optional<std::chrono::steady_clock::time_point> running_since;
  std::optional<Location> released_to;

 private:
  model::InstanceRecord record_;
  model::ServiceRecord service_;
};

class FakeStore final : public MigrationStore {
 public:
  Status Patch(const model::MigrationId&, const std::string& patch) override {
    const std::lock_guard lock(mutex);
    const json members = json::parse(patch);
    migration.merge_patch(members);
    phases.push_back(members.value("phase", ""));
    if (phases.back() == "Done" || phases.back() == "Failed" || phases.back() == "Cancelled") over.Set(true);
    return {};
  }
  Status Confirm(const model::InstanceId&, const model::DeviceName& device, model::Epoch epoch,
                 const model::MigrationId&) override {
    const std::lock_guard lock(mutex);
    if (device == kCsd1 && target_cut_off) {
      target_tried.Set(true);
      return Unavailable("no route to the controller");
    }
    if (instance.device == device && instance.epoch == epoch) return {};
    if (instance.epoch.Next() != epoch) return FailedPrecondition("owned by " + instance.device.value);
    instance.device = device;
    instance.epoch = epoch;
    return {};
  }
  Result<model::InstanceRecord> Instance(const model::InstanceId&) override {
    const std::lock_guard lock(mutex);
    return instance;
  }
  Result<model::DeviceRecord> Device(const model::DeviceName& name) override {
    const std::lock_guard lock(mutex);
    const auto found = devices.find(name);
    if (found == devices.end()) return NotFound("no device " + name.value);
    return found->second;
  }

  std::mutex mutex;
  json migration = json::object();
  std::vector<std::string> phases;
  Awaited<bool> over, target_tried;
  model::InstanceRecord instance;
  std::map<model::DeviceName, model::DeviceRecord> devices;
  bool target_cut_off = false;
};

class FakeSite final : public MigrationSite {
 public:
  std::shared_ptr<InstanceHost> Find(const model::InstanceId& id) override {
    return host && host->record().id == id ? host : nullptr;
  }
  void OnLeft(const model::InstanceId&, const Location&) override { left = true; }
  void OnKept(const model::InstanceId&, model::Epoch epoch) override { kept.Set(epoch); }
  void OnLost(const model::InstanceId&, const std::string&) override { lost = true; }
  Result<InstanceHost::Options> Prepare(const model::InstanceRecord& record, const model::ServiceRecord& service,
                                        std::uint64_t) override {
    preparing.Set(true);
    if (block_prepare) block_prepare->Wait();
    if (!refusal.empty()) return ResourceExhausted(refusal);
    return InstanceHost::Options{record, service, nullptr, nullptr};
  }
  Result<std::unique_ptr<runtime::ArrivingMemory>> PrepareMemory(const InstanceHost::Options&, ByteCount bytes) override {
    return std::unique_ptr<runtime::ArrivingMemory>(std::make_unique<migration::FakeArrivingMemory>(bytes.value, bytes.value));
  }
  Result<std::unique_ptr<InstanceHost>> Restore(InstanceHost::Options options, ByteView bundle, ArrivingMemories memories) override {
    restoring.Set(true);
    if (block_restore) block_restore->Wait();
    if (damaged) return Corrupt("bundle: footer missing");
    auto made = std::make_unique<FakeHost>(options.record, options.service, Bytes(bundle.begin(), bundle.end()), false);
    made->resume_takes = resume_takes;
    if (!memories.empty()) made->arrived = std::move(memories[0]);
    return std::unique_ptr<InstanceHost>(std::move(made));
  }
  void Abandon(const model::InstanceId&) override { abandoned.Set(true); }
  void Adopt(std::shared_ptr<InstanceHost> adopted) override { host = std::static_pointer_cast<FakeHost>(adopted); }
  void OnArrived(const model::InstanceId&) override { arrived.Set(true); }

  std::shared_ptr<FakeHost> host;
  std::string refusal;
  bool damaged = false, left = false, lost = false;
  std::chrono::milliseconds resume_takes{0};
  Awaited<bool>* block_prepare = nullptr;
  Awaited<bool>* block_restore = nullptr;
  Awaited<bool> preparing, restoring, abandoned, arrived;
  Awaited<model::Epoch> kept;
};

// A device's process, as far as moving goes.
class Device {
 public:
  Device(const model::DeviceName& name, model::BootId boot, FakeStore& store, std::string isa, std::chrono::milliseconds retry_interval) {
    options_.channel.self = {name, boot};
    options_.isa = isa;
    options_.retry_interval = retry_interval;
    options_.commit_timeout = std::chrono::milliseconds(20'000);
    options_.tracker = migration::ProbeTracker();
    driver = std::make_unique<MigrationDriver>(loop_, site, store, options_);
    transport::ChannelServer::Options listen;
    listen.channel = options_.channel;
    auto server = transport::ChannelServer::Listen(loop_, listen, [this](const std::shared_ptr<transport::Channel>&) {
      ++channels;
      return transport::ChannelHandlers{
          [this](const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
            if (driver) driver->OnFrame(channel, frame);
          },
          [this](const std::shared_ptr<transport::Channel>& channel, const Error&) {
            if (driver) driver->OnChannelClosed(channel);
          }};
    });
    GODWIT_CHECK(server.ok(), "listen");
    server_ = *std::move(server);
    model::DeviceRecord record;
    record.name = name;
    record.isa = isa;
    record.boot_id = boot;
    record.channel = server_->address();
    const std::lock_guard lock(store.mutex);
    store.devices[name] = record;
  }
  ~Device() { Kill(); }
  // As if the process died: no more frames either way.
  void Kill() {
    server_.reset();
    driver.reset();
    site.host.reset();
  }
  void OnRecord(const model::MigrationRecord& record) {
    loop_.Run([&] { driver->OnRecord(record); });
  }

  FakeSite site;
  std::unique_ptr<MigrationDriver> driver;
  std::atomic<int> channels{0};  // That were opened to it.

 private:
  transport::EventLoop loop_{"device"};
  MigrationDriver::Options options_;
  std::unique_ptr<transport::ChannelServer> server_;
};

class MigrationDriverTest : public ::testing::Test {
 protected:
  explicit MigrationDriverTest(std::chrono::milliseconds retry_interval = std::chrono::milliseconds(20)) : retry(retry_interval) {
    store.instance = {kInstance, model::ServiceName("store"), 0, kHost0, model::Epoch{3}, model::InstanceState::kRunning, "", "sha256:p"};
    model::ServiceRecord service;
    service.name = model::ServiceName("store");
    service.manifest.name = service.name;
    service.package = "sha256:p";
    Bytes state(10'000'019);
    for (std::size_t i = 0; i < state.size(); ++i) state[i] = static_cast<std::uint8_t>(i * 2654435761u >> 13);
    host0.site.host = std::make_shared<FakeHost>(store.instance, service, state, true);
    host = host0.site.host;
    record.id = kMigration;
    record.service = service.name;
    record.instance = kInstance;
    record.source = kHost0;
    record.target = kCsd1;
    record.epoch = model::Epoch{4};
    record.mode = "auto";
  }
  json Over() {
    EXPECT_TRUE(store.over.Wait());
    const std::lock_guard lock(store.mutex);
    return store.migration;
  }
  // The target's process is gone; a new one is known to the store.
  void KillTarget() {
    csd1.Kill();
    const std::lock_guard lock(store.mutex);
    store.devices[kCsd1].boot_id = model::BootId{99};
    store.devices[kCsd1].state = model::DeviceState::kOffline;
  }
  void ExpectSourceWentOn(model::Epoch epoch) {
    const json result = Over();
    EXPECT_EQ(result["phase"], "Failed") << result;
    EXPECT_NE(result["error"], "");
    EXPECT_TRUE(host->running);
    EXPECT_FALSE(host->released_to);
    EXPECT_EQ(store.instance.device, kHost0);
    EXPECT_EQ(store.instance.epoch, epoch);
  }

  FakeStore store;
  Awaited<bool> go;  // Ends what a site was told to block in; outlives the devices.
  const std::chrono::milliseconds retry;
  Device host0{kHost0, model::BootId{1}, store, "x86_64", retry};
  Device csd1{kCsd1, model::BootId{2}, store, "aarch64", retry};
  std::shared_ptr<FakeHost> host;
  model::MigrationRecord record;
};

TEST_F(MigrationDriverTest, MovesAnInstanceAndReportsWhatItCost) {
  const Bytes state = host->state;
  host0.OnRecord(record);
  const json result = Over();
  EXPECT_EQ(result["phase"], "Done") << result;
  EXPECT_EQ(result["error"], "");
  EXPECT_EQ(result["source_isa"], "x86_64");
  EXPECT_EQ(result["target_isa"], "aarch64");
  EXPECT_EQ(result["memory_bytes"], state.size());
  EXPECT_EQ(result["requests_held"], 3);
  EXPECT_GE(result["bytes_sent"].get<std::uint64_t>(), state.size());
  EXPECT_GT(result["downtime_us"].get<std::uint64_t>(), 0u);
  EXPECT_GE(result["total_us"].get<std::uint64_t>(), result["downtime_us"].get<std::uint64_t>());

  EXPECT_TRUE(csd1.site.arrived.Wait());
  ASSERT_TRUE(csd1.site.host);
  EXPECT_TRUE(csd1.site.host->running);
  EXPECT_EQ(csd1.site.host->state, state);
  EXPECT_EQ(csd1.site.host->record().epoch, model::Epoch{4});
  EXPECT_EQ(csd1.site.host->record().device, kCsd1);
  EXPECT_FALSE(host->running);
  ASSERT_TRUE(host->released_to);
  EXPECT_EQ(host->released_to->device, kCsd1);
  EXPECT_EQ(host->released_to->channel, store.devices[kCsd1].channel);
  EXPECT_TRUE(host0.site.left);
  EXPECT_EQ(store.instance.device, kCsd1);
}

// Nobody asks the target who owns the instance before it says so itself.
class PatientMigrationDriverTest : public MigrationDriverTest {
 protected:
  PatientMigrationDriverTest() : MigrationDriverTest(std::chrono::seconds(10)) {}
};

TEST_F(PatientMigrationDriverTest, TheDowntimeEndsWhenTheGuestRunsThereNotWhenTheSourceHearsOfIt) {
  constexpr std::chrono::milliseconds kAnswerTakes{200};
  csd1.site.resume_takes = kAnswerTakes;
  host0.OnRecord(record);
  const json result = Over();
  EXPECT_EQ(result["phase"], "Done") << result;
  EXPECT_GT(result["downtime_us"].get<std::int64_t>(), 0);
  EXPECT_GE(result["total_us"].get<std::int64_t>(), result["downtime_us"].get<std::int64_t>() + std::chrono::microseconds(kAnswerTakes).count());
}

TEST_F(MigrationDriverTest, TheNextMoveToADeviceUsesTheChannelOfTheLast) {
  host->cannot_move = true;
  host0.OnRecord(record);
  EXPECT_EQ(Over()["phase"], "Failed");
  EXPECT_TRUE(csd1.site.abandoned.Wait());
  host->cannot_move = false;
  record.id = model::MigrationId("m-2");
  {
    const std::lock_guard lock(store.mutex);
    store.devices[kCsd1].channel = "127.0.0.1:1";  // Nobody asks for it.
  }
  host0.OnRecord(record);
  EXPECT_TRUE(csd1.site.arrived.Wait());
  EXPECT_EQ(csd1.channels, 1);
}

TEST_F(MigrationDriverTest, MemoryIsCopiedWhileTheInstanceRuns) {
  constexpr std::uint64_t kBytes = 4 << 20;
  host->memory = std::make_shared<migration::FakeLiveMemory>(kBytes, kBytes);
  for (std::uint64_t page = 0; page < 100; ++page) host->memory->Write(page * 3, static_cast<std::uint8_t>(page + 1));
  host0.OnRecord(record);
  const json result = Over();
  EXPECT_EQ(result["phase"], "Done") << result;
  EXPECT_EQ(result["mode"], "precopy");
  EXPECT_EQ(result["tracker"], migration::ToString(migration::ProbeTracker()));
  ASSERT_GE(result["rounds"].size(), 2u) << result << ": one while it ran, one when it stood still";
  EXPECT_GE(result["rounds"][0]["pages"], 100);
  EXPECT_EQ(result["rounds"].back()["pages"], 0);
  EXPECT_LT(result["bytes_sent"].get<std::uint64_t>(), host->state.size() + 2'000'000) << "untouched pages stay";
  EXPECT_TRUE(csd1.site.arrived.Wait());
  ASSERT_TRUE(csd1.site.host && csd1.site.host->arrived);
  EXPECT_EQ(std::memcmp(csd1.site.host->arrived->base(), host->memory->base(), kBytes), 0);
}

TEST_F(MigrationDriverTest, ModeStopCopiesNothingBeforeTheStop) {
  host->memory = std::make_shared<migration::FakeLiveMemory>(1 << 20, 1 << 20);
  host->memory->Write(3, 1);
  record.mode = "stop";
  host0.OnRecord(record);
  const json result = Over();
  EXPECT_EQ(result["phase"], "Done") << result;
  EXPECT_EQ(result["mode"], "stop");
  ASSERT_EQ(result["rounds"].size(), 1u) << result;
  EXPECT_EQ(result["rounds"][0]["pages"], 1);
  EXPECT_TRUE(csd1.site.arrived.Wait());
  EXPECT_EQ(csd1.site.host->arrived->base()[3 * 4096], 1);
}

TEST_F(MigrationDriverTest, ARefusalLeavesTheInstanceAloneAndSaysWhy) {
  csd1.site.refusal = "3 MiB are free, 64 MiB are needed";
  host0.OnRecord(record);
  ExpectSourceWentOn(model::Epoch{3});
  EXPECT_NE(store.migration["error"].get<std::string>().find("3 MiB are free"), std::string::npos);
  EXPECT_EQ(host->pauses, 0);
}

TEST_F(MigrationDriverTest, AnInstanceThatCannotBeStoppedRunsOn) {
  host->cannot_move = true;
  host0.OnRecord(record);
  ExpectSourceWentOn(model::Epoch{3});
  EXPECT_TRUE(csd1.site.abandoned.Wait()) << "the target's reservation is freed";
}

TEST_F(MigrationDriverTest, AnInstanceThatCannotBeRestoredRunsOnAtItsSource) {
  csd1.site.damaged = true;
  host0.OnRecord(record);
  ExpectSourceWentOn(model::Epoch{3});
  EXPECT_TRUE(csd1.site.abandoned.Wait());
}

TEST_F(MigrationDriverTest, ATargetThatDiesWhilePreparingLosesNothing) {
  csd1.site.block_prepare = &go;
  host0.OnRecord(record);
  ASSERT_TRUE(csd1.site.preparing.Wait());
  std::thread killer([&] { KillTarget(); });  // Waits for Prepare to return, as a dead process would not.
  const json result = Over();
  go.Set(true);
  killer.join();
  ExpectSourceWentOn(model::Epoch{3});
  EXPECT_EQ(host->pauses, 0);
}

TEST_F(MigrationDriverTest, ATargetThatDiesWhileRestoringLosesNothing) {
  csd1.site.block_restore = &go;
  host0.OnRecord(record);
  ASSERT_TRUE(csd1.site.restoring.Wait());
  {
    const std::lock_guard lock(store.mutex);
    store.devices[kCsd1].boot_id = model::BootId{99};
  }
  std::thread killer([&] { KillTarget(); });
  const json result = Over();
  go.Set(true);
  killer.join();
  ExpectSourceWentOn(model::Epoch{4});
  EXPECT_EQ(host0.site.kept.Wait(), model::Epoch{4});
}

TEST_F(MigrationDriverTest, ATargetThatDiesUnconfirmedLosesNothing) {
  store.target_cut_off = true;
  host0.OnRecord(record);
  ASSERT_TRUE(store.target_tried.Wait());
  EXPECT_FALSE(host->running);
  KillTarget();
  ExpectSourceWentOn(model::Epoch{4});
}

TEST_F(MigrationDriverTest, ATargetThatWasCutOffIsConfirmedLater) {
  store.target_cut_off = true;
  host0.OnRecord(record);
  ASSERT_TRUE(store.target_tried.Wait());
  {
    const std::lock_guard lock(store.mutex);
    store.target_cut_off = false;
  }
  EXPECT_EQ(Over()["phase"], "Done");
  EXPECT_TRUE(csd1.site.arrived.Wait());
}

TEST_F(MigrationDriverTest, AnInstanceThatIsNotHereIsReported) {
  record.instance = model::InstanceId("other");
  host0.OnRecord(record);
  const json result = Over();
  EXPECT_EQ(result["phase"], "Failed");
  EXPECT_EQ(result["error"], "instance other is not on host0");
}

TEST_F(MigrationDriverTest, ARecordThatOthersEndedCancelsTheMove) {
  csd1.site.block_prepare = &go;
  host0.OnRecord(record);
  ASSERT_TRUE(csd1.site.preparing.Wait());
  record.phase = model::MigrationPhase::kCancelled;
  host0.OnRecord(record);
  EXPECT_EQ(Over()["phase"], "Cancelled");
  go.Set(true);
  EXPECT_TRUE(csd1.site.abandoned.Wait());
  EXPECT_TRUE(host->running);
  EXPECT_EQ(host->pauses, 0);
}

}  // namespace
}  // namespace godwit::agent
