#include "control/reconcile.h"

#include "control/forecast.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace godwit::control {
namespace {

using namespace model;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class ReconcileTest : public ::testing::Test {
 protected:
  DeviceRecord& Device(const std::string& name, DeviceClass device_class = DeviceClass::kHost, const std::string& isa = "x86_64") {
    view.alive[DeviceName(name)] = BootId{1};
    view.devices.push_back({DeviceName(name), device_class, isa, 1, 1_GiB, 0, DeviceState::kReady, BootId{1}, "", "http://" + name, {}});
    return view.devices.back();
  }
  void Lose(const std::string& device) { view.alive.erase(DeviceName(device)); }
  ServiceRecord& Service(const std::string& name, const std::string& more = "") {
    const auto manifest = Manifest::FromToml("[service]\nname = \"" + name + "\"\n" + more, "test");
    EXPECT_TRUE(manifest.ok()) << manifest.error().message;
    view.packages.try_emplace("sha256:p", model::PackageRecord{"sha256:p", {}, {"x86_64", "aarch64"}});
    view.services.push_back({ServiceName(name), *manifest, "sha256:p", 1});
    return view.services.back();
  }
  InstanceRecord& Instance(const std::string& service, const std::string& device, InstanceState state = InstanceState::kRunning,
                           std::uint32_t shard = 0) {
    view.instances.push_back({InstanceId(service + "-" + std::to_string(view.instances.size())), ServiceName(service), shard,
                              DeviceName(device), {1}, state, "", "sha256:p"});
    return view.instances.back();
  }
  MigrationRecord& Migration(const InstanceRecord& instance, const std::string& target, MigrationPhase phase) {
    MigrationRecord migration;
    migration.id = MigrationId("m-" + std::to_string(view.migrations.size()));
    migration.service = instance.service;
    migration.instance = instance.id;
    migration.source = instance.device;
    migration.target = DeviceName(target);
    migration.epoch = instance.epoch.Next();
    migration.phase = phase;
    view.migrations.push_back(migration);
    return view.migrations.back();
  }

  // Decisions as lines.
  std::vector<std::string> Decisions() {
    std::vector<std::string> lines;
    int ids = 0;
    for (const Decision& decision : Reconcile(view, [&](const std::string& prefix) { return prefix + "-new" + std::to_string(ids++); })) {
      lines.push_back(std::visit([](const auto& d) { return Line(d); }, decision));
    }
    return lines;
  }
  static std::string Line(const SetDeviceState& d) { return d.device.value + " " + std::string(ToString(d.state)); }
  static std::string Line(const CreateInstance& d) {
    return "create " + d.instance.service.value + "/" + std::to_string(d.instance.shard) + " on " + d.instance.device.value;
  }
  static std::string Line(const DeleteInstance& d) { return "delete " + d.instance.value; }
  static std::string Line(const SetInstanceState& d) { return d.instance.value + " " + std::string(ToString(d.state)) + ": " + d.reason; }
  static std::string Line(const EndMigration& d) {
    return d.migration.value + " " + std::string(ToString(d.phase)) + (d.error.empty() ? "" : ": " + d.error);
  }
  static std::string Line(const StartMigration& d) {
    return "move " + d.migration.instance.value + " " + d.migration.source.value + " -> " + d.migration.target.value + " for " + d.migration.reason;
  }

  ClusterView view;
};

constexpr char kStateful[] = "state = \"stateful\"\n";

TEST_F(ReconcileTest, AServiceWithoutAnInstanceGetsOneOnAHostFirst) {
  Device("a-csd", DeviceClass::kCsd);
  Device("host0");
  Service("web");
  EXPECT_THAT(Decisions(), ElementsAre("create web/0 on host0"));
}

TEST_F(ReconcileTest, AServiceThatRunsNeedsNothing) {
  Device("host0");
  Service("web");
  Instance("web", "host0");
  EXPECT_THAT(Decisions(), IsEmpty());
}

TEST_F(ReconcileTest, EveryShardAndEveryReplicaGetsAnInstanceAndTheySpread) {
  Device("host0");
  Device("host1");
  Service("shards", std::string(kStateful) + "shards = 2\n");
  Service("many", "[scale]\nmin = 2\nmax = 3\n");
  EXPECT_THAT(Decisions(), ElementsAre("create shards/0 on host0", "create shards/1 on host1", "create many/0 on host0", "create many/0 on host1"));
}

TEST_F(ReconcileTest, PlacementRequiresPrefersAndStaysNear) {
  Device("csd0", DeviceClass::kCsd);
  Device("csd1", DeviceClass::kCsd, "aarch64");
  Device("host0");
  view.datasets.push_back({DatasetName("words"), DeviceName("csd1"), {1}, ""});
  const auto chosen = [&](const std::string& more) {
    view.services.clear();
    const auto device = ChooseDevice(view, Service("s", more));
    return device.ok() ? device->value : device.error().message;
  };
  EXPECT_EQ(chosen(""), "host0");
  EXPECT_EQ(chosen("[placement.prefer]\nclass = \"csd\"\n"), "csd0");
  EXPECT_EQ(chosen("[placement.prefer]\nclass = \"cpm\"\n"), "host0");
  EXPECT_EQ(chosen("[placement.require]\nisa = \"aarch64\"\n"), "csd1");
  EXPECT_EQ(chosen("[placement]\nnear = \"words\"\n"), "csd1");
  EXPECT_EQ(chosen("[placement.require]\ndevice = \"csd0\"\n"), "csd0");
  EXPECT_EQ(chosen("[placement.require]\nclass = \"cpm\"\n"),
            "no device fits; csd0: [placement] requires class = cpm; csd1: [placement] requires class = cpm; host0: [placement] requires class = cpm");
  EXPECT_NE(chosen("[limits]\nmemory = \"2Gi\"\n").find("host0: it has less memory"), std::string::npos);
  view.packages["sha256:p"].isas = {"aarch64"};
  EXPECT_EQ(chosen(""), "csd1");
  view.devices[2].state = DeviceState::kCordoned;
  Lose("csd1");
  EXPECT_EQ(chosen(""), "no device fits; csd0: the package has no code for x86_64; csd1: is offline; host0: is cordoned");
}

TEST_F(ReconcileTest, ADeviceWithoutItsLeaseIsOfflineAndItsStatelessInstancesGoElsewhere) {
  Device("host0");
  Device("host1");
  Service("web");
  Instance("web", "host0");
  Lose("host0");
  EXPECT_THAT(Decisions(), ElementsAre("host0 offline", "delete web-0", "create web/0 on host1"));
}

TEST_F(ReconcileTest, AStatefulInstanceOfALostDeviceFailsAndIsNotReplaced) {
  Device("host0");
  Device("host1");
  Service("db", kStateful);
  Instance("db", "host0");
  Lose("host0");
  EXPECT_THAT(Decisions(), ElementsAre("host0 offline", "db-0 Failed: its device host0 is offline"));
  view.devices[0].state = DeviceState::kOffline;
  view.instances[0].state = InstanceState::kFailed;
  EXPECT_THAT(Decisions(), IsEmpty());
}

TEST_F(ReconcileTest, AStatefulInstanceThatNeverRanIsPlacedAnew) {
  Device("host0");
  Device("host1");
  Service("db", kStateful);
  Instance("db", "host0", InstanceState::kPending);
  Lose("host0");
  EXPECT_THAT(Decisions(), ElementsAre("host0 offline", "delete db-0", "create db/0 on host1"));
}

TEST_F(ReconcileTest, AFailedStatelessInstanceIsStartedAgainAfterItsPause) {
  Device("host0");
  Service("web");
  const InstanceId id = Instance("web", "host0", InstanceState::kFailed).id;
  view.failed_lately.insert(id);
  EXPECT_THAT(Decisions(), IsEmpty());
  view.failed_lately.clear();
  EXPECT_THAT(Decisions(), ElementsAre("delete web-0", "create web/0 on host0"));
}

TEST_F(ReconcileTest, InstancesOfADeletedServiceGo) {
  Device("host0");
  Instance("gone", "host0");
  EXPECT_THAT(Decisions(), ElementsAre("delete gone-0"));
}

TEST_F(ReconcileTest, ANewPackageReplacesStatelessInstances) {
  Device("host0");
  Service("web").package = "sha256:new";
  Instance("web", "host0");
  EXPECT_THAT(Decisions(), ElementsAre("delete web-0", "create web/0 on host0"));
}

TEST_F(ReconcileTest, MigrationsThatNobodyCanFinishAreEnded) {
  Device("host0");
  Device("csd0");
  Service("db", kStateful);
  const InstanceRecord instance = Instance("db", "host0");
  MigrationRecord& migration = Migration(instance, "csd0", MigrationPhase::kCopying);
  EXPECT_THAT(Decisions(), IsEmpty()) << "it goes on by itself";
  view.stalled.insert(migration.id);
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Failed: the source's agent made no progress in time while it was Copying"));
  view.stalled.clear();
  view.devices[0].state = DeviceState::kOffline;
  view.instances[0].state = InstanceState::kFailed;
  Lose("host0");
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Failed: the source host0 is offline"));
  migration.phase = MigrationPhase::kCommitting;
  EXPECT_THAT(Decisions(), IsEmpty()) << "the target may have it and confirm";
  view.instances[0].device = DeviceName("csd0");
  view.instances[0].epoch = {2};
  view.instances[0].state = InstanceState::kRunning;
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Done"));
  view.instances.clear();
  view.services.clear();
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Failed: the instance was deleted"));
  migration.phase = MigrationPhase::kDone;
  EXPECT_THAT(Decisions(), IsEmpty());
}

TEST_F(ReconcileTest, AnInstanceThatItsSourceWonBackIsLeftToItsSourcesReport) {
  Device("host0");
  Device("csd0");
  Service("db", kStateful);
  const InstanceRecord instance = Instance("db", "host0");
  MigrationRecord& migration = Migration(instance, "csd0", MigrationPhase::kCommitting);
  view.instances[0].epoch = migration.epoch;
  Lose("csd0");
  view.devices[1].state = DeviceState::kOffline;
  EXPECT_THAT(Decisions(), IsEmpty()) << "the source tells why";
  view.stalled.insert(migration.id);
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Failed: the target csd0 was lost; the source went on"));
  view.stalled.clear();
  view.instances[0].epoch = migration.epoch.Next();
  EXPECT_THAT(Decisions(), ElementsAre("m-0 Failed: the instance got another owner meanwhile"));
}

TEST_F(ReconcileTest, ADrainedDeviceLosesItsInstancesFewAtOnce) {
  Device("csd0", DeviceClass::kCsd);
  Device("host0").state = DeviceState::kCordoned;
  view.devices.back().maintenance = Maintenance::kDrain;
  for (const char* name : {"a", "b", "c", "d"}) {
    Service(name, kStateful);
    Instance(name, "host0");
  }
  EXPECT_THAT(Decisions(), ElementsAre("move a-0 host0 -> csd0 for drain", "move b-1 host0 -> csd0 for drain"));
  Migration(view.instances[0], "csd0", MigrationPhase::kCopying);
  EXPECT_THAT(Decisions(), ElementsAre("move b-1 host0 -> csd0 for drain"));
  view.devices.back().maintenance = Maintenance::kCordon;
  EXPECT_THAT(Decisions(), IsEmpty());
}

TEST_F(ReconcileTest, AMoveThatWouldBreakAnSloOrAPowerCapIsNamedAndIsTheLastChoice) {
  Device("host0").uses = {{InstanceId("mover-0"), 20, 10, 60}};
  Device("host1").uses = {{InstanceId("there-1"), 70, 10, 140}};
  Device("host2").core_watts = 10;
  Device("host3", DeviceClass::kCsd);
  view.devices[2].power_cap_watts = 1;
  const ServiceRecord mover = Service("mover", std::string(kStateful) + "[slo]\np99_ms = 100\n");
  Service("there", "[slo]\np99_ms = 150\n");
  const InstanceRecord instance = Instance("mover", "host0");
  Instance("there", "host1");
  const Forecast there = ForecastOf(view, mover, instance, view.devices[1]);
  EXPECT_THAT(there.breaks, HasSubstr("p99 of 'mover' with it on 'host1'"));
  EXPECT_THAT(there.breaks, HasSubstr("above its [slo] p99_ms = 100 (now 60 ms)"));
  EXPECT_NEAR(there.busy_cores, 0.9, 1e-9);
  ASSERT_TRUE(there.p99_ms);
  EXPECT_GT(*there.p99_ms, 100);

  const ServiceRecord patient = Service("patient", kStateful);
  EXPECT_THAT(ForecastOf(view, patient, instance, view.devices[1]).breaks, HasSubstr("p99 of 'there' with it on 'host1'")) << "who is there counts too";
  EXPECT_THAT(ForecastOf(view, mover, instance, view.devices[2]).breaks, HasSubstr("'host2' would need 2 W by its power model, above its cap of 1 W"));
  EXPECT_EQ(ForecastOf(view, mover, instance, view.devices[3]).breaks, "");
  EXPECT_EQ(ChooseDevice(view, mover, &instance).value().value, "host3") << "though it is no host";

  view.devices[3].uses = {{InstanceId("mover-0"), 99, 10, 1000}};  // It was there a moment ago.
  EXPECT_EQ(ForecastOf(view, mover, instance, view.devices[3]).breaks, "");
  EXPECT_NEAR(ForecastOf(view, mover, instance, view.devices[3]).busy_cores, 0.2, 1e-9);

  view.devices[0].uses[0].p99_ms = 1e9;  // It could hardly be worse: away from here.
  EXPECT_EQ(ForecastOf(view, mover, instance, view.devices[3]).breaks, "");
  view.devices[0].uses.clear();
  const Forecast silent = ForecastOf(view, mover, instance, view.devices[1]);
  EXPECT_FALSE(silent.p99_ms);
  EXPECT_EQ(silent.breaks, "");
}

TEST_F(ReconcileTest, DrainingTriesAnotherTargetAfterARefusalAndLeavesWhatMayNotMove) {
  Device("csd0", DeviceClass::kCsd);
  Device("csd1", DeviceClass::kCsd);
  Device("host0").state = DeviceState::kCordoned;
  view.devices.back().maintenance = Maintenance::kLeave;
  Service("a", kStateful);
  Service("fixed", std::string(kStateful) + "[migration]\nallow = false\n");
  Service("free", "[migration]\nallow = false\n");
  Service("new", kStateful);
  Instance("a", "host0");
  Instance("fixed", "host0");
  Instance("free", "host0");
  Instance("new", "host0", InstanceState::kPending);
  EXPECT_THAT(Decisions(), ElementsAre("move a-0 host0 -> csd0 for drain", "delete free-2", "delete new-3", "create free/0 on csd0", "create new/0 on csd1"));
  view.refused_lately.emplace(view.instances[0].id, DeviceName("csd0"));
  EXPECT_EQ(Decisions().front(), "move a-0 host0 -> csd1 for drain");
  view.refused_lately.emplace(view.instances[0].id, DeviceName("csd1"));
  EXPECT_EQ(Decisions().front(), "delete free-2");
  Lose("host0");
  EXPECT_EQ(Decisions().front(), "host0 offline");
}

TEST_F(ReconcileTest, AProgramThatReadsADatasetAsAFileStaysWithIt) {
  Device("csd0", DeviceClass::kCsd);
  Service("reads", "kind = \"command\"\n[data]\nwords = \"read\"\n");
  Service("asks", "[data]\nwords = \"read\"\n");
  Instance("reads", "csd0");
  Instance("asks", "csd0");
  EXPECT_EQ(WhyStays(view, view.services[0]), "") << "there is no such dataset";
  view.datasets.push_back({DatasetName("words"), DeviceName("csd0"), {1}, "sha256:cc"});
  EXPECT_EQ(WhyStays(view, view.services[0]), "it reads dataset 'words' as a file of device 'csd0', and files of a device do not move");
  EXPECT_EQ(WhyStays(view, view.services[1]), "") << "others read it from there";
  view.instances[0].device = DeviceName("host0");
  EXPECT_EQ(WhyStays(view, view.services[0]), "") << "it may move to the dataset";
}

}  // namespace
}  // namespace godwit::control
