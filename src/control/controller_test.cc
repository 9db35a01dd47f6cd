// The API and the controller over a real metadata store and real sockets.
#include "control/controller.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/fresh_file.h"
#include "control/api.h"
#include "package/package.h"
#include "transport/http_client.h"

namespace godwit::control {
namespace {

using nlohmann::json;
using transport::HttpAnswer;
using transport::HttpCall;
using transport::HttpClient;
using namespace model;
namespace fs = std::filesystem;

class ControllerTest : public ::testing::Test {
 protected:
  void SetUp() override {
    Start();
  }
  void TearDown() override {
    client_.reset();
    controller_.reset();
  }

  void Start() {
    auto controller = Controller::Start({.data = folder_, .token = "secret", .lease_ttl = std::chrono::seconds(ttl_s_)});
    ASSERT_TRUE(controller.ok()) << controller.error().message;
    controller_ = std::move(*controller);
    client_ = Client("secret");
  }
  std::unique_ptr<HttpClient> Client(const std::string& token) {
    HttpClient::Options options;
    options.token = token;
    auto client = HttpClient::Create(controller_->url(), options);
    EXPECT_TRUE(client.ok());
    return std::move(*client);
  }
  HttpAnswer Call(const std::string& method, const std::string& target, const json& body = json(), transport::HttpHeaders headers = {}) {
    HttpCall call;
    call.method = method;
    call.target = target;
    call.headers = std::move(headers);
    if (!body.is_null()) call.body = body.is_string() ? body.get<std::string>() : body.dump();
    auto answer = client_->Call(call);
    EXPECT_TRUE(answer.ok()) << method << " " << target << ": " << answer.error().message;
    return answer.ok() ? std::move(*answer) : HttpAnswer{};
  }
  json Get(const std::string& target) {
    const HttpAnswer answer = Call("GET", target);
    EXPECT_EQ(answer.status, 200) << target << ": " << answer.body;
    return json::parse(answer.body, nullptr, false);
  }
  // Polls until the record satisfies `holds`.
  json Until(const std::string& target, const std::function<bool(const json&)>& holds) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    json last;
    while (std::chrono::steady_clock::now() < deadline) {
      const HttpAnswer answer = Call("GET", target);
      last = json::parse(answer.body, nullptr, false);
      if (answer.status == 200 && holds(last)) return last;
      std::this_thread::yield();
    }
    ADD_FAILURE() << target << " never came to be as expected: " << last.dump();
    return last;
  }

  static json Device(const std::string& name, std::uint64_t boot_id = 1) {
    DeviceRecord device{DeviceName(name), DeviceClass::kHost, "x86_64", 2, 1_GiB, 0, DeviceState::kReady, BootId{boot_id},
                        "127.0.0.1:1", "http://127.0.0.1:2", {}};
    return json::parse(device.ToJson());
  }
  std::string Register(const std::string& name, std::uint64_t boot_id = 1) {
    const HttpAnswer answer = Call("POST", "/v1/devices/" + name + "/lease", Device(name, boot_id));
    EXPECT_EQ(answer.status, 200) << answer.body;
    return json::parse(answer.body)["lease"].get<std::string>();
  }
  std::string PutPackage(const std::string& note = "") {
    const std::string index = json{{"schemaVersion", 2}, {"note", note}, {"manifests", {{{"platform", {{"architecture", "amd64"}}}}}}}.dump();
    const std::string digest = package::Sha256Digest(AsBytes(index));
    EXPECT_LT(Call("PUT", "/v1/blobs/" + digest, index).status, 300);
    EXPECT_LT(Call("PUT", "/v1/packages/" + digest, {{"digest", digest}, {"blobs", {{{"digest", digest}, {"bytes", index.size()}}}}}).status, 300);
    return digest;
  }
  HttpAnswer PutService(const std::string& name, const std::string& package, const std::string& state = "stateful") {
    const json manifest{{"service", {{"name", name}, {"state", state}}}, {"trigger", {{"http", {{{"route", "/" + name + "/{key}"}}}}}}};
    return Call("PUT", "/v1/services/" + name, {{"name", name}, {"manifest", manifest}, {"package", package}});
  }
  // A service whose one instance runs on `device`, as its agent says.
  std::string RunningOn(const std::string& service, const std::string& device, const std::string& state = "stateful") {
    EXPECT_LT(PutService(service, PutPackage(), state).status, 300);
    const json record = Until("/v1/services/" + service, [](const json& s) { return !s["instances"].empty(); });
    const std::string id = record["instances"][0]["id"].get<std::string>();
    EXPECT_EQ(record["instances"][0]["device"], device);
    EXPECT_EQ(Call("PATCH", "/v1/instances/" + id, {{"state", "Running"}}).status, 200);
    return id;
  }

