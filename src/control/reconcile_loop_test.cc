#include "control/reconcile_loop.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "base/fresh_file.h"
#include "control/api.h"
#include "control/view.h"

namespace godwit::control {
namespace {

using namespace model;
using namespace std::chrono_literals;

class ReconcileLoopTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto metadata = store::OpenMetadata("sqlite:", folder_.path());
    ASSERT_TRUE(metadata.ok()) << metadata.error().message;
    metadata_ = std::move(*metadata);
  }
  void Write(const std::string& kind, const std::string& name, const std::string& json) {
    ASSERT_TRUE(metadata_->Commit({{}, {store::Put{KeyOf(kind, name), json, {}}}, {}}).ok());
  }
  ClusterView View() { return LoadView(*metadata_).value().view; }
  // Waits until the view satisfies `holds`.
  bool Until(const std::function<bool(const ClusterView&)>& holds) {
    for (const auto end = std::chrono::steady_clock::now() + 2min; std::chrono::steady_clock::now() < end; std::this_thread::yield()) {
      if (holds(View())) return true;
    }
    return false;
  }

  const TemporaryFolder folder_ = TemporaryFolder::Create().value();
  std::unique_ptr<store::Metadata> metadata_;
};

TEST_F(ReconcileLoopTest, NoDeviceIsOfflineBeforeALeaseHasPassed) {
  DeviceRecord device;
  device.name = DeviceName("host0");
  device.isa = "x86_64";
  device.state = DeviceState::kReady;
  device.boot_id = BootId{1};
  Write("devices", "host0", device.ToJson());  // Its lease ended while there was no controller.
  InstanceRecord orphan;
  orphan.id = InstanceId("gone-0");
  orphan.service = ServiceName("gone");
  orphan.device = device.name;
  Write("instances", "gone-0", orphan.ToJson());
  {
    const auto loop = ReconcileLoop::Start(*metadata_, 1h);
    // That the orphan went shows that a round was made.
    ASSERT_TRUE(Until([](const ClusterView& view) { return view.instances.empty(); }));
    EXPECT_EQ(View().devices.at(0).state, DeviceState::kReady);
  }
  const auto loop = ReconcileLoop::Start(*metadata_, 1ms);
  EXPECT_TRUE(Until([](const ClusterView& view) { return view.devices.at(0).state == DeviceState::kOffline; }));
}

}  // namespace
}  // namespace godwit::control
