// InstanceHost with real guests: the services of services/, compiled by `godwit build`. Skipped where the build has no
// compiler.
#include "agent/instance_host.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <condition_variable>
#include <cstdlib>
#include <filesystem>

#include <fmt/format.h>

#include "agent/guest_api.h"
#include "agent/kept_result.h"
#include "agent/user_function.h"
#include "device/conformance.h"

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

fs::path FromEnvironment(const char* name, const char* otherwise) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : otherwise;
}

// Null where the build has no compiler. That a service does not build, or load, is a failure.
std::shared_ptr<const runtime::LoadedModule> Module(const std::string& name) {
  const fs::path source = FromEnvironment("GODWIT_SOURCE_DIR", "."), build = FromEnvironment("GODWIT_BINARY_DIR", "build");
  const fs::path folder = build / "agent_test_services", package = folder / (name + ".gwp"), log = folder / "log";
  fs::create_directories(folder);
  if (!fs::exists(build / "bin/godwit") || !fs::exists(build / "bin/godwit-compiler")) return nullptr;
  const std::string command = source.string() + "/services/build.sh " + folder.string() + " >" + log.string() + " 2>&1 && " +
                              build.string() + "/bin/godwit build " + (folder / (name + ".wasm")).string() + " -o " +
                              package.string() + " --target " + std::string(package::IsaName(package::HostIsa())) + " >>" +
                              log.string() + " 2>&1";
  const int code = std::system(command.c_str());
  EXPECT_EQ(code, 0) << name << " was not built: see " << log;
  if (code != 0) return nullptr;
  auto opened = package::Package::Open(package);
  EXPECT_TRUE(opened.ok()) << opened.error().message;
  if (!opened.ok()) return nullptr;
  auto loaded = runtime::LoadedModule::Load(*opened);
  EXPECT_TRUE(loaded.ok()) << loaded.error().message;
  return loaded.ok() ? *loaded : nullptr;
}

class FakeEnvironment final : public Environment {
 public:
  const DeviceInfo& device() const override { return info; }
  void Log(const Asker&, LogLevel, std::string_view line) override {
    const std::lock_guard lock(mutex);
    log += std::string(line) + "\n";
  }
  std::shared_ptr<Pending> Call(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) override {
    const std::string text = "answer to " + call.target;
    done(CallAnswer{200, {}, Bytes(text.begin(), text.end())});
    return nullptr;
  }
  void DataSize(const Asker&, const model::DatasetName&, std::function<void(Result<std::uint64_t>)> done) override {
    done(std::uint64_t{data.size()});
  }
  void DataRead(const Asker&, const model::DatasetName&, std::uint64_t offset, std::uint32_t length,
                std::function<void(Result<Bytes>)> done) override {
    const std::string part = offset < data.size() ? data.substr(offset, length) : "";
    done(Bytes(part.begin(), part.end()));
  }
  std::shared_ptr<Pending> Offload(const Asker&, const model::DatasetName& dataset, const std::string&, device::Request request,
                                   std::function<void(Result<device::Completion>)> done) override {
    request.name = dataset.value;
    done(engine.Call(std::move(request)));
    return nullptr;
  }
  std::shared_ptr<Pending> Keep(const Asker&, const model::DatasetName& dataset, const std::string&, device::Request request, const model::DatasetName& result,
                                std::function<void(Result<std::uint64_t>)> done) override {
    request.name = dataset.value;
    request.opcode = device::Opcode::kExecute;
    request.tenant = "orders";
    const auto device = std::shared_ptr<device::Device>(&engine, [](device::Device*) {});
    return KeepResult(device, [device](device::Request piece, device::Device::Done then) { device->Submit(std::move(piece), std::move(then)); },
                      std::move(request), result.value, std::move(done));
  }
  const std::shared_ptr<device::FakeStorage> storage = std::make_shared<device::FakeStorage>();
  device::Engine engine{{.profile = {.name = "here"}, .storage = storage, .programs = nullptr, .built_in = device::BuiltInFunctions()}};
  std::shared_ptr<Pending> Connect(const Asker&, const std::string&, std::chrono::milliseconds,
                                   std::function<void(Result<ConnectionName>)> done) override {
    done(ConnectionName{"here", 7});
    return nullptr;
  }
  // The peer says again what it hears.
  void ConnectionRead(const Asker&, const ConnectionName&, std::uint64_t offset, std::uint32_t length,
                      std::function<void(Result<KeptConnection::Received>)> done) override {
    const std::string part = offset < said.size() ? said.substr(offset, length) : "";
    done(KeptConnection::Received{Bytes(part.begin(), part.end()), part.empty()});
  }
  void ConnectionWrite(const Asker&, const ConnectionName&, std::uint64_t offset, Bytes bytes,
                       std::function<void(Result<std::uint64_t>)> done) override {
    said.replace(offset, std::string::npos, AsText(bytes));
    done(said.size());
  }
  void ConnectionClose(const Asker&, const ConnectionName&) override { ++closed; }
  std::string said;
  int closed = 0;
  DeviceInfo info{"here", "host", "x86_64"};
  std::mutex mutex;
  std::string log, data;
};