  int ttl_s_ = 60;
  const TemporaryFolder temporary_ = TemporaryFolder::Create().value();
  const fs::path folder_ = temporary_.path();
  std::unique_ptr<Controller> controller_;
  std::unique_ptr<HttpClient> client_;
};

TEST_F(ControllerTest, AsksForItsTokenAndNotBeyondLoopbackWithoutOne) {
  for (const char* token : {"", "wrong", "secrets"}) {
    HttpCall call;
    call.target = "/v1/devices";
    if (*token != 0) call.headers = {{"Authorization", std::string("Bearer ") + token}};
    const auto answer = Client("")->Call(call);  // In plain, as anybody may ask.
    ASSERT_TRUE(answer.ok());
    EXPECT_EQ(answer->status, 401) << token;
    EXPECT_EQ(*answer->header("Content-Type"), "application/problem+json");
  }
  EXPECT_EQ(Get("/v1/devices")["items"].size(), 0u);
  const auto open = Controller::Start({.address = "0.0.0.0", .data = folder_ / "other"});
  ASSERT_FALSE(open.ok());
  EXPECT_EQ(open.error().code, ErrorCode::kPermissionDenied);
}

TEST_F(ControllerTest, TellsOfItself) {
  EXPECT_EQ(Call("GET", "/healthz").status, 200);
  EXPECT_EQ(Call("GET", "/readyz").status, 200);
  EXPECT_TRUE(json::parse(Call("GET", "/openapi.json").body, nullptr, false).contains("paths"));
  Register("host0");
  const std::string metrics = Call("GET", "/metrics").body;
  EXPECT_NE(metrics.find("godwit_device_utilization_ratio{device=\"host0\",class=\"host\"} 0\n"), std::string::npos) << metrics;
  EXPECT_TRUE(metrics.ends_with("# EOF\n"));
}

TEST_F(ControllerTest, AnswersWrongRequestsWithProblems) {
  const std::tuple<const char*, const char*, json, int> cases[] = {
      {"GET", "/v1/nothing", {}, 404},          {"GET", "/v1/services/none", {}, 404},
      {"POST", "/v1/services", {}, 405},        {"PUT", "/v1/services/a", "[]", 400},
      {"PUT", "/v1/services/a", "{", 400},      {"DELETE", "/v1/services/none", {}, 404},
      {"PATCH", "/v1/services/a", {}, 405},     {"GET", "/elsewhere", {}, 404},
      {"POST", "/v1/leases/12345", {}, 404},    {"POST", "/v1/migrations", json::object(), 400},
      {"PUT", "/v1/blobs/sha256:12", "x", 400}, {"PUT", "/v1/blobs/sha256:0000000000000000000000000000000000000000000000000000000000000000", "x", 422},
      {"PUT", "/v1/instances/i", {{"id", "i"}, {"service", "s"}, {"state", "Running"}, {"package", "p"}}, 404},
      {"PUT", "/v1/services/a", {{"name", "a"}, {"package", "sha256:none"}, {"manifest", {{"service", {{"name", "a"}}}}}}, 409},
  };
  for (const auto& [method, target, body, status] : cases) {
    const HttpAnswer answer = Call(method, target, body);
    EXPECT_EQ(answer.status, status) << method << " " << target << ": " << answer.body;
    EXPECT_EQ(json::parse(answer.body, nullptr, false).value("status", 0), status) << answer.body;
  }
}

TEST_F(ControllerTest, BlobsComeBackAsTheyWereAndOnlyUnderTheirDigest) {
  std::string bytes(3 << 20, '\0');
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 2654435761u >> 24);
  const std::string digest = package::Sha256Digest(AsBytes(bytes));
  HttpCall call;
  call.method = "PUT";
  call.target = "/v1/blobs/" + digest;
  call.body = bytes + "x";
  EXPECT_EQ(client_->Call(call)->status, 422);
  EXPECT_EQ(Call("GET", call.target).status, 404);
  call.body = bytes;
  EXPECT_EQ(client_->Call(call)->status, 201);
  EXPECT_EQ(Call("GET", call.target).body, bytes);
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder_ / "blobs")) ++files;
  EXPECT_EQ(files, 1u) << "nothing half-written stays";
}

