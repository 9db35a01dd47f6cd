#include <gtest/gtest.h>

#include "model/ids.h"
#include "model/manifest.h"
#include "model/records.h"

namespace godwit::model {
namespace {

constexpr char kOrders[] = R"([service]
name = "orders"
kind = "reactor"
state = "stateful"
source = "orders.wasm"
shards = 4
[[trigger.http]]
route = "/orders/{key}"
concurrency = 2
websocket = true
[env]
MODE = "fast"
[outbound]
hosts = ["db.internal:5432"]
[limits]
memory = "64Mi"
request_timeout_ms = 1500
[data]
orders = "read-write"
prices = "read"
[calls]
allow = ["catalog"]
[placement]
require = { isa = "x86_64" }
prefer = { class = "csd" }
near = "orders"
[slo]
p99_ms = 5
[migration]
max_downtime_ms = 5
)";

void ExpectIsOrders(const Manifest& manifest) {
  EXPECT_EQ(manifest.name.value, "orders");
  EXPECT_EQ(manifest.kind, ServiceKind::kReactor);
  EXPECT_EQ(manifest.state, StateClass::kStateful);
  EXPECT_EQ(manifest.source, "orders.wasm");
  EXPECT_EQ(manifest.shards, 4u);
  ASSERT_EQ(manifest.http.size(), 1u);
  EXPECT_EQ(manifest.http[0].route, "/orders/{key}");
  EXPECT_EQ(manifest.http[0].concurrency, 2u);
  EXPECT_TRUE(manifest.http[0].web_socket);
  EXPECT_EQ(manifest.env.at("MODE"), "fast");
  EXPECT_EQ(manifest.limits.memory, 64_MiB);
  EXPECT_EQ(manifest.limits.request_timeout.count(), 1500);
  EXPECT_TRUE(manifest.MayWrite(DatasetName("orders")));
  EXPECT_TRUE(manifest.MayRead(DatasetName("prices")));
  EXPECT_FALSE(manifest.MayWrite(DatasetName("prices")));
  EXPECT_FALSE(manifest.MayRead(DatasetName("secrets")));
  EXPECT_TRUE(manifest.MayRead(DatasetName("prices.11"))) << "a part";
  EXPECT_TRUE(manifest.MayRead(DatasetName("prices.parts")));
  EXPECT_FALSE(manifest.MayRead(DatasetName("prices.1a")));
  EXPECT_FALSE(manifest.MayRead(DatasetName("prices.")));
  EXPECT_FALSE(manifest.MayWrite(DatasetName("orders.1")));
  EXPECT_TRUE(manifest.MayCall(ServiceName("catalog")));
  EXPECT_FALSE(manifest.MayCall(ServiceName("orders")));
  EXPECT_EQ(manifest.placement.require.at("isa"), "x86_64");
  EXPECT_EQ(manifest.placement.prefer.at("class"), "csd");
  EXPECT_EQ(manifest.placement.near->value, "orders");
  EXPECT_EQ(manifest.slo_p99_ms, 5.0);
  EXPECT_EQ(manifest.migration.max_downtime->count(), 5);
}

TEST(ManifestTest, TomlAndItsJsonFormMeanTheSame) {
  const auto manifest = Manifest::FromToml(kOrders, "orders.toml");
  ASSERT_TRUE(manifest.ok()) << manifest.error().message;
  ExpectIsOrders(*manifest);
  const auto again = Manifest::FromJson(manifest->ToJson());
  ASSERT_TRUE(again.ok()) << again.error().message;
  ExpectIsOrders(*again);
  EXPECT_EQ(again->ToJson(), manifest->ToJson());
}

TEST(ManifestTest, GrantsNothingByDefault) {
  const auto manifest = Manifest::FromToml("[service]\nname = \"a\"\n", "a.toml");
  ASSERT_TRUE(manifest.ok()) << manifest.error().message;
  EXPECT_TRUE(manifest->data.empty() && manifest->calls.empty() && manifest->outbound_hosts.empty() && manifest->http.empty());
}

TEST(ManifestTest, RefusalsNameLineAndKey) {
  struct Case {
    const char* toml;
    const char* message;
  };
  const Case cases[] = {
      {"[service]\nname = \"a\"\nsahrds = 2", "f.toml:3: key 'service.sahrds': is unknown here; did you mean 'shards'?"},
      {"[service]\nname = \"a\"\n[limit]\nmemory=\"1Mi\"", "f.toml:3: key 'limit': is unknown here; did you mean 'limits'?"},
      {"[service]\nname = 7", "f.toml:2: key 'service.name': must be a string"},
      {"[service]\nname = \"A_b\"", "f.toml:2: key 'service.name': service name 'A_b'"},
      {"[service]\nname = \"a\"\nkind = \"reaktor\"", "did you mean 'reactor'?"},
      {"[service]\nname = \"a\"\nshards = 2", "f.toml:3: key 'service.shards': only a stateful service"},
      {"[service]\nname = \"a\"\nsource=\"x\"\npackage=\"y\"", "not both"},
      {"[service]\nname = \"a\"\n[limits]\nmemory = \"64MB\"", "f.toml:4: key 'limits.memory': must be a size"},
      {"[service]\nname = \"a\"\n[limits]\nmemory = \"5Gi\"", "must be between 64Ki and 4Gi"},
      {"[service]\nname = \"a\"\n[limits]\nmemory = -1", "must be a size"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"orders\"", "f.toml:4: key 'trigger.http[0].route': a route begins with '/'"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"/a/{k}/b\"", "whole last segment"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"/a{k}\"", "whole last segment"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"/a/{}\"", "whole last segment"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nconcurrency = 1", "lacks its key 'route'"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"/a\"\nconcurrency = 0", "must be between 1 and 256"},
      {"[service]\nname = \"a\"\n[[trigger.http]]\nroute = \"/a\"\nconcurrency = 257", "must be between 1 and 256"},
      {"[service]\nname = \"a\"\nkind = \"command\"\n[[trigger.http]]\nroute = \"/a\"\nwebsocket = true", "is for reactors"},
      {"[service]\nname = \"a\"\n[data]\nx = \"write\"", "f.toml:4: key 'data.x': must be \"read\" or \"read-write\""},
      {"[service]\nname = \"a\"\n[outbound]\nhosts = [\"db\"]", "must be HOST:PORT"},
      {"pp\xca\x8a", "1"},  // A letter that toml++ takes for impossible.
      {"[service]\nname = \"a\"\n[placement]\nprefer = { class = \"cds\" }", "did you mean 'csd'?"},
      {"[service]\nname = \"a\"\n[placement.require]\nisas = \"x86_64\"", "did you mean 'isa'?"},
      {"[service]\nname = \"a\"\n[migration]\nallow = \"no\"", "must be true or false"},
      {"[service]\nname = \"a\"\nwhen = 2020-01-01", "f.toml:3: key 'service.when': is unknown"},
      {"service = 3", "f.toml:1: key 'service': must be a table"},
      {"", "[service]"},
      {"[service\n", "f.toml:1: "},
  };
  for (const Case& c : cases) {
    const auto manifest = Manifest::FromToml(c.toml, "f.toml");
    ASSERT_FALSE(manifest.ok()) << c.toml;
    EXPECT_EQ(manifest.error().code, ErrorCode::kInvalidArgument);
    EXPECT_NE(manifest.error().message.find(c.message), std::string::npos) << c.toml << "\n" << manifest.error().message;
  }
}

TEST(ManifestTest, JsonIsReadAsStrictlyAsToml) {
  for (const char* text : {"", "[]", "{}", "{\"service\":{\"name\":\"a\",\"x\":1}}", "{\"service\":[]}",
                           "{\"service\":{\"name\":\"a\"},\"trigger\":{\"http\":{}}}"}) {
    EXPECT_FALSE(Manifest::FromJson(text).ok()) << text;
  }
}

TEST(ManifestTest, RefusesADocumentPastItsLimit) {
  std::string text = "[service]\nname = \"a\"\n#";
  text.resize(kManifestBytesMax, 'x');
  EXPECT_TRUE(Manifest::FromToml(text, "f").ok());
  EXPECT_FALSE(Manifest::FromToml(text + "x", "f").ok());
}

TEST(ByteCountTest, HasBinarySuffixes) {
  EXPECT_EQ(ParseByteCount("64Mi"), 64_MiB);
  EXPECT_EQ(ParseByteCount("4096"), ByteCount{4096});
  EXPECT_EQ(ParseByteCount("16777215Ti"), ByteCount{16777215ull << 40});
  for (const char* wrong : {"", "Mi", "64M", "64 Mi", "-1", "16777216Ti", "99999999999999999999"}) {
    EXPECT_EQ(ParseByteCount(wrong), std::nullopt) << wrong;
  }
  EXPECT_EQ(FormatByteCount(64_MiB), "64Mi");
  EXPECT_EQ(FormatByteCount({1000}), "1000");
  EXPECT_EQ(FormatByteCount({0}), "0");
}

TEST(IdsTest, NamesAreDnsLabels) {
  for (const char* good : {"a", "host0", "a-b", "0"}) EXPECT_TRUE(CheckName("name", good).ok()) << good;
  for (const char* bad : {"", "-a", "a-", "A", "a.b", "a/b", "a b"}) EXPECT_FALSE(CheckName("name", bad).ok()) << bad;
  EXPECT_TRUE(CheckName("name", std::string(63, 'a')).ok());
  EXPECT_FALSE(CheckName("name", std::string(64, 'a')).ok());
  EXPECT_TRUE(CheckDatasetName("debian_12.txt").ok());
  EXPECT_FALSE(CheckDatasetName("../etc").ok());
}

TEST(IdsTest, BootIdsAreSixteenHexadecimalDigits) {
  EXPECT_EQ(BootId{0x1f}.ToString(), "000000000000001f");
  EXPECT_EQ(BootId::Parse("000000000000001f"), BootId{0x1f});
  const BootId random = BootId::Random();
  EXPECT_EQ(BootId::Parse(random.ToString()), random);
  for (const char* wrong : {"", "1f", "000000000000001g", "0000000000000001f"}) EXPECT_FALSE(BootId::Parse(wrong));
}

TEST(RecordsTest, ComeBackFromJsonAsTheyWere) {
  DeviceRecord device{DeviceName("csd1"), DeviceClass::kCsd, "aarch64", 2, 1_GiB, 0.25, DeviceState::kCordoned,
                      BootId{~0ull}, "10.0.0.2:7000", "http://10.0.0.2:8080", {"cores", "link 1Gbit"}};
  device.speed = 0.5;
  device.core_watts = 1.5;
  device.power_cap_watts = 10;
  device.uses = {{InstanceId("orders-0-x"), 12.5, 0.75, 3}};
  device.open_files = {{InstanceId("orders-0-x"), 4}};
  device.foreground = {1000, 50, 90, 0.5, 2};
  PackageRecord package{"sha256:aa", {{"sha256:aa", {10}}, {"sha256:bb", {20}}}, {"aarch64", "x86_64"}};
  ServiceRecord service{ServiceName("orders"), *Manifest::FromToml(kOrders, "f"), "sha256:aa", 7};
  InstanceRecord instance{InstanceId("orders-0-x"), ServiceName("orders"), 3, DeviceName("csd1"), {9},
                          InstanceState::kFailed, "device lost", "sha256:aa"};
  MigrationRecord migration;
  migration.id = MigrationId("m-1");
  migration.service = ServiceName("orders");
  migration.instance = InstanceId("orders-0-x");
  migration.shard = 3;
  migration.source = DeviceName("host0");
  migration.target = DeviceName("csd1");
  migration.epoch = {10};
  migration.phase = MigrationPhase::kCommitting;
  migration.max_downtime_ms = 5;
  migration.rounds = {{1, 2, 3, 4}, {5, 6, 7, 8}};
  migration.downtime_us = 1234;
  migration.error = "no";
  DatasetRecord dataset{DatasetName("orders"), DeviceName("csd0"), {1ull << 40}, "sha256:cc"};
  const auto same = [](const auto& record) {
    const std::string text = record.ToJson();
    const auto again = std::remove_cvref_t<decltype(record)>::FromJson(text);
    ASSERT_TRUE(again.ok()) << again.error().message;
    EXPECT_EQ(again->ToJson(), text);
  };
  same(device);
  same(package);
  same(service);
  same(instance);
  same(migration);
  same(dataset);
  EXPECT_EQ(DeviceRecord::FromJson(device.ToJson())->boot_id, device.boot_id);
  EXPECT_EQ(DeviceRecord::FromJson(device.ToJson())->uses.at(0).requests_per_second, 12.5);
  EXPECT_EQ(DeviceRecord::FromJson(device.ToJson())->open_files.at(0).files, 4u);
  EXPECT_EQ(DeviceRecord::FromJson(device.ToJson())->foreground.p99_us, 90);
  EXPECT_EQ(MigrationRecord::FromJson(migration.ToJson())->rounds[1].dirty_pages, 7u);
}

TEST(RecordsTest, IgnoreUnknownMembersButRefuseWrongOnes) {
  const std::string good = R"({"id":"i","service":"s","shard":0,"device":"d","epoch":1,"state":"Running","package":"p","later":1})";
  EXPECT_TRUE(InstanceRecord::FromJson(good).ok());
  for (const auto& [from, to] : std::vector<std::pair<std::string, std::string>>{
           {"\"Running\"", "\"running\""}, {"\"epoch\":1", "\"epoch\":-1"}, {"\"shard\":0", "\"shard\":4294967296"},
           {"\"service\":\"s\"", "\"service\":\"S\""}, {"\"package\":\"p\",", ""}, {"\"id\":\"i\"", "\"id\":1"}}) {
    std::string bad = good;
    bad.replace(bad.find(from), from.size(), to);
    EXPECT_FALSE(InstanceRecord::FromJson(bad).ok()) << bad;
  }
  EXPECT_FALSE(InstanceRecord::FromJson("[]").ok());
  EXPECT_FALSE(InstanceRecord::FromJson("{").ok());
}

}  // namespace
}  // namespace godwit::model