// Waits for one answer.
class Client final : public RequestSink {
 public:
  void BodyConsumed(const RequestId&, std::uint64_t offset) override { Note([&] { consumed = offset; }); }
  void Head(const RequestId&, std::uint16_t code, const std::vector<Header>&, std::int64_t) override { Note([&] { status = code; }); }
  void Chunk(const RequestId&, std::uint64_t, ByteView bytes, bool last) override {
    Note([&] {
      body += AsText(bytes);
      ended = last;
    });
  }
  void Failed(const RequestId&, const Failure& failure) override {
    Note([&] {
      status = failure.status;
      body = failure.problem;
      ended = true;
    });
  }
  void Moved(const RequestId&, const Location&, std::uint64_t, bool was_carried) override {
    Note([&] {
      moved = true;
      carried = was_carried;
    });
  }
  bool Ended() {
    std::unique_lock lock(mutex);
    return changed.wait_for(lock, 60s, [this] { return ended; });
  }
  template <typename F>
  void Note(F change) {
    const std::lock_guard lock(mutex);
    change();
    changed.notify_all();
  }
  std::mutex mutex;
  std::condition_variable changed;
  std::uint64_t consumed = 0;
  std::uint16_t status = 0;
  std::string body;
  bool ended = false, moved = false, carried = false;
};

class InstanceHostTest : public ::testing::Test {
 protected:
  InstanceHost::Options OptionsFor(const std::string& name, model::ServiceKind kind, std::uint32_t concurrency = 1) {
    InstanceHost::Options options;
    options.module = Module(name);
    options.record.id = model::InstanceId(name + "-0");
    options.service.name = options.record.service = model::ServiceName(name);
    options.service.manifest.name = options.service.name;
    options.service.manifest.kind = kind;
    options.service.manifest.state = model::StateClass::kStateful;
    options.service.manifest.http = {{"/" + name, concurrency}};
    options.service.manifest.data[model::DatasetName("archive")] = model::DataAccess::kRead;
    options.service.manifest.calls = {model::ServiceName("scan")};
    options.environment = environment;
    return options;
  }
  NewRequest Request(const std::string& method, const std::string& target, bool body = false) {
    NewRequest request;
    request.id = {1, ++number};
    request.method = method;
    request.target = target;
    request.deadline = std::chrono::steady_clock::now() + 60s;
    request.body_follows = body;
    return request;
  }
  std::string Ask(InstanceHost& host, const std::string& method, const std::string& target, std::optional<std::string> body = std::nullopt) {
    const auto client = std::make_shared<Client>();
    const NewRequest request = Request(method, target, body.has_value());
    host.Open(request, client);
    if (body) host.Body(request.id, 0, AsBytes(*body), true);
    EXPECT_TRUE(client->Ended()) << target;
    return std::to_string(client->status) + " " + client->body;
  }
  static Bytes PauseAndEncode(InstanceHost& host) {
    Bytes bundle;
    auto captured = host.PauseAndCapture(30s);
    EXPECT_TRUE(captured.ok()) << captured.error().message;
    if (!captured.ok()) return bundle;
    EXPECT_TRUE((*captured)->Encode([&](ByteView bytes) -> Status {
      bundle.insert(bundle.end(), bytes.begin(), bytes.end());
      return {};
    }).ok());
    return bundle;
  }
  std::shared_ptr<FakeEnvironment> environment = std::make_shared<FakeEnvironment>();
  std::uint64_t number = 0;
};

TEST_F(InstanceHostTest, AReactorKeepsItsMemoryBetweenRequests) {
  auto options = OptionsFor("hello", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "GET", "/hello"), "200 Hello number 1 from here host x86_64\n");
  EXPECT_EQ(Ask(**host, "GET", "/hello"), "200 Hello number 2 from here host x86_64\n");
}

TEST_F(InstanceHostTest, ACommandAnswersAsCgiDoesAndItsExitCodeIsAProblem) {
  auto options = OptionsFor("echo-command", model::ServiceKind::kCommand);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "POST", "/echo", "some text"), "200 some text");
  EXPECT_EQ(Ask(**host, "GET", "/echo?exit=3").substr(0, 4), "500 ");
}