TEST_F(ControllerTest, RecordsAreWrittenUnderTheirETag) {
  const json dataset{{"name", "words"}, {"device", "csd0"}, {"bytes", 5}, {"digest", "sha256:aa"}};
  EXPECT_EQ(Call("PUT", "/v1/datasets/words", dataset, {{"If-None-Match", "*"}}).status, 201);
  EXPECT_EQ(Call("PUT", "/v1/datasets/words", dataset, {{"If-None-Match", "*"}}).status, 412);
  const HttpAnswer first = Call("GET", "/v1/datasets/words");
  const std::string etag = *first.header("ETag");
  json changed = dataset;
  changed["bytes"] = 6;
  EXPECT_EQ(Call("PUT", "/v1/datasets/words", changed, {{"If-Match", etag}}).status, 200);
  EXPECT_EQ(Call("PUT", "/v1/datasets/words", dataset, {{"If-Match", etag}}).status, 412);
  EXPECT_EQ(Call("DELETE", "/v1/datasets/words", json(), {{"If-Match", etag}}).status, 412);
  EXPECT_EQ(Get("/v1/datasets")["items"][0]["bytes"], 6);
  EXPECT_EQ(Call("PUT", "/v1/datasets/other", dataset).status, 400);
  EXPECT_EQ(Call("DELETE", "/v1/datasets/words").status, 204);
  EXPECT_EQ(Call("GET", "/v1/datasets/words").status, 404);
}

TEST_F(ControllerTest, AServiceIsPlacedAndItsDeletionTakesItsInstances) {
  const std::string package = PutPackage();
  EXPECT_EQ(PutService("web", package).status, 201);
  json service = Get("/v1/services/web");
  EXPECT_EQ(service["conditions"][0]["status"], false);
  EXPECT_EQ(service["conditions"][0]["reason"], "no device fits: there are none");
  Register("host0");
  service = Until("/v1/services/web", [](const json& s) { return !s["instances"].empty(); });
  EXPECT_EQ(service["instances"][0]["device"], "host0");
  EXPECT_EQ(service["instances"][0]["state"], "Pending");
  EXPECT_EQ(service["url"], "http://127.0.0.1:2/web");
  const std::string id = service["instances"][0]["id"].get<std::string>();
  EXPECT_EQ(Call("PATCH", "/v1/instances/" + id, {{"state", "Running"}, {"epoch", 1}}).status, 200);
  EXPECT_EQ(Get("/v1/services/web")["conditions"][0]["status"], true);
  EXPECT_EQ(Get("/v1/services/web")["conditions"][1]["status"], true);
  EXPECT_EQ(Call("PATCH", "/v1/instances/" + id, {{"device", "csd0"}}).status, 409);
  EXPECT_EQ(Call("PATCH", "/v1/instances/" + id, {{"epoch", 2}}).status, 409);
  EXPECT_EQ(PutService("web", PutPackage("other")).status, 409) << "another binary cannot take its memory over";
  const json other{{"service", {{"name", "other"}}}, {"trigger", {{"http", {{{"route", "/web/{key}"}}}}}}};
  EXPECT_EQ(Call("PUT", "/v1/services/other", {{"name", "other"}, {"manifest", other}, {"package", package}}).status, 409);
  EXPECT_EQ(Call("DELETE", "/v1/packages/" + package).status, 409);
  EXPECT_EQ(Call("DELETE", "/v1/services/web").status, 204);
  EXPECT_EQ(Get("/v1/instances")["items"].size(), 0u);
  EXPECT_EQ(Call("DELETE", "/v1/packages/" + package).status, 204);
}

