#include "gateway/directory.h"

#include <gtest/gtest.h>

#include <set>

namespace godwit::gateway {
namespace {

model::ServiceRecord Service(const std::string& name, const std::vector<std::string>& routes) {
  model::ServiceRecord record;
  record.name = model::ServiceName(name);
  for (const auto& route : routes) record.manifest.http.push_back({route, 1});
  return record;
}

model::InstanceRecord Instance(const std::string& id, const std::string& device, std::uint64_t epoch, std::uint32_t shard = 0) {
  model::InstanceRecord record;
  record.id = model::InstanceId(id);
  record.service = model::ServiceName("orders");
  record.device = model::DeviceName(device);
  record.epoch = model::Epoch{epoch};
  record.state = model::InstanceState::kRunning;
  record.shard = shard;
  return record;
}

model::DeviceRecord Device(const std::string& name) {
  model::DeviceRecord record;
  record.name = model::DeviceName(name);
  record.channel = name + ":1";
  return record;
}

TEST(Directory, FindsTheServiceOfAPath) {
  Directory directory;
  directory.Put(Service("root", {"/"}));
  directory.Put(Service("orders", {"/orders/{key}"}));
  directory.Put(Service("special", {"/orders/special"}));
  const struct {
    const char* path;
    const char* service;
    std::optional<std::string> key;
  } cases[] = {
      {"/", "root", {}},
      {"/orders", "root", {}},
      {"/orders/", "root", {}},
      {"/orders/7", "orders", "7"},
      {"/orders/7/lines/2", "orders", "7"},
      {"/orders/a%2Fb", "orders", "a/b"},
      {"/orders/special", "special", {}},
      {"/orders/%zz", "root", {}},
      {"/ordersx/7", "root", {}},
  };
  for (const auto& c : cases) {
    const auto match = directory.Match(c.path);
    ASSERT_TRUE(match.has_value()) << c.path;
    EXPECT_EQ(match->service.value, c.service) << c.path;
    EXPECT_EQ(match->key, c.key) << c.path;
  }
  directory.Remove(model::ServiceName("root"));
  EXPECT_FALSE(directory.Match("/nothing").has_value());
  EXPECT_FALSE(directory.Match("*").has_value());
}

TEST(Directory, BelievesTheHigherEpoch) {
  Directory directory;
  directory.Put(Service("orders", {"/orders/{key}"}));
  directory.Put(Device("a"));
  directory.Put(Device("b"));
  directory.Put(Instance("i", "a", 1));
  directory.Learn({model::InstanceId("i"), model::DeviceName("b"), "b:9", model::Epoch{2}});
  EXPECT_EQ(directory.Find(model::InstanceId("i"))->device.value, "b");
  directory.Put(Instance("i", "a", 1));  // A watch that lags behind.
  EXPECT_EQ(directory.Find(model::InstanceId("i"))->device.value, "b");
  directory.Put(Instance("i", "a", 3));
  EXPECT_EQ(directory.Find(model::InstanceId("i"))->device.value, "a");
  directory.Learn({model::InstanceId("i"), model::DeviceName("b"), "b:9", model::Epoch{2}});
  EXPECT_EQ(directory.Find(model::InstanceId("i"))->device.value, "a");
}

TEST(Directory, UsesWhatAMoveSaidOfADeviceThatIsNotKnown) {
  Directory directory;
  directory.Put(Service("orders", {"/orders/{key}"}));
  directory.Put(Device("a"));
  directory.Put(Instance("i", "a", 1));
  directory.Learn({model::InstanceId("i"), model::DeviceName("new"), "new:9", model::Epoch{2}});
  EXPECT_EQ(directory.Find(model::InstanceId("i"))->channel, "new:9");
}

TEST(Directory, SendsAKeyAlwaysToTheSameShard) {
  Directory directory;
  auto service = Service("orders", {"/orders/{key}"});
  service.manifest.state = model::StateClass::kStateful;
  service.manifest.shards = 4;
  directory.Put(service);
  directory.Put(Device("a"));
  for (std::uint32_t shard = 0; shard < 4; ++shard) directory.Put(Instance("i" + std::to_string(shard), "a", 1, shard));
  std::set<std::string> used;
  for (int key = 0; key < 100; ++key) {
    const auto match = directory.Match("/orders/" + std::to_string(key));
    const auto places = directory.Candidates(*match);
    ASSERT_EQ(places.size(), 1u);
    EXPECT_EQ(places[0].instance.value, "i" + std::to_string(Directory::ShardOf(std::to_string(key), 4)));
    used.insert(places[0].instance.value);
  }
  EXPECT_EQ(used.size(), 4u);
}

TEST(Directory, SaysWhyNoInstanceCanServe) {
  Directory directory;
  directory.Put(Service("orders", {"/orders/{key}"}));
  const auto match = *directory.Match("/orders/1");
  EXPECT_EQ(directory.WhyNone(match), "it has no instance yet");
  auto instance = Instance("i", "a", 1);
  directory.Put(instance);
  EXPECT_NE(directory.WhyNone(match).find("channel is not known"), std::string::npos);
  instance.state = model::InstanceState::kFailed;
  instance.reason = "out of memory";
  directory.Put(instance);
  EXPECT_EQ(directory.WhyNone(match), "instance i is Failed: out of memory");
}

}  // namespace
}  // namespace godwit::gateway