TEST_F(InstanceHostTest, AStoreGoesOnElsewhereWithItsValuesAndItsWaitingBody) {
  auto options = OptionsFor("store", model::ServiceKind::kReactor, 4);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto there = options;
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "PUT", "/store/a", "first").substr(0, 4), "200 ");
  // A request in the middle of its body.
  const auto client = std::make_shared<Client>();
  const NewRequest open = Request("PUT", "/store/b", true);
  (*host)->Open(open, client);
  (*host)->Body(open.id, 0, AsBytes("half "), false);
  Bytes bundle;
  {
    auto captured = (*host)->PauseAndCapture(30s);
    ASSERT_TRUE(captured.ok()) << captured.error().message;
    ASSERT_TRUE((*captured)->Encode([&](ByteView bytes) -> Status {
      bundle.insert(bundle.end(), bytes.begin(), bytes.end());
      return {};
    }).ok());
    EXPECT_LE(bundle.size(), (*captured)->bytes_estimate());
  }
  auto moved = InstanceHost::CreateFromBundle(std::move(there), bundle);
  ASSERT_TRUE(moved.ok()) << moved.error().message;
  (*moved)->Resume();
  (*host)->Release({model::DeviceName("there"), "127.0.0.1:1", {2}});
  EXPECT_TRUE(client->moved && client->carried);
  const auto again = std::make_shared<Client>();
  (*moved)->Attach(open.id, 0, false, again);
  (*moved)->Body(open.id, 5, AsBytes("done"), true);
  ASSERT_TRUE(again->Ended());
  EXPECT_EQ(again->status, 200);
  EXPECT_EQ(Ask(**moved, "GET", "/store/a"), "200 first");
  EXPECT_EQ(Ask(**moved, "GET", "/store/b"), "200 half done");
  EXPECT_EQ(Ask(**moved, "GET", "/store?check=1").substr(0, 4), "200 ");
  // The source answers with the new place.
  const auto late = std::make_shared<Client>();
  (*host)->Open(Request("GET", "/store/a"), late);
  EXPECT_TRUE(late->moved && !late->carried);
}