TEST_F(ControllerTest, AMigrationIsOneAtATimeAndItsOwnerChangesByCompareAndSwap) {
  Register("host0");
  const std::string id = RunningOn("db", "host0");
  Register("host1");
  const json wanted{{"service", "db"}, {"target", "host1"}};
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "none"}, {"target", "host1"}}).status, 404);
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "none"}}).status, 404);
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "host0"}}).status, 409);
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "host1"}, {"shard", 1}}).status, 404);
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "host1"}, {"mode", "postcopy"}}).status, 501);
  const HttpAnswer answer = Call("POST", "/v1/migrations", wanted);
  ASSERT_EQ(answer.status, 202) << answer.body;
  const json migration = json::parse(answer.body);
  EXPECT_EQ(migration["source"], "host0");
  EXPECT_EQ(migration["epoch"], 2);
  EXPECT_EQ(migration["phase"], "Pending");
  EXPECT_EQ(Call("POST", "/v1/migrations", wanted).status, 409);

  const std::string target = "/v1/migrations/" + migration["id"].get<std::string>();
  const std::string confirm = "/v1/instances/" + id + "/confirm";
  json claim{{"device", "host1"}, {"epoch", 2}, {"migration", migration["id"]}};
  EXPECT_EQ(Call("PATCH", target, {{"phase", "Committing"}}).status, 200);
  EXPECT_EQ(Call("PATCH", target, {{"target", "host0"}}).status, 400);
  EXPECT_EQ(Call("POST", confirm, {{"device", "host1"}, {"epoch", 3}, {"migration", migration["id"]}}).status, 409);
  EXPECT_EQ(Call("POST", confirm, {{"device", "host9"}, {"epoch", 2}, {"migration", migration["id"]}}).status, 409);
  EXPECT_EQ(Call("POST", confirm, {{"device", "host1"}, {"epoch", 2}, {"migration", "m-none"}}).status, 404);
  EXPECT_EQ(Call("POST", confirm, claim).status, 200);
  EXPECT_EQ(Call("POST", confirm, claim).status, 200) << "it is idempotent";
  claim["device"] = "host0";
  EXPECT_EQ(Call("POST", confirm, claim).status, 409) << "the loser is told";
  EXPECT_EQ(Get("/v1/instances/" + id)["device"], "host1");
  EXPECT_EQ(Get("/v1/instances/" + id)["epoch"], 2);

  EXPECT_EQ(Call("PATCH", target, {{"phase", "Done"}, {"downtime_us", 1500}}).status, 200);
  EXPECT_EQ(Call("PATCH", target, {{"phase", "Done"}, {"downtime_us", 1500}}).status, 200);
  EXPECT_EQ(Call("PATCH", target, {{"phase", "Failed"}}).status, 409);
  EXPECT_EQ(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "host0"}}).status, 202);
}

TEST_F(ControllerTest, APendingMigrationCanBeCancelledAndOneThatIsOverForgotten) {
  Register("host0");
  const std::string id = RunningOn("db", "host0");
  Register("host1");
  const json wanted{{"service", "db"}, {"target", "host1"}};
  const std::string target = "/v1/migrations/" + json::parse(Call("POST", "/v1/migrations", wanted).body)["id"].get<std::string>();
  EXPECT_EQ(Call("DELETE", target).status, 204);
  EXPECT_EQ(Get(target)["phase"], "Cancelled");
  EXPECT_EQ(Call("DELETE", target).status, 204);
  EXPECT_EQ(Call("GET", target).status, 404);
  const json again = json::parse(Call("POST", "/v1/migrations", wanted).body);
  EXPECT_EQ(Call("PATCH", "/v1/migrations/" + again["id"].get<std::string>(), {{"phase", "Preparing"}}).status, 200);
  EXPECT_EQ(Call("DELETE", "/v1/migrations/" + again["id"].get<std::string>()).status, 409);
}

