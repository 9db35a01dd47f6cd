#include "device/conformance.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <set>
#include <sstream>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/remote.h"
#include "device/ring.h"
#include "device/ucx.h"

namespace godwit::device {

using namespace std::chrono_literals;
using nlohmann::json;

Profile LoadProfile(const std::string& name) {
  const char* source = std::getenv("GODWIT_SOURCE_DIR");
  std::ifstream file(std::filesystem::path(source != nullptr ? source : ".") / "profiles" / (name + ".toml"));
  std::stringstream text;
  text << file.rdbuf();
  auto profile = ParseProfile(text.str());
  EXPECT_TRUE(profile.ok()) << name << ": " << profile.error().message;
  return profile.ok() ? *profile : Profile();
}

void ConformanceTest::SetUp() {
  Engine::Options options;
  options.profile = LoadProfile(GetParam().profile);
  options.storage = storage_;
  options.programs = std::make_shared<FakePrograms>();
  options.built_in = BuiltInFunctions();
  engine_ = std::make_unique<Engine>(std::move(options));
  device_ = GetParam().connect(*engine_);
  ASSERT_NE(device_, nullptr);
}

void ConformanceTest::TearDown() {
  device_.reset();
  engine_.reset();
}

Capability ConformanceTest::Allocate(std::uint64_t bytes) {
  Request request = Make(Opcode::kAllocate);
  request.bytes = bytes;
  const Completion completion = Do(std::move(request));
  EXPECT_TRUE(completion.status.ok()) << completion.status.error().message;
  return completion.capability;
}

Completion ConformanceTest::Write(const Range& to, std::string_view text) {
  Request request = Make(Opcode::kWrite);
  request.ranges = {to};
  request.data.assign(text.begin(), text.end());
  return Do(std::move(request));
}

std::string ConformanceTest::Read(const Range& from) {
  Request request = Make(Opcode::kRead);
  request.ranges = {from};
  const Completion completion = Do(std::move(request));
  return completion.status.ok() ? std::string(AsText(completion.data)) : "error " + std::to_string(static_cast<int>(completion.status.error().code));
}

Request ConformanceTest::Execute(BuiltIn function, const std::string& arguments, const std::string& object) {
  Request request = Make(Opcode::kExecute);
  request.function = static_cast<std::uint32_t>(function);
  request.name = object;
  request.data.assign(arguments.begin(), arguments.end());
  return request;
}

std::string ConformanceTest::Output(Request request, int* parts) {
  std::string output;
  for (;;) {
    request.id = next_id_++;
    Completion completion = Do(request);
    if (!completion.status.ok()) return "error " + std::to_string(static_cast<int>(completion.status.error().code)) + ": " + completion.status.error().message;
    output += AsText(completion.data);
    if (parts != nullptr) ++*parts;
    if (!completion.more) return output;
    request.state = std::move(completion.state);
  }
}

void ConformanceTest::Configure(const std::string& settings) {
  Request configure = Make(Opcode::kConfigure);
  configure.tenant = "";
  configure.data.assign(settings.begin(), settings.end());
  ASSERT_TRUE(Do(std::move(configure)).status.ok()) << settings;
}

std::uint32_t ConformanceTest::LoadCounter(bool activate, const std::string& program) {
  Request load = Make(Opcode::kLoad);
  load.name = "counter";
  load.data.assign(program.begin(), program.end());
  const Completion loaded = Do(std::move(load));
  EXPECT_TRUE(loaded.status.ok()) << loaded.status.error().message;
  const auto number = static_cast<std::uint32_t>(loaded.value);
  if (activate) {
    Request request = Make(Opcode::kActivate);
    request.function = number;
    EXPECT_TRUE(Do(std::move(request)).status.ok());
  }
  return number;
}

std::string ConformanceTest::Json(Opcode opcode) {
  const Completion completion = Do(Make(opcode));
  return completion.status.ok() ? std::string(AsText(completion.data)) : completion.status.error().message;
}

ErrorCode CodeOf(const Completion& completion) { return completion.status.ok() ? ErrorCode{0} : completion.status.error().code; }

// --- Discovery

TEST_P(ConformanceTest, DiscoveryNamesTheDeviceItsLimitsAndItsFunctions) {
  const json properties = json::parse(Json(Opcode::kDiscover));
  const Profile profile = LoadProfile(GetParam().profile);
  EXPECT_EQ(properties["name"], profile.name);
  EXPECT_EQ(properties["class"], profile.device_class);
  EXPECT_EQ(properties["cores"], profile.cores);
  std::vector<std::string> names;
  for (const auto& function : properties["functions"]) names.push_back(function["name"]);
  EXPECT_EQ(names, (std::vector<std::string>{"scan", "match", "checksum", "gather", "chase", "lookup", "pairs", "follow"}));
  EXPECT_EQ(json::parse(Json(Opcode::kHealth))["state"], "ok");
}

TEST_P(ConformanceTest, APartEndsWithItsObjectAndMayBeEmpty) {
  storage_->Put("text", "..123456789");
  Request rest = Execute(BuiltIn::kChecksum, "{}", "text");
  rest.offset = 2;
  for (const std::uint64_t bytes : {std::uint64_t{0}, std::uint64_t{9}, std::uint64_t{10}, ~std::uint64_t{0}}) {
    rest.bytes = bytes;
    EXPECT_EQ(Output(rest), "e3069283") << bytes;
  }
  rest.offset = ~std::uint64_t{0};
  EXPECT_EQ(Output(rest), "00000000");
}

TEST_P(ConformanceTest, StatisticsCountWhatWasDone) {
  storage_->Put("text", "123456789");
  EXPECT_EQ(Output(Execute(BuiltIn::kChecksum, "{}", "text")), "e3069283");  // RFC 3720's check value of CRC-32C.
  const json statistics = json::parse(Json(Opcode::kStatistics));
  EXPECT_EQ(statistics["functions"][0]["name"], "checksum");
  EXPECT_EQ(statistics["functions"][0]["executions"], 1);
  EXPECT_EQ(statistics["storage_read_bytes"], 9);
  EXPECT_GE(statistics["requests"].get<int>(), 1);
}

// --- Function memory

TEST_P(ConformanceTest, MemoryIsClearedWrittenReadCopiedAndFreed) {
  const Capability one = Allocate(100), two = Allocate(100);
  EXPECT_EQ(Read(Whole(one)), std::string(100, 0));
  EXPECT_TRUE(Write({one, 10, 5}, "hello").status.ok());
  Request copy = Make(Opcode::kCopy);
  copy.ranges = {{one, 10, 5}, {two, 90, 5}};
  EXPECT_TRUE(Do(copy).status.ok());
  EXPECT_EQ(Read({two, 90, 5}), "hello");
  EXPECT_EQ(Read({two, 96, 5}), "error 1") << "beyond the range";
  EXPECT_EQ(CodeOf(Write({one, 0, 4}, "hello")), ErrorCode::kInvalidArgument);
  Request free = Make(Opcode::kFree);
  free.ranges = {Whole(one)};
  EXPECT_TRUE(Do(free).status.ok());
  EXPECT_EQ(Read({one, 10, 5}), "error 2");
  EXPECT_EQ(CodeOf(Do(free)), ErrorCode::kNotFound);
}

TEST_P(ConformanceTest, CapabilitiesAreForTheirPartAndTheirRightsAlone) {
  const Capability all = Allocate(100);
  EXPECT_TRUE(Write({all, 50, 6}, "secret").status.ok());
  Request grant = Make(Opcode::kGrant);
  grant.ranges = {{all, 50, 6}};
  grant.rights = Rights::kRead;
  const Capability part = Do(grant).capability;
  tenant_ = "bob";  // Whoever has it may use it.
  EXPECT_EQ(Read({part, 0, 6}), "secret");
  EXPECT_EQ(CodeOf(Write({part, 0, 6}, "change")), ErrorCode::kPermissionDenied);
  EXPECT_EQ(Read({part, 0, 7}), "error 1");
  Request more = Make(Opcode::kGrant);
  more.ranges = {{part, 0, 6}};
  more.rights = Rights::kReadWrite;
  EXPECT_EQ(CodeOf(Do(more)), ErrorCode::kPermissionDenied);
  Request free = Make(Opcode::kFree);
  free.ranges = {Whole(part)};
  EXPECT_EQ(CodeOf(Do(free)), ErrorCode::kPermissionDenied);
  for (int forged = 0; forged < 4; ++forged) {
    Capability wrong = part;
    if (forged == 0) wrong.offset = 0;
    if (forged == 1) wrong.bytes = 50;
    if (forged == 2) wrong.rights = Rights::kReadWrite;
    if (forged == 3) wrong.seal[7] ^= 1;
    EXPECT_EQ(Read({wrong, 0, 6}), "error 10") << forged;
  }
}

TEST_P(ConformanceTest, ATenantsMemoryIsLimited) {
  Request request = Make(Opcode::kAllocate);
  request.bytes = LoadProfile(GetParam().profile).tenant_memory.value + 1;
  EXPECT_EQ(CodeOf(Do(request)), ErrorCode::kResourceExhausted);
  request = Make(Opcode::kAllocate);
  EXPECT_EQ(CodeOf(Do(request)), ErrorCode::kInvalidArgument);
}

TEST_P(ConformanceTest, MemoryThatNobodyUsesIsFreedForTheNextAllocation) {
  Request request = Make(Opcode::kAllocate);
  request.bytes = LoadProfile(GetParam().profile).tenant_memory.value;
  request.value = 1;
  const Capability all = Do(request).capability;  // To clear it takes longer.
  request = Make(Opcode::kAllocate);
  request.bytes = 10;
  request.value = 3'600'000'000;
  const Completion next = Do(request);
  ASSERT_TRUE(next.status.ok()) << next.status.error().message;
  EXPECT_EQ(Read({all, 0, 10}), "error 2");
  Allocate(10);
  EXPECT_EQ(Read({next.capability, 0, 10}), std::string(10, '\0')) << "its time is not over";
}

// --- Storage

TEST_P(ConformanceTest, ObjectsComeAndGoWithoutPassingTheHost) {
  storage_->Put("text", "0123456789");
  const Capability memory = Allocate(16);
  Request read = Make(Opcode::kStorageRead);
  read.name = "text";
  read.offset = 4;
  read.ranges = {{memory, 0, 16}};
  EXPECT_EQ(Do(read).value, 6u);
  EXPECT_EQ(Read({memory, 0, 6}), "456789");
  Request write = Make(Opcode::kStorageWrite);
  write.name = "copy";
  write.ranges = {{memory, 0, 6}};
  EXPECT_TRUE(Do(write).status.ok());
  EXPECT_EQ(CodeOf(Do(write)), ErrorCode::kFailedPrecondition) << "objects do not change";
  EXPECT_EQ(Output(Execute(BuiltIn::kMatch, R"({"pattern": "^4"})", "copy")), "456789");
  read.name = "absent";
  EXPECT_EQ(CodeOf(Do(read)), ErrorCode::kNotFound);
  storage_->Put("private", "hers");
  tenant_ = "bob";
  EXPECT_EQ(Output(Execute(BuiltIn::kChecksum, "{}", "private")).substr(0, 8), "error 10");
}

// --- Functions

TEST_P(ConformanceTest, AProgramIsLoadedActivatedRunDeactivatedAndUnloaded) {
  const std::uint32_t counter = LoadCounter(false);
  EXPECT_EQ(LoadCounter(false), counter) << "it is there already";
  Request run = Make(Opcode::kExecute);
  run.function = counter;
  run.data = {'1', '0'};
  EXPECT_EQ(CodeOf(Do(run)), ErrorCode::kFailedPrecondition) << "not active";
  Request change = Make(Opcode::kActivate);
  change.function = counter;
  EXPECT_TRUE(Do(change).status.ok());
  EXPECT_EQ(Output(run), "10");
  change.opcode = Opcode::kUnload;
  EXPECT_EQ(CodeOf(Do(change)), ErrorCode::kFailedPrecondition) << "active";
  change.opcode = Opcode::kDeactivate;
  EXPECT_TRUE(Do(change).status.ok());
  tenant_ = "bob";
  Request theirs = Make(Opcode::kUnload);
  theirs.function = counter;
  EXPECT_EQ(CodeOf(Do(theirs)), ErrorCode::kNotFound) << "another tenant's";
  tenant_ = "alice";
  change.opcode = Opcode::kUnload;
  EXPECT_TRUE(Do(change).status.ok());
  EXPECT_EQ(CodeOf(Do(run)), ErrorCode::kNotFound);
  Request load = Make(Opcode::kLoad);
  load.name = "nothing";
  EXPECT_EQ(CodeOf(Do(load)), ErrorCode::kInvalidArgument);
}

TEST_P(ConformanceTest, ARunningFunctionIsNotUnloadedAndAnAbortEndsItWithItsState) {
  const std::uint32_t counter = LoadCounter();
  Queue queue(*device_);
  Request endless = Make(Opcode::kExecute);
  endless.function = counter;
  const std::string far = "18446744073709551615";
  endless.data.assign(far.begin(), far.end());
  queue.Submit(endless);
  while (json::parse(Json(Opcode::kDiscover))["functions"].back()["state"] != "running") std::this_thread::yield();
  EXPECT_FALSE(queue.Poll());
  Request change = Make(Opcode::kDeactivate);
  change.function = counter;
  EXPECT_EQ(CodeOf(Do(change)), ErrorCode::kFailedPrecondition);
  Request abort = Make(Opcode::kAbort);
  abort.value = endless.id;
  EXPECT_TRUE(Do(abort).status.ok());
  const auto ended = queue.Wait(60s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(ended->id, endless.id);
  EXPECT_TRUE(ended->status.ok() && ended->more);
  EXPECT_GT(std::stoull(std::string(AsText(ended->state))), 0u);
  abort.value = 12345;
  EXPECT_EQ(CodeOf(Do(abort)), ErrorCode::kNotFound);
}

TEST_P(ConformanceTest, AnAbortThroughADriverReachesNoRequestOfAnotherUser) {
  const std::string driver = GetParam().name;
  if (driver != "rings" && driver != "channel" && driver != "ucx") return;  // Of one user.
  Request endless = Make(Opcode::kExecute);
  endless.function = LoadCounter();
  endless.id = 5;
  const std::string far = "18446744073709551615";
  endless.data.assign(far.begin(), far.end());
  Queue queue(*engine_);
  queue.Submit(endless);
  while (json::parse(Json(Opcode::kDiscover))["functions"].back()["state"] != "running") std::this_thread::yield();
  Request abort = Make(Opcode::kAbort);
  abort.value = endless.id;
  EXPECT_EQ(CodeOf(Do(abort)), ErrorCode::kNotFound);
  EXPECT_FALSE(queue.Poll());
  EXPECT_TRUE(engine_->Call(abort).status.ok());
  EXPECT_TRUE(queue.Wait(60s));
}

TEST_P(ConformanceTest, SlicesDeadlinesAndEnergyBudgetsEndWork) {
  const std::uint32_t counter = LoadCounter();
  Request run = Make(Opcode::kExecute);
  run.function = counter;
  const std::string far = "18446744073709551615";
  run.data.assign(far.begin(), far.end());
  run.slice = 2ms;
  Completion first = Do(run);
  EXPECT_TRUE(first.status.ok() && first.more);
  EXPECT_GE(first.busy_us, 2000u);
  run.id = next_id_++;
  run.state = first.state;
  const Completion second = Do(run);
  EXPECT_GT(std::stoull(std::string(AsText(second.state))), std::stoull(std::string(AsText(first.state))));
  run.id = next_id_++;
  run.slice = 0ms;
  run.deadline = 3ms;
  EXPECT_EQ(CodeOf(Do(run)), ErrorCode::kDeadlineExceeded);
  run.id = next_id_++;
  run.deadline = 0ms;
  run.energy_uj = EnergyUj(LoadProfile(GetParam().profile), 2000);
  ASSERT_GT(run.energy_uj, 0u) << "the profile has a power model";
  EXPECT_EQ(CodeOf(Do(run)), ErrorCode::kResourceExhausted);
}

TEST_P(ConformanceTest, WorkWithMoreStateThanTravelsGoesOnPastItsSlice) {
  std::string lines;
  for (int i = 0; i < 40'000; ++i) lines += fmt::format("{},{}\n", i % 10'000, i);
  storage_->Put("table", lines);
  Request scan = Execute(BuiltIn::kScan, R"J({"columns": ["group int", "value int"], "group": ["group"], "aggregates": ["count", "sum(value)"]})J", "table");
  const std::string whole = Output(scan);
  EXPECT_EQ(std::count(whole.begin(), whole.end(), '\n'), 10'000);
  scan.slice = std::chrono::microseconds(1);
  EXPECT_EQ(Output(scan), whole);
}

TEST_P(ConformanceTest, OutputThatIsTooMuchForOneAnswerComesInSeveral) {
  std::string lines;
  for (int i = 0; i < 40'000; ++i) lines += fmt::format("line number {}\n", i);
  storage_->Put("lines", lines);
  int parts = 0;
  EXPECT_EQ(Output(Execute(BuiltIn::kMatch, R"({"pattern": "."})", "lines"), &parts), lines);
  EXPECT_GE(parts, 4);
  // The parts of an object have each line once.
  std::string joined;
  for (std::uint64_t begin = 0; begin < lines.size(); begin += 100'003) {
    Request part = Execute(BuiltIn::kMatch, R"({"pattern": "[05]$"})", "lines");
    part.offset = begin;
    part.bytes = 100'003;
    joined += Output(part);
  }
  EXPECT_EQ(joined, Output(Execute(BuiltIn::kMatch, R"({"pattern": "[05]$"})", "lines")));
  // To another range instead of the answer.
  const Capability to = Allocate(64);
  Request ranged = Execute(BuiltIn::kMatch, R"({"pattern": "number 39999$"})", "lines");
  ranged.ranges = {Whole(to)};
  EXPECT_EQ(Do(ranged).value, 18u);
  EXPECT_EQ(Read({to, 0, 18}), "line number 39999\n");
}

TEST_P(ConformanceTest, WhatIsSaturatedPushesBackAndBeginsNothing) {
  Configure(R"({"cores": 0, "queue_max": 2})");
  EXPECT_EQ(CodeOf(Do(Make(Opcode::kConfigure))), ErrorCode::kPermissionDenied);
  storage_->Put("text", std::string(100'000, 'x'));
  Queue queue(*device_);
  std::uint64_t first = 0;
  for (int i = 0; i < 2; ++i) {
    Request wait = Execute(BuiltIn::kChecksum, "{}", "text");
    if (i == 0) first = wait.id;
    queue.Submit(wait);
  }
  while (json::parse(Json(Opcode::kStatistics))["waiting"] != 2) std::this_thread::yield();
  const Completion refused = Do(Execute(BuiltIn::kChecksum, "{}", "text"));
  EXPECT_TRUE(refused.pushed_back);
  EXPECT_EQ(CodeOf(refused), ErrorCode::kResourceExhausted);
  Request abort = Make(Opcode::kAbort);
  abort.value = first;
  EXPECT_TRUE(Do(abort).status.ok());
  EXPECT_EQ(CodeOf(queue.Wait(60s).value()), ErrorCode::kAborted) << "never begun";
  Configure(R"({"cores": 1})");
  EXPECT_TRUE(queue.Wait(60s).value().status.ok());
  EXPECT_EQ(queue.under_way(), 0u);
}

TEST_P(ConformanceTest, TenantsTakeTurns) {
  storage_->Put("text", "x");
  Configure(R"({"cores": 0})");
  Queue queue(*device_);
  for (int i = 0; i < 3; ++i) queue.Submit(Execute(BuiltIn::kChecksum, "{}", "text"));
  Request late = Execute(BuiltIn::kChecksum, "{}", "text");
  late.tenant = "bob";
  queue.Submit(late);
  while (json::parse(Json(Opcode::kStatistics))["waiting"] != 4) std::this_thread::yield();
  Configure(R"({"cores": 1})");
  for (int i = 0; i < 4; ++i) EXPECT_TRUE(queue.Wait(60s).value().status.ok());
  // Not in the order of the completions: two threads may take them from a ring at once.
  EXPECT_EQ(storage_->opened(), (std::vector<std::string>{"alice", "bob", "alice", "alice"}));
}

TEST_P(ConformanceTest, ATenantWithLongWorkMakesRoomForOneWithShortWork) {
  storage_->Put("text", "x");
  Configure(R"({"cores": 1})");
  Request endless = Make(Opcode::kExecute);
  endless.function = LoadCounter();
  const std::string far = "18446744073709551615";
  endless.data.assign(far.begin(), far.end());  // Without a slice: of its own accord it never ends a piece.
  Queue queue(*device_);
  queue.Submit(endless);
  while (json::parse(Json(Opcode::kDiscover))["functions"].back()["state"] != "running") std::this_thread::yield();
  Request brief = Execute(BuiltIn::kChecksum, "{}", "text");
  brief.tenant = "bob";
  queue.Submit(brief);
  std::set<std::uint64_t> ended;
  for (int i = 0; i < 2; ++i) {
    const auto completion = queue.Wait(60s);
    ASSERT_TRUE(completion && completion->status.ok());
    EXPECT_EQ(completion->more, completion->id == endless.id);
    EXPECT_GE(completion->busy_us, completion->more ? kAheadUs : 0u) << "a turn is not shorter";
    ended.insert(completion->id);
  }
  EXPECT_EQ(ended, (std::set{endless.id, brief.id}));
}

TEST_P(ConformanceTest, OneTenantsRequestsAndFunctionsAreLimited) {
  storage_->Put("text", "x");
  for (std::size_t i = 0; i < kLoadedPerTenantMax; ++i) LoadCounter(false, std::to_string(i));
  Request load = Make(Opcode::kLoad);
  load.name = "counter";
  load.data = {'x'};
  EXPECT_EQ(CodeOf(Do(load)), ErrorCode::kResourceExhausted);
  load.tenant = "bob";
  EXPECT_TRUE(Do(load).status.ok());
  Configure(R"({"cores": 0, "queue_max": 65536})");
  Queue queue(*device_);
  for (std::size_t i = 0; i < kUnderWayPerTenantMax; ++i) queue.Submit(Execute(BuiltIn::kChecksum, "{}", "text"));
  while (json::parse(Json(Opcode::kStatistics))["waiting"] != kUnderWayPerTenantMax) std::this_thread::yield();
  const Completion refused = Do(Execute(BuiltIn::kChecksum, "{}", "text"));
  EXPECT_EQ(CodeOf(refused), ErrorCode::kResourceExhausted);
  EXPECT_FALSE(refused.pushed_back) << "the tenant has too much, not the device";
  Configure(R"({"cores": 1})");
  for (std::size_t i = 0; i < kUnderWayPerTenantMax; ++i) EXPECT_TRUE(queue.Wait(60s).value().status.ok());
}

// --- Batches

TEST_P(ConformanceTest, AnAbortedBatchEndsWhatRunsAndBeginsNothingMore) {
  const std::uint32_t counter = LoadCounter();
  Request batch = Make(Opcode::kBatch), endless = Make(Opcode::kExecute), after = Execute(BuiltIn::kChecksum, "{}");
  endless.function = counter;
  const std::string far = "18446744073709551615";
  endless.data.assign(far.begin(), far.end());
  after.after = {0};
  Request beside = after;
  beside.after = {1};
  Request waits = Execute(BuiltIn::kChecksum, "{}");  // For the core.
  batch.steps = {endless, after, beside, waits};
  Configure(R"({"cores": 1})");
  Queue queue(*device_);
  queue.Submit(batch);
  while (json::parse(Json(Opcode::kDiscover))["functions"].back()["state"] != "running") std::this_thread::yield();
  Request abort = Make(Opcode::kAbort);
  abort.value = batch.id;
  EXPECT_TRUE(Do(abort).status.ok());
  const auto ended = queue.Wait(60s);
  ASSERT_TRUE(ended);
  EXPECT_EQ(CodeOf(*ended), ErrorCode::kAborted);
  EXPECT_TRUE(ended->steps[0].status.ok() && ended->steps[0].more) << "it can go on";
  EXPECT_EQ(CodeOf(ended->steps[1]), ErrorCode::kAborted);
  EXPECT_EQ(CodeOf(ended->steps[2]), ErrorCode::kAborted);
  EXPECT_EQ(CodeOf(ended->steps[3]), ErrorCode::kAborted);
}

TEST_P(ConformanceTest, ABatchRunsInTheOrderOfItsGraphAndStopsBehindAFailure) {
  storage_->Put("text", "b\na\nc\n");
  const Capability memory = Allocate(6), result = Allocate(8);
  Request batch = Make(Opcode::kBatch);
  Request load = Make(Opcode::kStorageRead), check = Execute(BuiltIn::kChecksum, "{}"), keep = Make(Opcode::kStorageWrite);
  load.name = "text";
  load.ranges = {Whole(memory)};
  check.ranges = {Whole(memory), Whole(result)};
  check.after = {0};
  keep.name = "sum";
  keep.ranges = {Whole(result)};
  keep.after = {1};
  batch.steps = {load, check, keep};
  const Completion done = Do(batch);
  ASSERT_TRUE(done.status.ok()) << done.status.error().message;
  ASSERT_EQ(done.steps.size(), 3u);
  EXPECT_EQ(Output(Execute(BuiltIn::kMatch, R"({"pattern": "."})", "sum")), Output(Execute(BuiltIn::kChecksum, "{}", "text")));

  batch.id = next_id_++;
  batch.steps[0].name = "absent";
  batch.steps[2].name = "other";
  Request apart = Execute(BuiltIn::kMatch, R"({"pattern": "a"})", "text");
  batch.steps.push_back(apart);
  const Completion failed = Do(batch);
  EXPECT_EQ(CodeOf(failed), ErrorCode::kNotFound);
  EXPECT_EQ(CodeOf(failed.steps[0]), ErrorCode::kNotFound);
  EXPECT_EQ(CodeOf(failed.steps[1]), ErrorCode::kAborted);
  EXPECT_EQ(CodeOf(failed.steps[2]), ErrorCode::kAborted);
  EXPECT_EQ(AsText(failed.steps[3].data), "a\n");

  batch.id = next_id_++;
  batch.steps[1].after = {2};
  EXPECT_EQ(CodeOf(Do(batch)), ErrorCode::kInvalidArgument) << "a step after a later one";
  EXPECT_TRUE(Do(Make(Opcode::kBatch)).status.ok()) << "an empty batch is done";
}

// --- Many at once

TEST_P(ConformanceTest, ManyRequestsOfSeveralThreadsAreAnsweredOnceEach) {
  constexpr int kThreads = 4, kEach = 200;
  storage_->Put("text", "123456789");
  std::vector<std::thread> threads;
  std::atomic<int> right{0};
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Queue queue(*device_);
      for (int i = 0; i < kEach; ++i) {
        Request request;
        request.id = static_cast<std::uint64_t>(t) * 1000 + static_cast<std::uint64_t>(i) + 1'000'000;
        request.opcode = Opcode::kExecute;
        request.tenant = "tenant" + std::to_string(t);
        request.function = static_cast<std::uint32_t>(BuiltIn::kChecksum);
        request.name = "text";
        queue.Submit(std::move(request));
        if (i % 4 == 3) {
          while (const auto completion = queue.Wait(60s)) {
            right += completion->status.ok() && AsText(completion->data) == "e3069283";
            if (queue.under_way() == 0) break;
          }
          while (const auto completion = queue.Poll()) right += AsText(completion->data) == "e3069283";
        }
      }
      while (queue.under_way() > 0) {
        if (const auto completion = queue.Wait(60s)) right += AsText(completion->data) == "e3069283";
      }
      while (const auto completion = queue.Poll()) right += AsText(completion->data) == "e3069283";
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(right.load(), kThreads * kEach);
}

TEST_P(ConformanceTest, TwoTenantsRequestsOfOneNumberAreAnsweredToWhomTheyBelong) {
  storage_->Put("text", "123456789");
  storage_->Put("other", "987654321");
  Configure(R"({"cores": 0, "queue_max": 16})");  // Both are under way before one is answered.
  Queue alices(*device_), bobs(*device_);
  Request request = Execute(BuiltIn::kChecksum, "{}", "text");
  request.id = 7;
  alices.Submit(request);
  request.tenant = "bob";
  request.name = "other";
  bobs.Submit(request);
  while (json::parse(Json(Opcode::kStatistics))["waiting"] != 2) std::this_thread::yield();
  Request abort = Make(Opcode::kAbort);
  abort.tenant = "bob";
  abort.value = request.id;
  EXPECT_TRUE(Do(abort).status.ok());
  EXPECT_EQ(CodeOf(bobs.Wait(60s).value()), ErrorCode::kAborted);
  EXPECT_FALSE(alices.Poll());
  bobs.Submit(request);
  Configure(R"({"cores": 1})");
  const Completion hers = alices.Wait(60s).value(), his = bobs.Wait(60s).value();
  EXPECT_EQ(AsText(hers.data), "e3069283");
  ASSERT_TRUE(his.status.ok());
  EXPECT_NE(AsText(his.data), "e3069283");
  EXPECT_EQ(hers.id, 7u);
  EXPECT_EQ(his.id, 7u);
}

TEST_P(ConformanceTest, RequestsBeyondALimitAreRefusedAndNothingElseIsHarmed) {
  Request request = Make(Opcode::kExecute);
  request.function = static_cast<std::uint32_t>(BuiltIn::kChecksum);
  request.data.resize(kDataBytesMax + 1);
  EXPECT_EQ(CodeOf(Do(request)), ErrorCode::kInvalidArgument);
  request = Make(Opcode::kExecute);
  request.name.assign(kNameBytesMax + 1, 'x');
  EXPECT_EQ(CodeOf(Do(request)), ErrorCode::kInvalidArgument);
  request = Make(Opcode::kExecute);
  request.ranges.resize(kRangesMax + 1);
  EXPECT_EQ(CodeOf(Do(request)), ErrorCode::kInvalidArgument);
  EXPECT_EQ(json::parse(Json(Opcode::kHealth))["state"], "ok");
}

// --- The drivers

std::shared_ptr<Device> InProcess(Engine& engine) { return std::shared_ptr<Device>(&engine, [](Device*) {}); }

std::shared_ptr<Device> OverRings(Engine& engine) {
  const auto path = std::filesystem::temp_directory_path() / fmt::format("godwit-ring-{}", getpid());
  auto server = RingServer::Listen(path, engine);
  EXPECT_TRUE(server.ok()) << server.error().message;
  auto device = ConnectRing(path);
  EXPECT_TRUE(device.ok()) << device.error().message;
  if (!device.ok()) return nullptr;
  struct Both {
    std::unique_ptr<RingServer> server;
    std::unique_ptr<Device> device;  // Ends first.
  };
  auto both = std::make_shared<Both>(Both{std::move(server).value(), std::move(device).value()});
  return std::shared_ptr<Device>(both, both->device.get());
}

std::shared_ptr<Device> OverAChannel(Engine& engine) {
  static transport::EventLoop loop("devices");  // Outlives the engines.
  struct Link {
    std::unique_ptr<transport::ChannelServer> server;
    std::shared_ptr<transport::Channel> channel;
    std::unique_ptr<RemoteDevice> device;
    ~Link() {
      device.reset();
      if (channel) loop.Run([this] { channel->Drop(); });
      server.reset();
    }
  };
  auto link = std::make_shared<Link>();
  transport::ChannelServer::Options options;
  options.channel.self = {model::DeviceName("csd0"), model::BootId{1}};
  options.channel.token = "secret";
  auto server = transport::ChannelServer::Listen(loop, options, [&engine](const std::shared_ptr<transport::Channel>&) {
    transport::ChannelHandlers handlers;
    handlers.on_frame = [&engine](const std::shared_ptr<transport::Channel>& from, transport::Frame frame) {
      EXPECT_TRUE(ServeDevice(from, frame, engine, true));
    };
    return handlers;
  });
  EXPECT_TRUE(server.ok()) << server.error().message;
  link->server = std::move(server).value();
  transport::ChannelOptions own;
  own.self = {model::DeviceName("host0"), model::BootId{2}};
  own.token = "secret";
  std::mutex mutex;
  std::condition_variable changed;
  bool connected = false;
  loop.Post([&] {
    transport::ConnectChannel(loop, link->server->address(), own, {}, [&](Result<std::shared_ptr<transport::Channel>> channel) {
      const std::lock_guard lock(mutex);
      EXPECT_TRUE(channel.ok()) << channel.error().message;
      if (channel.ok()) link->channel = *channel;
      connected = true;
      changed.notify_all();
    });
  });
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return connected; });
  if (!link->channel) return nullptr;
  link->device = std::make_unique<RemoteDevice>([link = link.get()](auto then) {
    loop.Post([link, then = std::move(then)] { then(link->channel); });
  });
  return std::shared_ptr<Device>(link, link->device.get());
}

std::shared_ptr<Device> OverUcx(Engine& engine) {
  const Status loaded = Ucx::Load();
  EXPECT_TRUE(loaded.ok()) << loaded.error().message;
  struct Link {
    std::unique_ptr<Ucx> there, here;
    std::unique_ptr<Device> device;
    ~Link() {
      device.reset();
      here.reset();
      there.reset();
    }
  };
  auto link = std::make_shared<Link>();
  auto there = Ucx::Start("127.0.0.1", &engine, true), here = Ucx::Start("127.0.0.1", nullptr);
  EXPECT_TRUE(there.ok()) << there.error().message;
  EXPECT_TRUE(here.ok()) << here.error().message;
  if (!there.ok() || !here.ok()) return nullptr;
  link->there = std::move(there).value();
  link->here = std::move(here).value();
  auto device = link->here->Connect(link->there->Invite().value());
  EXPECT_TRUE(device.ok()) << device.error().message;
  if (!device.ok()) return nullptr;
  link->device = std::move(device).value();
  return std::shared_ptr<Device>(link, link->device.get());
}

INSTANTIATE_TEST_SUITE_P(Drivers, ConformanceTest,
                         ::testing::Values(Driver{"in_process", "conformance", InProcess}, Driver{"rings", "conformance", OverRings},
                                           Driver{"channel", "conformance", OverAChannel}, Driver{"ucx", "conformance", OverUcx}),
                         [](const auto& of) { return of.param.name; });

}  // namespace godwit::device