TEST_F(InstanceHostTest, RequestsAtOnceDoNotShareStacksNorDisturbTheHeap) {
  auto options = OptionsFor("store", model::ServiceKind::kReactor, 4);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  const auto put_at_once = [&](const std::string& prefix) {
    std::vector<std::pair<NewRequest, std::shared_ptr<Client>>> puts;
    for (int i = 0; i < 3; ++i) {
      puts.emplace_back(Request("PUT", "/store/" + prefix + std::to_string(i), true), std::make_shared<Client>());
      (*host)->Open(puts.back().first, puts.back().second);
      (*host)->Body(puts.back().first.id, 0, AsBytes(std::string(10'000, static_cast<char>('a' + i))), false);
    }
    EXPECT_EQ(Ask(**host, "GET", "/store/none").substr(0, 4), "404 ");  // Came after them: all three wait for more.
    for (auto& [request, client] : puts) (*host)->Body(request.id, 10'000, AsBytes(std::string_view("end")), true);
    for (int i = 0; i < 3; ++i) {
      ASSERT_TRUE(puts[static_cast<std::size_t>(i)].second->Ended());
      EXPECT_EQ(puts[static_cast<std::size_t>(i)].second->status, 200);
      EXPECT_EQ(Ask(**host, "GET", "/store/" + prefix + std::to_string(i)), "200 " + std::string(10'000, static_cast<char>('a' + i)) + "end");
    }
  };
  put_at_once("before");  // The first one allocates while the others wait.
  EXPECT_EQ(Ask(**host, "POST", "/store?fill=6291456", "").substr(0, 4), "200 ");
  put_at_once("after");
  EXPECT_EQ(Ask(**host, "GET", "/store?check=1").substr(0, 4), "200 ");
}

TEST_F(InstanceHostTest, AComputationIsStoppedAndGoesOnWithTheSameResult) {
  auto options = OptionsFor("crunch", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  const std::string expected = Ask(**host, "GET", "/crunch?rounds=300");
  const auto client = std::make_shared<Client>();
  (*host)->Open(Request("GET", "/crunch?rounds=300"), client);
  int stops = 0;
  while (!client->ended && stops < 50) {
    {
      auto captured = (*host)->PauseAndCapture(30s);
      ASSERT_TRUE(captured.ok()) << captured.error().message;
    }
    (*host)->Resume();  // The next pause comes before its threads have noticed.
    ++stops;
  }
  ASSERT_TRUE(client->Ended());
  EXPECT_EQ("200 " + client->body, expected);
}

TEST_F(InstanceHostTest, AGuestWithMoreThanItsShareSleeps) {
  auto options = OptionsFor("crunch", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ((*host)->Pace(1, 0ms).running, 0u);
  const auto client = std::make_shared<Client>();
  const NewRequest request = Request("GET", "/crunch?rounds=100000");
  (*host)->Open(request, client);
  while ((*host)->Pace(1, 0ms).time == 0ns) std::this_thread::yield();
  // Of its time of the clock a tenth, whatever else the machine does: but for what it has before its first nap.
  std::chrono::nanoseconds computed{0};
  const auto begin = std::chrono::steady_clock::now();
  while (std::chrono::steady_clock::now() - begin < 1s) {
    const auto now = (*host)->Pace(0.1, 0ms);
    computed += now.time;
    EXPECT_EQ(now.running, 1u) << "it sleeps in the middle of its code";
    std::this_thread::yield();
  }
  EXPECT_GT(computed, 0ns);
  EXPECT_LT(computed, 500ms);
  (*host)->Cancel(request.id);
}

TEST_F(InstanceHostTest, ARequestPastItsTimeIsAnswered504AndTheNextOneRuns) {
  auto options = OptionsFor("crunch", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  options.service.manifest.limits.request_timeout = 500ms;
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "GET", "/crunch?rounds=100000").substr(0, 4), "504 ");
  std::string next;  // Waits until the first has left, which may be too long on a busy machine.
  for (int tries = 0; tries < 20 && next != "200 "; ++tries) next = Ask(**host, "GET", "/crunch?rounds=1").substr(0, 4);
  EXPECT_EQ(next, "200 ");
}

TEST_F(InstanceHostTest, ARequestPastItsTimeStopsThoughNoOtherComes) {
  auto options = OptionsFor("crunch", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  options.service.manifest.limits.request_timeout = 200ms;
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "GET", "/crunch?rounds=100000").substr(0, 4), "504 ");
  const auto stopped = [&] {
    const std::lock_guard lock(environment->mutex);
    return environment->log.find("stopped where it was") != std::string::npos;
  };
  const auto give_up = std::chrono::steady_clock::now() + 20s;  // Its 100,000 rounds take longer.
  while (!stopped() && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  EXPECT_TRUE(stopped());
}

TEST_F(InstanceHostTest, ARequestWhoseClientIsGoneReturnsByItselfAndLosesNothing) {
  auto options = OptionsFor("store", model::ServiceKind::kReactor, 2);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "PUT", "/store/a", "first").substr(0, 4), "200 ");
  for (int i = 0; i < 5; ++i) {  // More than there is room for at once: they must leave.
    const auto gone = std::make_shared<Client>();
    const NewRequest request = Request("PUT", "/store/b", true);
    (*host)->Open(request, gone);
    (*host)->Body(request.id, 0, AsBytes(std::string_view("half")), false);
    (*host)->Cancel(request.id);
    EXPECT_EQ(Ask(**host, "GET", "/store/a"), "200 first");
  }
  EXPECT_EQ(Ask(**host, "GET", "/store/b").substr(0, 4), "404 ");
  const std::lock_guard lock(environment->mutex);
  EXPECT_EQ(environment->log.find("stopped where it was"), std::string::npos) << environment->log;
}

TEST_F(InstanceHostTest, RefusesABodyBeyondTheLimitAndAQueueBeyondItsLimit) {
  auto options = OptionsFor("store", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  options.service.manifest.limits.body = {10};
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "PUT", "/store/a", "more than ten bytes").substr(0, 4), "413 ");
  { ASSERT_TRUE((*host)->PauseAndCapture(30s).ok()); }
  std::vector<std::shared_ptr<Client>> clients;
  for (std::size_t i = 0; i <= kWaitingRequestsMax; ++i) {
    clients.push_back(std::make_shared<Client>());
    (*host)->Open(Request("GET", "/store"), clients.back());
  }
  EXPECT_EQ(clients.back()->status, 503);
  (*host)->Resume();
  EXPECT_TRUE(clients.front()->Ended());
  EXPECT_EQ(clients.front()->status, 200);
}

// A message of one piece (transport/web_socket.h).
std::string Message(std::string_view text) {
  return std::string("\x81") + static_cast<char>(text.size()) + std::string(3, '\0') + std::string(text);
}

TEST_F(InstanceHostTest, AWebSocketHasNoLimitOfTimeOrBytesAndEndsWithItsInstance) {
  auto options = OptionsFor("talk", model::ServiceKind::kReactor, 2);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  constexpr auto kLimit = 2s;  // Busy machines need some of it to begin.
  options.service.manifest.limits.request_timeout = kLimit;
  options.service.manifest.limits.body = {10};
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  const auto client = std::make_shared<Client>();
  NewRequest request = Request("GET", "/talk", true);
  request.headers.push_back({"upgrade", "websocket"});
  (*host)->Open(request, client);
  std::string sent;
  for (int i = 0; i < 3; ++i) {
    const std::string message = Message("more than ten bytes");
    (*host)->Body(request.id, sent.size(), AsBytes(message), false);
    sent += message;
    std::unique_lock lock(client->mutex);
    EXPECT_TRUE(client->changed.wait_for(lock, 60s, [&] { return client->body.find("(" + std::to_string(i + 1) + " at") != std::string::npos; }));
    EXPECT_EQ(client->status, 101);
    EXPECT_FALSE(client->changed.wait_for(lock, i == 0 ? kLimit + 500ms : 0ms, [&] { return client->ended; }));
  }
  // A service that calls with that header does not get one, whatever it sends; neither does a request without.
  NewRequest of_service = Request("GET", "/talk", true);
  of_service.headers = request.headers;
  of_service.caller = "scan";
  const auto caller = std::make_shared<Client>();
  (*host)->Open(of_service, caller);
  EXPECT_TRUE(caller->Ended());
  EXPECT_NE(caller->status, 101);
  // Others are refused once they have waited for their turn for as long as a request may.
  const auto second = std::make_shared<Client>(), third = std::make_shared<Client>();
  for (const auto& one : {second, third}) {
    NewRequest another = Request("GET", "/talk", true);
    another.headers = request.headers;
    (*host)->Open(another, one);
  }
  EXPECT_TRUE(third->Ended());
  EXPECT_EQ(third->status, 504);
  EXPECT_FALSE(second->ended);
  (*host)->EndWebSockets();
  EXPECT_TRUE(client->Ended());
  EXPECT_EQ(client->status, 503);
}

TEST_F(InstanceHostTest, AConnectionGoesAlongAndOnlyGrantedHostsAreReached) {
  auto options = OptionsFor("visits", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  options.service.manifest.outbound_hosts = {"db:6379"};
  auto there = options;
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "GET", "/visits?redis=db:6380"), "502 db:6380: error 10\n");
  EXPECT_NE(environment->log.find("may not reach db:6380: add it to [outbound] hosts"), std::string::npos) << environment->log;
  // The fake peer answers with what it is told.
  EXPECT_EQ(Ask(**host, "GET", "/visits?redis=db:6379").substr(0, 4), "200 ");
  const Bytes bundle = PauseAndEncode(**host);
  auto moved = InstanceHost::CreateFromBundle(std::move(there), bundle);
  ASSERT_TRUE(moved.ok()) << moved.error().message;
  (*moved)->Resume();
  (*host)->Release({model::DeviceName("there"), "127.0.0.1:1", {2}});
  EXPECT_EQ(Ask(**moved, "GET", "/visits?redis=db:6379").substr(0, 4), "200 ");
  EXPECT_EQ(environment->said, "INCR visits\r\nINCR visits\r\n");
  EXPECT_EQ(environment->closed, 0) << "a move is not the instance's end";
}

TEST_F(InstanceHostTest, AnOffloadedScanGoesOnElsewhereWithoutALineLostOrDoubled) {
  auto options = OptionsFor("report", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  options.service.manifest.data[model::DatasetName("table")] = model::DataAccess::kRead;
  std::string lines;
  for (int i = 0; i < 100'000; ++i) lines += "line " + std::to_string(i) + "\n";
  environment->storage->Put("table", lines);
  auto there = options;
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  EXPECT_EQ(Ask(**host, "POST", "/report?run=match", R"({"pattern": "line 77$"})"), "200 line 77\n");
  EXPECT_EQ(Ask(**host, "POST", "/report?run=match", "{"), "502 match: error 1\n");
  EXPECT_NE(environment->log.find("offload failed: arguments of match: not a JSON object"), std::string::npos) << environment->log;
  EXPECT_EQ(Ask(**host, "POST", "/report?run=magic", "{}"), "502 magic: error 2\n");
  // The client takes a part; then the instance moves in the middle of the stream.
  const auto client = std::make_shared<Client>();
  const NewRequest open = Request("POST", "/report?run=match", true);
  (*host)->Open(open, client);
  (*host)->Body(open.id, 0, AsBytes(std::string_view(R"({"pattern": "."})")), true);
  {
    std::unique_lock lock(client->mutex);
    ASSERT_TRUE(client->changed.wait_for(lock, 60s, [&] { return client->body.size() >= 200'000; }));
  }
  const Bytes bundle = PauseAndEncode(**host);
  auto moved = InstanceHost::CreateFromBundle(std::move(there), bundle);
  ASSERT_TRUE(moved.ok()) << moved.error().message;
  (*moved)->Resume();
  (*host)->Release({model::DeviceName("there"), "127.0.0.1:1", {2}});
  std::string before;
  {
    const std::lock_guard lock(client->mutex);
    before = client->body;
  }
  ASSERT_LT(before.size(), lines.size());
  const auto again = std::make_shared<Client>();
  (*moved)->Attach(open.id, before.size(), true, again);
  std::size_t acknowledged = before.size();
  for (;;) {  // Acknowledged as it comes: more is not sent otherwise.
    std::unique_lock lock(again->mutex);
    ASSERT_TRUE(again->changed.wait_for(lock, 60s, [&] { return again->ended || before.size() + again->body.size() > acknowledged; }));
    if (again->ended) break;
    acknowledged = before.size() + again->body.size();
    lock.unlock();
    (*moved)->ResponseAck(open.id, acknowledged);
  }
  EXPECT_TRUE(before + again->body == lines) << before.size() << " and " << again->body.size() << " of " << lines.size();
}

class UserFunctionTest : public InstanceHostTest {
 protected:
  std::shared_ptr<const device::Function> Function(const std::string& name, ByteCount memory = model::Limits().memory, const std::string& service = "report") {
    const auto module = Module(service);
    if (!module) return nullptr;
    model::Manifest manifest;
    manifest.name = model::ServiceName(service);
    manifest.limits.memory = memory;
    auto function = MakeUserFunction(module, name, manifest, environment);
    EXPECT_TRUE(function.ok()) << function.error().message;
    return function.ok() ? *function : nullptr;
  }
  // All output, in pieces that end when `pace` says so; each goes on in another instance.
  static std::string Output(const device::Function& function, const std::string& text, const std::string& arguments, const device::Pace& pace,
                            int* pieces = nullptr, std::size_t* largest = nullptr) {
    const device::BytesSource source(AsBytes(text));
    return OutputOf(function, {&source}, arguments, pace, pieces, largest);
  }
  // The pieces take turns with the sources, which are alike.
  static std::string OutputOf(const device::Function& function, const std::vector<const device::Source*>& sources, const std::string& arguments,
                              const device::Pace& pace, int* pieces = nullptr, std::size_t* largest = nullptr) {
    Bytes state;
    std::string output;
    for (std::size_t piece = 0;; ++piece) {
      auto work = function.Begin(AsBytes(arguments), state, {0, sources[0]->size()});
      if (!work.ok()) return "error: " + work.error().message;
      Bytes bytes;
      const auto finished = (*work)->Run(*sources[piece % sources.size()], pace, &bytes);
      if (!finished.ok()) return "error: " + finished.error().message;
      output += AsText(bytes);
      if (pieces != nullptr) ++*pieces;
      if (largest != nullptr) *largest = std::max(*largest, bytes.size());
      if (*finished) return output;
      auto saved = (*work)->Save();
      if (!saved.ok()) return "error: " + saved.error().message;
      state = std::move(saved).value();
    }
  }
};

struct Unhurried final : device::Pace {
  bool Over(std::size_t) const override { return false; }
};
// Over after each small step, and in the middle of the guest's code ever so often.
struct Hurried final : device::Pace {
  bool Over(std::size_t) const override { return true; }
};

// As a device's.
struct AsMuchAsAnAnswer final : device::Pace {
  bool Over(std::size_t bytes) const override { return bytes >= device::kOutputBytes; }
};

TEST_F(UserFunctionTest, RunsOverAllLinesAndGoesOnInTheMiddleOfItsCode) {
  const auto longest = Function("longest_lines"), copy = Function("copy_lines");
  if (!longest) GTEST_SKIP() << "no compiler in this build";
  std::string text;
  for (int i = 0; i < 20'000; ++i) text += std::string(1, static_cast<char>('a' + i % 5)) + std::string(static_cast<std::size_t>(i % 97), 'x') + "\n";
  std::string wanted;
  for (char c = 'a'; c < 'f'; ++c) wanted += fmt::format("{} 4000 {}\n", c, c + std::string(96, 'x'));
  EXPECT_EQ(Output(*longest, text, "", Unhurried()), wanted);
  int pieces = 0;
  EXPECT_EQ(Output(*longest, text, "", Hurried(), &pieces), wanted);
  EXPECT_GE(pieces, 15);
  pieces = 0;
  // So much work at each line that it is stopped inside of a window's call.
  const std::string hurried = Output(*copy, text, "20000", Hurried(), &pieces);
  EXPECT_EQ(hurried.substr(0, text.size()), text);
  EXPECT_TRUE(hurried == Output(*copy, text, "20000", Unhurried())) << hurried.substr(text.size());
  EXPECT_GE(pieces, 40);
  // More output of one window than an answer holds.
  std::size_t largest = 0;
  EXPECT_GT(Output(*copy, text.substr(0, 60'000), "0 20", Unhurried(), nullptr, &largest).size(), 20u * 60'000);
  EXPECT_LE(largest, device::kDataBytesMax);
  for (const char* times : {"0 1", "0 3", "0 20"}) {
    largest = 0;
    const std::string whole = Output(*copy, text, times, Unhurried());
    EXPECT_TRUE(Output(*copy, text, times, AsMuchAsAnAnswer(), nullptr, &largest) == whole) << times;
    EXPECT_LE(largest, device::kDataBytesMax) << times;
  }
  // Between two runs of lines the lines themselves do not travel.
  auto work = longest->Begin({}, {}, {0, text.size()});
  ASSERT_TRUE(work.ok());
  Bytes bytes;
  ASSERT_FALSE((*work)->Run(device::BytesSource(AsBytes(text)), Hurried(), &bytes).value());
  for (int i = 0; i < 3; ++i) ASSERT_FALSE((*work)->Run(device::BytesSource(AsBytes(text)), Hurried(), &bytes).value());
  const auto saved = (*work)->Save();
  ASSERT_TRUE(saved.ok()) << saved.error().message;
  EXPECT_LT(saved->size(), device::kDataBytesMax / 8);
}

// A text that is a file, too.
class FileSource final : public device::Source {
 public:
  explicit FileSource(const std::string& text) : text_(text), file_(memfd_create("text", MFD_CLOEXEC)) {
    EXPECT_EQ(write(file_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  ~FileSource() override { close(file_); }
  std::uint64_t size() const override { return text_.size(); }
  Result<ByteView> Window(std::uint64_t offset, std::size_t bytes, Bytes& scratch) const override {
    ++windows;
    return device::BytesSource(AsBytes(text_)).Window(offset, bytes, scratch);
  }
  std::optional<int> file() const override { return file_; }
  Status Check(std::uint64_t offset, ByteView bytes) const override {
    return AsText(bytes) == std::string_view(text_).substr(offset, bytes.size()) ? Status() : Status(Corrupt("the file is damaged"));
  }

  mutable int windows = 0;

 private:
  const std::string& text_;
  const int file_;
};

TEST_F(UserFunctionTest, ReadsAFileWhereItLiesAndGoesOnOverACopy) {
  const auto longest = Function("longest_lines"), copy = Function("copy_lines"), small = Function("longest_lines", 8_MiB);
  if (!longest) GTEST_SKIP() << "no compiler in this build";
  std::string text;
  for (int i = 0; i < 400'000; ++i) text += std::string(1, static_cast<char>('a' + i % 5)) + std::string(static_cast<std::size_t>(i % 97), 'x') + "\n";
  ASSERT_GT(text.size(), 2u * (8 << 20)) << "of several windows";
  const std::string wanted = Output(*longest, text, "", Unhurried());
  const FileSource file(text);
  const device::BytesSource bytes(AsBytes(text));
  EXPECT_EQ(OutputOf(*longest, {&file}, "", Unhurried()), wanted);
  EXPECT_EQ(file.windows, 0) << "nothing was copied";
  EXPECT_EQ(OutputOf(*longest, {&file, &bytes}, "", Hurried()), wanted);
  EXPECT_EQ(OutputOf(*small, {&file}, "", Unhurried()), wanted) << "the guest has no memory for a large window";
  EXPECT_GT(file.windows, 0);
  // Stopped in the middle of lines that lie in the file, and elsewhere.
  const std::string part = text.substr(0, text.find('\n', (1 << 20) + 50'000) + 1);
  const FileSource part_file(part);
  const device::BytesSource part_bytes(AsBytes(part));
  int pieces = 0;
  const std::string hurried = OutputOf(*copy, {&part_file, &part_bytes, &part_file}, "20000", Hurried(), &pieces);
  EXPECT_TRUE(hurried == Output(*copy, part, "20000", Unhurried())) << pieces;
  EXPECT_GE(pieces, 40);
}

TEST_F(UserFunctionTest, GoesOnWhereTheFileIsShownAndFromWhatItSaved) {
  const auto longest = Function("longest_lines"), copy = Function("copy_lines");
  if (!longest) GTEST_SKIP() << "no compiler in this build";
  std::string text;
  for (int i = 0; i < 180'000; ++i) text += std::string(1, static_cast<char>('a' + i % 5)) + std::string(static_cast<std::size_t>(i % 97), 'x') + "\n";
  const FileSource file(text);
  for (const auto& [function, arguments] : {std::pair(longest, ""), std::pair(copy, "1000")}) {  // The second is stopped inside of its calls.
    const std::string wanted = Output(*function, text, arguments, Unhurried());
    auto work = function->Begin(AsBytes(std::string_view(arguments)), {}, {0, text.size()});
    ASSERT_TRUE(work.ok());
    std::string output;
    int pieces = 0, saves = 0;
    for (bool finished = false; !finished; ++pieces) {
      Bytes bytes;
      const auto ran = (*work)->Run(file, Hurried(), &bytes);
      ASSERT_TRUE(ran.ok()) << ran.error().message;
      output += AsText(bytes);
      finished = *ran;
      if (finished) break;
      const auto saved = (*work)->Save();
      if (!saved.ok() && saved.error().code == ErrorCode::kResourceExhausted) continue;  // Inside of a long run: as a device does it.
      ASSERT_TRUE(saved.ok()) << saved.error().message;
      if (++saves % 40 != 1) continue;
      auto other = function->Begin(AsBytes(std::string_view(arguments)), *saved, {0, text.size()});
      ASSERT_TRUE(other.ok());
      Bytes rest;
      for (bool over = false; !over;) {  // More than once where one window gives more than an answer holds.
        const auto ended = (*other)->Run(file, Unhurried(), &rest);
        ASSERT_TRUE(ended.ok()) << ended.error().message;
        over = *ended;
      }
      EXPECT_TRUE(output + std::string(AsText(rest)) == wanted) << "from piece " << pieces;
    }
    EXPECT_TRUE(output == wanted);
    EXPECT_GT(saves, 8) << "of " << pieces << ", some of which end inside of a long run";
  }
}

TEST_F(UserFunctionTest, WhoWritesBehindItsLinesHarmsNoFileAndIsToldSo) {
  const auto spoil = Function("spoil", model::Limits().memory, "adversary");
  if (!spoil) GTEST_SKIP() << "no compiler in this build";
  std::string text;
  while (text.size() < 2 << 20) text += "a line of the text\n";
  const FileSource file(text);
  EXPECT_EQ(OutputOf(*spoil, {&file}, "", Unhurried()), "error: the function wrote to its window beyond the lines that it was given");
  Bytes there(text.size());
  EXPECT_EQ(pread(*file.file(), there.data(), there.size(), 0), static_cast<ssize_t>(there.size()));
  EXPECT_TRUE(AsText(there) == text);
}

TEST_F(UserFunctionTest, WhatGoesWrongIsNamed) {
  const auto copy = Function("copy_lines");
  if (!copy) GTEST_SKIP() << "no compiler in this build";
  model::Manifest manifest;
  manifest.name = model::ServiceName("report");
  EXPECT_EQ(MakeUserFunction(Module("report"), "absent", manifest, environment).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(MakeUserFunction(Module("report"), "memory", manifest, environment).error().code, ErrorCode::kNotFound) << "no function";
  for (const std::string_view state : {"x", "{}\nxxx", R"({"call": 9})", R"({"call": 3, "inside": true, "window": 0, "lines": 0, "begun": true})"}) {
    auto work = copy->Begin({}, AsBytes(state), {0, 10});
    if (!work.ok()) {
      EXPECT_EQ(work.error().code, ErrorCode::kCorrupt) << state;
      continue;
    }
    Bytes output;
    EXPECT_FALSE((*work)->Run(device::BytesSource(AsBytes(std::string_view("0123456789"))), Unhurried(), &output).ok()) << state;
  }
}

TEST(GuestApiState, DamageIsNamed) {
  for (const std::string_view text : {"1 d 2 3 4", "1 d 2 3\n", "1 d 2 3 4 5\n", "0 d 2 3 4\n", "x d 2 3 4\n", "1 d 2 3 99999999999999999999999\n", "\n"}) {
    EXPECT_EQ(GuestApi(nullptr).Load(AsBytes(text)).error().code, ErrorCode::kCorrupt) << text;
  }
  GuestApi api(nullptr);
  ASSERT_TRUE(api.Load(AsBytes(std::string_view("1 here 5 6 7\n9 there 1 2 3\n"))).ok());
  EXPECT_EQ(AsText(*api.Save()), "1 here 5 6 7\n9 there 1 2 3\n");
}

TEST_F(InstanceHostTest, AScanReadsItsDatasetInPieces) {
  auto options = OptionsFor("scan", model::ServiceKind::kReactor);
  if (!options.module) GTEST_SKIP() << "no compiler in this build";
  for (int i = 0; i < 100'000; ++i) environment->data += i % 10 == 0 ? "a needle here\n" : "just some hay\n";
  auto host = InstanceHost::Create(std::move(options));
  ASSERT_TRUE(host.ok()) << host.error().message;
  const std::string answer = Ask(**host, "GET", "/scan?word=needle");
  EXPECT_NE(answer.find("\"matches\":10000,"), std::string::npos) << answer;
  EXPECT_NE(answer.find("\"lines\":100000,"), std::string::npos) << answer;
}

}  // namespace
}  // namespace godwit::agent