TEST_F(ControllerTest, ADryRunChangesNothingAndAutoChoosesADevice) {
  Register("host0");
  RunningOn("store", "host0");
  Register("host1");
  json wanted{{"service", "store"}, {"target", "auto"}, {"dry_run", true}};
  HttpAnswer answer = Call("POST", "/v1/migrations", wanted);
  ASSERT_EQ(answer.status, 200) << answer.body;
  json plan = json::parse(answer.body);
  EXPECT_EQ(plan["migration"]["target"], "host1");
  EXPECT_TRUE(plan["estimate"].contains("unknown"));
  EXPECT_EQ(Get("/v1/migrations")["items"].size(), 0u);
  wanted["dry_run"] = false;
  answer = Call("POST", "/v1/migrations", wanted);
  ASSERT_EQ(answer.status, 202) << answer.body;
  const std::string id = json::parse(answer.body)["id"].get<std::string>();
  EXPECT_EQ(Call("PATCH", "/v1/migrations/" + id, {{"phase", "Done"}, {"total_us", 2'000'000}, {"bytes_sent", 10'000'000}, {"memory_bytes", 20'000'000}, {"downtime_us", 700}}).status, 200);
  wanted["dry_run"] = true;
  plan = json::parse(Call("POST", "/v1/migrations", wanted).body);
  EXPECT_EQ(plan["estimate"]["total_us"], 2'000'000) << plan;
  EXPECT_EQ(plan["estimate"]["bytes_per_second"], 5'000'000);
  EXPECT_EQ(plan["estimate"]["memory_bytes"], 20'000'000);
  EXPECT_EQ(Call("PATCH", "/v1/devices/host1", {{"maintenance", "cordon"}}).status, 200);
  answer = Call("POST", "/v1/migrations", wanted);
  EXPECT_EQ(answer.status, 429) << answer.body;
  EXPECT_THAT(answer.body, ::testing::HasSubstr("host1: is cordoned"));
}

TEST_F(ControllerTest, AMoveThatWouldBreakAnSloIsRefusedWithTheFigureUnlessForced) {
  Register("host0");
  const std::string id = RunningOn("store", "host0");
  Register("host1");
  const json manifest{{"service", {{"name", "store"}, {"state", "stateful"}}}, {"slo", {{"p99_ms", 5}}}};
  const std::string package = Get("/v1/services/store")["package"];
  EXPECT_LT(Call("PUT", "/v1/services/store", {{"name", "store"}, {"manifest", manifest}, {"package", package}}).status, 300);
  const json use{{"instance", id}, {"requests_per_second", 100}, {"cpu_ms", 0.5}, {"p99_ms", 3}};
  EXPECT_EQ(Call("PATCH", "/v1/devices/host0", {{"uses", json::array({use})}}).status, 200);
  EXPECT_EQ(Call("PATCH", "/v1/devices/host1", {{"load", 1}}).status, 200);
  EXPECT_EQ(Call("PATCH", "/v1/devices/host1", {{"uses", "many"}}).status, 400);
  json wanted{{"service", "store"}, {"target", "host1"}};
  const HttpAnswer refused = Call("POST", "/v1/migrations", wanted);
  EXPECT_EQ(refused.status, 409);
  EXPECT_THAT(refused.body, ::testing::HasSubstr("above its [slo] p99_ms = 5 (now 3 ms)"));
  wanted["force"] = wanted["dry_run"] = true;
  const json plan = json::parse(Call("POST", "/v1/migrations", wanted).body);
  EXPECT_TRUE(plan["forecast"]["p99_ms"].is_null()) << "no bound: " << plan;
  EXPECT_EQ(plan["forecast"]["now_ms"], 3);
  wanted["dry_run"] = false;
  EXPECT_EQ(Call("POST", "/v1/migrations", wanted).status, 202);
}

TEST_F(ControllerTest, AServiceIsNotMigratableWhileAnInstanceHasFilesOfItsDeviceOpen) {
  Register("host0");
  const std::string id = RunningOn("store", "host0");
  const auto migratable = [&] { return Get("/v1/services/store")["conditions"][1]; };
  EXPECT_EQ(migratable()["status"], true);
  const auto open = [&](const json& files) { return Call("PATCH", "/v1/devices/host0", {{"open_files", files}}).status; };
  EXPECT_EQ(open(json::array({{{"instance", id}, {"files", 2}}})), 200);
  EXPECT_EQ(migratable()["status"], false);
  EXPECT_EQ(migratable()["reason"], "instance " + id + " has 2 files of device 'host0' open: it may move once it has closed them");
  EXPECT_EQ(open(json::array({{{"instance", "another"}, {"files", 2}}})), 200);
  EXPECT_EQ(migratable()["status"], true);
  EXPECT_EQ(open("many"), 400);
}

TEST_F(ControllerTest, MaintenanceStaysUntilItIsTakenBackButForADeviceThatOnlyLeft) {
  Register("host0");
  const auto state = [&] { return Get("/v1/devices/host0")["state"].get<std::string>(); };
  const auto set = [&](const char* maintenance) { EXPECT_EQ(Call("PATCH", "/v1/devices/host0", {{"maintenance", maintenance}}).status, 200); };
  set("cordon");
  EXPECT_EQ(state(), "cordoned");
  EXPECT_EQ(Call("PATCH", "/v1/devices/host0", {{"load", 0.5}, {"state", "ready"}}).status, 200);
  EXPECT_EQ(state(), "cordoned");
  Register("host0", 1);
  EXPECT_EQ(state(), "cordoned");
  Register("host0", 2);
  EXPECT_EQ(state(), "cordoned");
  set("none");
  EXPECT_EQ(state(), "ready");
  set("leave");
  Register("host0", 2);
  EXPECT_EQ(state(), "cordoned");
  Register("host0", 3);
  EXPECT_EQ(state(), "ready");
  EXPECT_EQ(Call("PATCH", "/v1/devices/host0", {{"maintenance", "holiday"}}).status, 400);
}

TEST_F(ControllerTest, ADrainedDevicesInstancesAreMoved) {
  Register("host0");
  const std::string id = RunningOn("store", "host0");
  Register("host1");
  EXPECT_EQ(Call("PATCH", "/v1/devices/host0", {{"maintenance", "drain"}}).status, 200);
  const json list = Until("/v1/migrations", [](const json& l) { return !l["items"].empty(); });
  EXPECT_EQ(list["items"][0]["instance"], id);
  EXPECT_EQ(list["items"][0]["target"], "host1");
  EXPECT_EQ(list["items"][0]["reason"], "drain");
}

TEST_F(ControllerTest, ARestartedAgentLosesItsInstancesAndItsMigrations) {
  Register("host0", 1);
  const std::string db = RunningOn("db", "host0");
  const std::string web = RunningOn("web", "host0", "stateless");
  Register("host1");
  const json migration = json::parse(Call("POST", "/v1/migrations", {{"service", "db"}, {"target", "host1"}}).body);
  Register("host0", 1);
  EXPECT_EQ(Get("/v1/instances/" + db)["state"], "Running") << "the same process registers again";
  Register("host0", 2);
  const json instance = Get("/v1/instances/" + db);
  EXPECT_EQ(instance["state"], "Failed");
  EXPECT_EQ(instance["reason"], "its device host0 restarted; its state was in memory");
  EXPECT_EQ(Get("/v1/migrations/" + migration["id"].get<std::string>())["error"], "the source host0 restarted");
  EXPECT_EQ(Call("GET", "/v1/instances/" + web).status, 404);
  Until("/v1/services/web", [&](const json& s) { return s["instances"].size() == 1 && s["instances"][0]["id"] != web; });
}

TEST_F(ControllerTest, AnotherAgentCannotTakeTheNameOfOneThatIsAlive) {
  Register("host0", 1);
  json other = Device("host0", 2);
  other["channel"] = "127.0.0.1:9";
  EXPECT_EQ(Call("POST", "/v1/devices/host0/lease", other).status, 409);
}

TEST_F(ControllerTest, ALeaseThatEndsTakesTheDeviceOfflineAndTheSameProcessMayComeBack) {
  const std::string lease = Register("host0", 1);
  const std::string id = RunningOn("db", "host0");
  EXPECT_EQ(json::parse(Call("POST", "/v1/leases/" + lease).body)["ttl_s"], 60);
  EXPECT_EQ(Call("DELETE", "/v1/leases/" + lease).status, 204);
  Until("/v1/devices/host0", [](const json& d) { return d["state"] == "offline"; });
  Until("/v1/instances/" + id, [](const json& i) { return i["state"] == "Failed" && i["reason"] == "its device host0 is offline"; });
  EXPECT_EQ(Call("POST", "/v1/leases/" + lease).status, 404);
  Register("host0", 1);
  EXPECT_EQ(Get("/v1/devices/host0")["state"], "ready");
  EXPECT_EQ(Get("/v1/instances/" + id)["state"], "Running");
}

TEST_F(ControllerTest, EverythingIsThereAfterARestart) {
  const std::string lease = Register("host0", 1);
  const std::string id = RunningOn("db", "host0");
  client_.reset();
  controller_.reset();
  Start();
  EXPECT_EQ(Call("POST", "/v1/leases/" + lease).status, 200);
  EXPECT_EQ(Get("/v1/instances/" + id)["state"], "Running");
  EXPECT_EQ(Get("/v1/devices/host0")["state"], "ready");
}

TEST_F(ControllerTest, AWatchListsFollowsAndResumes) {
  Register("host0");
  std::vector<std::string> seen;
  std::string last;
  const auto watch = [&](const std::string& from, std::size_t count) {
    seen.clear();
    const auto watcher = Client("secret");
    HttpCall call;
    call.target = "/v1/datasets?watch=true";
    if (!from.empty()) call.headers.push_back({"Last-Event-ID", from});
    const auto put = [&](const std::string& name) {
      return Call("PUT", "/v1/datasets/" + name, {{"name", name}, {"device", "host0"}, {"bytes", 1}}).status;
    };
    const auto answer = watcher->Watch(call, [&](const transport::ServerEvent& event) {
      seen.push_back(event.event + " " + json::parse(event.data)["name"].get<std::string>());
      if (!event.id.empty()) last = event.id;
      if (from.empty() && seen.size() == 2) {
        EXPECT_LT(put("c"), 300);
        EXPECT_EQ(Call("DELETE", "/v1/datasets/a").status, 204);
      }
      return seen.size() < count;
    });
    return answer.ok() ? answer->status : 0;
  };
  for (const char* name : {"a", "b"}) Call("PUT", std::string("/v1/datasets/") + name, {{"name", name}, {"device", "host0"}, {"bytes", 1}});
  watch("", 4);
  EXPECT_THAT(seen, ::testing::ElementsAre("put a", "put b", "put c", "delete a"));
  Call("PUT", "/v1/datasets/d", {{"name", "d"}, {"device", "host0"}, {"bytes", 1}});
  watch(last, 1);
  EXPECT_THAT(seen, ::testing::ElementsAre("put d"));
  EXPECT_EQ(watch("999999", 1), 410) << "of another store's future";
}

TEST_F(ControllerTest, LogLinesAreKeptAndFollowed) {
  Register("host0");
  RunningOn("web", "host0");
  const auto line = [](const std::string& message) { return json{{"service", "web"}, {"instance", "web-0"}, {"message", message}}; };
  EXPECT_EQ(Call("POST", "/v1/logs", {{"lines", {line("one"), line("two")}}}).status, 204);
  EXPECT_EQ(Get("/v1/services/web/logs")["items"].size(), 2u);
  EXPECT_EQ(Get("/v1/services/web/logs?tail=1")["items"][0]["message"], "two");
  EXPECT_EQ(Call("GET", "/v1/services/none/logs").status, 404);
  std::vector<std::string> seen;
  HttpCall call;
  call.target = "/v1/services/web/logs?follow=true&tail=1";
  static_cast<void>(Client("secret")->Watch(call, [&](const transport::ServerEvent& event) {
    seen.push_back(json::parse(event.data)["message"].get<std::string>());
    if (seen.size() == 1) {
      EXPECT_EQ(Call("POST", "/v1/logs", {{"lines", {line("three")}}}).status, 204);
    }
    return seen.size() < 2;
  }));
  EXPECT_THAT(seen, ::testing::ElementsAre("two", "three"));
}

TEST(LogsTest, KeepsItsLimitAndNotOneMore) {
  Logs logs;
  for (std::size_t i = 0; i <= kLogLinesMax; ++i) logs.Append("web", std::to_string(i));
  const auto lines = logs.Tail("web", kLogLinesMax + 5);
  ASSERT_EQ(lines.size(), kLogLinesMax);
  EXPECT_EQ(lines.front(), "1");
  EXPECT_EQ(lines.back(), std::to_string(kLogLinesMax));
}

}  // namespace
}  // namespace godwit::control
