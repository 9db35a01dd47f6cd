#include "engine.h"

#include <stdlib.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>

#include <fmt/format.h>

#include "base/fresh_file.h"
#include "compiler/compile.h"
#include "package/package.h"
#include "runtime/instance.h"
#include "snapshot/snapshot.h"
#include "values.h"

namespace godwit::spec {
namespace {

using runtime::Instance;
using runtime::LoadedModule;
using runtime::Outcome;

// A call is resumed at most about this often at the finest grain; then the stops thin out, twofold each time.
constexpr std::uint64_t kStopsPerGrain = 12;

// Before each of so many first calls of an instance, and before every one of that number after them, it moves.
constexpr std::uint64_t kCallsWithMoveBetween = 64;

// What scripts may import from "spectest": functions from the host, the rest from a module of our own.
class SpectestFunctions final : public runtime::HostModule {
 public:
  std::string_view name() const override { return "spectest"; }
  std::optional<runtime::HostFunction> Find(std::string_view function) const override {
    using abi::Context;
    static const std::map<std::string_view, runtime::HostFunction> kFunctions{
        {"print", {AsCode(+[](Context*, std::uint8_t*) {}), ":"}},
        {"print_i32", {AsCode(+[](Context*, std::uint8_t*, std::int32_t) {}), "i:"}},
        {"print_i64", {AsCode(+[](Context*, std::uint8_t*, std::int64_t) {}), "I:"}},
        {"print_f32", {AsCode(+[](Context*, std::uint8_t*, float) {}), "f:"}},
        {"print_f64", {AsCode(+[](Context*, std::uint8_t*, double) {}), "F:"}},
        {"print_i32_f32", {AsCode(+[](Context*, std::uint8_t*, std::int32_t, float) {}), "if:"}},
        {"print_f64_f64", {AsCode(+[](Context*, std::uint8_t*, double, double) {}), "FF:"}},
    };
    const auto found = kFunctions.find(function);
    return found != kFunctions.end() ? std::optional(found->second) : std::nullopt;
  }
  Result<Bytes> Save() const override { return Bytes{}; }
  Status Load(ByteView) override { return {}; }

 private:
  template <typename F>
  static abi::Code AsCode(F* function) { return reinterpret_cast<abi::Code>(function); }
};

constexpr std::string_view kSpectestModule = R"((module
  (global (export "global_i32") i32 (i32.const 666))
  (global (export "global_i64") i64 (i64.const 666))
  (global (export "global_f32") f32 (f32.const 666.6))
  (global (export "global_f64") f64 (f64.const 666.6))
  (table (export "table") 10 20 funcref)
  (memory (export "memory") 1 2)))";

const fbs::FunctionType& TypeOf(const fbs::Module& module, std::uint32_t function) {
  return *module.types()->Get(module.functions()->Get(function)->type());
}

// A module of the script as it was instantiated, or why it was not.
struct Target {
  std::shared_ptr<const LoadedModule> module;
  Instance* instance = nullptr;       // Undisturbed; in the store or `own`.
  std::unique_ptr<Instance> own;
  std::optional<std::size_t> position;  // In the store, if it is there.
  std::unique_ptr<Instance> stopped;    // Does the same as `own`, under stops.
  std::uint64_t calls = 0;              // Of `stopped`.
  std::string unsupported;            // Why the engine refuses the module.
  std::string failed;                 // Why it should not have.
};

class ScriptRun {
 public:
  ScriptRun(const std::vector<Command>& commands, const Settings& settings) : commands_(commands), settings_(settings) {
    for (const Command& command : commands) {
      if (command.kind == Command::Kind::kRegister && command.module.name.empty()) register_latest_ = true;
      if (command.kind == Command::Kind::kRegister) registered_.insert(command.module.name);
    }
  }

  Report Run() {
    for (at_ = 0; at_ < commands_.size(); ++at_) {
      command_ = &commands_[at_];
      Execute();
    }
    return std::move(report_);
  }

 private:
  // --- Verdicts ---
  void Pass() { report_.passed += command_->assertion; }
  void Fail(const std::string& what) { report_.failures.push_back(fmt::format("line {}: {}", command_->line, what)); }
  void NotRunnable(const std::string& reason) { report_.not_runnable[reason] += command_->assertion; }

  void Execute() {
    using Kind = Command::Kind;
    switch (command_->kind) {
      case Kind::kModule: return DefineModule();
      case Kind::kRegister: return Register();
      case Kind::kUnparsable: return NotRunnable(command_->text);
      case Kind::kAssertInvalid:
      case Kind::kAssertMalformed: return ExpectRefused();
      case Kind::kAssertUnlinkable: return ExpectUnlinkable();
      case Kind::kAssertUninstantiable: return ExpectUninstantiable();
      default: return Act();
    }
  }

  // --- Modules ---
  Result<std::shared_ptr<const LoadedModule>> Compile(const Bytes& source) {
    compiler::Options options;
    options.targets = {package::HostIsa()};
    options.optimisation_level = settings_.level;
    options.threads = 1;
    GODWIT_ASSIGN(compiler::Output output, compiler::Compile(source, "module", options));
    GODWIT_ASSIGN(const TemporaryFolder folder, TemporaryFolder::Create());
    const package::Contents contents{"module", std::move(output.wasm), std::move(output.module), std::move(output.images)};
    GODWIT_TRY(package::WritePackage(folder.path() / "p", contents));
    GODWIT_ASSIGN(auto opened, package::Package::Open(folder.path() / "p"));
    return LoadedModule::Load(std::move(opened));
  }

  static std::vector<std::shared_ptr<runtime::HostModule>> Hosts() { return {std::make_shared<SpectestFunctions>()}; }

  // The store with the instances of the script, and under stress one that does the same under stops.
  Result<runtime::Store*> TheStore() {
    if (!store_) {
      GODWIT_ASSIGN(store_, runtime::Store::Create());
      GODWIT_ASSIGN(stopped_store_, runtime::Store::Create());
      GODWIT_ASSIGN(auto spectest, Compile(Bytes(kSpectestModule.begin(), kSpectestModule.end())));
      GODWIT_TRY(InstantiateInBoth(spectest));
      store_->Register("spectest", *store_->instances().back());
      stopped_store_->Register("spectest", *stopped_store_->instances().back());
    }
    return store_.get();
  }

  // Also the start function runs in both. The store's must have been made.
  Status InstantiateInBoth(const std::shared_ptr<const LoadedModule>& module) {
    const auto in = [&](runtime::Store& store) -> Status {
      GODWIT_ASSIGN(Instance * instance, store.Instantiate(module, Hosts(), {}));
      return RunStart(*instance);
    };
    const Status made = in(*store_), again = in(*stopped_store_);
    // One that failed stays, since what it wrote may lead to it.
    while (linked_modules_.size() < store_->instances().size()) linked_modules_.push_back(module);
    if (made.ok() != again.ok()) return Internal("a second store does not do the same");
    return made;
  }

  // Whether other modules are linked with it: then it lives in the store.
  bool IsLinked(const fbs::Module& module, const std::string& name) const {
    if (register_latest_ || registered_.contains(name)) return true;
    return std::any_of(module.imports()->begin(), module.imports()->end(), [](const fbs::Import* import) {
      return import->kind() != fbs::ExternKind::function || import->module_()->string_view() != "spectest" ||
             !SpectestFunctions().Find(import->name()->string_view());
    });
  }

  Status RunStart(Instance& instance) {
    const auto start = instance.start_function();
    if (!start) return {};
    GODWIT_ASSIGN(const runtime::TaskId task, instance.Start(*start, {}));
    const Outcome outcome = instance.Run(task);
    if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) return InvalidArgument(trapped->message);
    return {};
  }

  Status Instantiate(Target& target, const std::string& name) {
    if (IsLinked(target.module->module(), name)) {
      GODWIT_ASSIGN(runtime::Store * store, TheStore());
      const Status made = InstantiateInBoth(target.module);
      if (linked_modules_.back() == target.module) {
        target.position = store->instances().size() - 1;
        target.instance = store->instances().back();
      }
      return made;
    }
    GODWIT_ASSIGN(target.own, Instance::Create(target.module, Hosts(), {}));
    target.instance = target.own.get();
    GODWIT_TRY(RunStart(*target.own));
    if (!settings_.stress) return {};
    GODWIT_ASSIGN(target.stopped, Instance::Create(target.module, Hosts(), {}));
    return RunStart(*target.stopped);
  }

  void DefineModule() {
    auto target = std::make_unique<Target>();
    auto loaded = Compile(command_->module.source);
    if (!loaded.ok()) {
      (loaded.error().code == ErrorCode::kUnsupported ? target->unsupported : target->failed) = loaded.error().message;
    } else {
      target->module = std::move(loaded).value();
      if (Status made = Instantiate(*target, command_->module.name); !made.ok()) {
        (ImportsMissing(target->module->module()) ? target->unsupported : target->failed) = made.error().message;
        target->instance = nullptr;
      }
    }
    if (!target->failed.empty()) Fail("the module is refused: " + target->failed);
    latest_ = target.get();
    if (!command_->module.name.empty()) named_[command_->module.name] = target.get();
    targets_.push_back(std::move(target));
  }

  bool ImportsMissing(const fbs::Module& module) const {
    return std::any_of(module.imports()->begin(), module.imports()->end(),
                       [&](const fbs::Import* import) { return missing_.contains(import->module_()->string_view()); });
  }

  Target* Find(const std::string& name) {
    if (name.empty()) return latest_;
    const auto found = named_.find(name);
    return found != named_.end() ? found->second : nullptr;
  }

  void Register() {
    Target* target = Find(command_->module.name);
    if (target == nullptr) return Fail("register of a module that does not exist");
    if (target->instance == nullptr) {  // Why was said when it was made.
      missing_.insert(command_->text);
      return;
    }
    store_->Register(command_->text, *target->instance);
    stopped_store_->Register(command_->text, *stopped_store_->instances()[*target->position]);
  }

  void ExpectRefused() {
    auto loaded = Compile(command_->module.source);
    if (loaded.ok()) return Fail("accepted, but: " + command_->text);
    switch (loaded.error().code) {
      case ErrorCode::kInvalidArgument:
      case ErrorCode::kResourceExhausted: return Pass();
      case ErrorCode::kUnsupported: return NotRunnable(Reason(loaded.error().message));
      default: return Fail(loaded.error().message);
    }
  }

  // The engine's reason without the place.
  static std::string Reason(const std::string& message) {
    const auto at = message.find("instruction ");
    if (at != std::string::npos) return message.substr(at);
    const auto colon = message.rfind(": ");
    return colon == std::string::npos ? message : message.substr(colon + 2);
  }

  // The module, compiled; else the verdict was given.
  std::shared_ptr<const LoadedModule> CompileForAssertion() {
    auto loaded = Compile(command_->module.source);
    if (loaded.ok()) return std::move(loaded).value();
    if (loaded.error().code == ErrorCode::kUnsupported) {
      NotRunnable(Reason(loaded.error().message));
    } else {
      Fail("the module is refused: " + loaded.error().message);
    }
    return nullptr;
  }

  void ExpectUnlinkable() {
    auto module = CompileForAssertion();
    if (module == nullptr) return;
    auto store = TheStore();
    if (!store.ok()) return Fail(store.error().message);
    auto linked = (*store)->Instantiate(module, Hosts(), {});
    if (linked.ok()) return Fail("links, but: " + command_->text);
    // The expected texts are "unknown import" and "incompatible import type".
    if (!linked.error().message.starts_with(command_->text)) {
      return Fail(fmt::format("expected '{}', got '{}'", command_->text, linked.error().message));
    }
    Pass();
  }

  void ExpectUninstantiable() {
    Target target;
    target.module = CompileForAssertion();
    if (target.module == nullptr) return;
    auto store = TheStore();  // What it wrote before the trap remains in what it imports.
    if (!store.ok()) return Fail(store.error().message);
    const Status made = InstantiateInBoth(target.module);
    if (made.ok()) return Fail("instantiates, but: " + command_->text);
    if (!SameTrap(made.error().message)) {
      return Fail(fmt::format("expected '{}', got '{}'", command_->text, made.error().message));
    }
    Pass();
  }

  // Scripts name a trap by the beginning of its message, or say more than it ("uninitialized element 2").
  bool SameTrap(std::string_view message) const {
    return message.starts_with(command_->text) || command_->text.starts_with(message.substr(0, message.find(" in ")));
  }

  // --- Actions ---
  struct Ended {
    Values values;
    std::string trap;  // Empty if it returned.
    bool exhausted = false;
    bool operator==(const Ended&) const = default;
  };

  void Act() {
    const Action& action = command_->action;
    Target* target = Find(action.module);
    if (target == nullptr) return Fail("there is no module " + action.module);
    if (!target->unsupported.empty()) return NotRunnable(Reason(target->unsupported));
    if (!target->failed.empty()) return command_->assertion ? Fail("its module is refused") : void();
    auto ended = action.get ? Get(*target) : Call(*target);
    if (!ended.ok()) return Fail(fmt::format("{}: {}", action.field, ended.error().message));
    Judge(*ended);
  }

  void Judge(const Ended& ended) {
    using Kind = Command::Kind;
    const std::string& field = command_->action.field;
    const std::string got = ended.trap.empty() ? Describe(ended.values) : "trap: " + ended.trap;
    switch (command_->kind) {
      case Kind::kAction:
        if (!ended.trap.empty()) Fail(field + " ends in a " + got);
        return;
      case Kind::kAssertReturn:
        if (ended.trap.empty() && Matches(ended.values, command_->expected, command_->either)) return Pass();
        return Fail(fmt::format("{}: expected {}, got {}", field, Describe(command_->expected), got));
      case Kind::kAssertTrap:
        if (!ended.trap.empty() && SameTrap(ended.trap)) return Pass();
        return Fail(fmt::format("{}: expected the trap '{}', got {}", field, command_->text, got));
      case Kind::kAssertExhaustion:
        if (ended.exhausted) return Pass();
        return Fail(fmt::format("{}: expected '{}', got {}", field, command_->text, got));
      default:
        if (ended.trap.find("exception") != std::string::npos) return Pass();
        return Fail(fmt::format("{}: expected an exception, got {}", field, got));
    }
  }

  Result<Ended> Get(const Target& target) {
    const fbs::Module& module = target.module->module();
    GODWIT_ASSIGN(const runtime::Cell cell, target.instance->GetGlobal(command_->action.field));
    if (Instance* stopped = Stopped(target)) {
      GODWIT_ASSIGN(const runtime::Cell other, stopped->GetGlobal(command_->action.field));
      if (other != cell) return Internal("under stops the global has another value");
    }
    for (const fbs::Export* exported : *module.exports()) {
      if (exported->name()->string_view() != command_->action.field) continue;
      std::uint32_t index = exported->index();
      for (const fbs::Import* import : *module.imports()) {
        if (import->kind() == fbs::ExternKind::global && index-- == 0) return Ended{{{import->value_type(), cell}}, {}, {}};
      }
      return Ended{{{module.globals()->Get(index)->type(), cell}}, {}, {}};
    }
    return Internal("an export that was found is not there");
  }

  Result<Ended> Call(Target& target) {
    GODWIT_ASSIGN(const std::uint32_t function, target.instance->FindFunction(command_->action.field));
    std::vector<runtime::Cell> arguments;
    for (const wabt::Const& argument : command_->action.arguments) arguments.push_back(ToCell(argument));
    const fbs::FunctionType& type = TypeOf(target.module->module(), function);
    GODWIT_ASSIGN(const runtime::TaskId task, target.instance->Start(function, arguments));
    const Ended ended = Convert(target.instance->Run(task), type);
    if (Stopped(target) != nullptr) {
      GODWIT_ASSIGN(const Ended other, CallUnderStops(target, function, arguments, type));
      if (!(other == ended)) {
        return Internal(fmt::format("under stops: {}; without: {}",
                                    other.trap.empty() ? Describe(other.values) : other.trap,
                                    ended.trap.empty() ? Describe(ended.values) : ended.trap));
      }
    }
    return ended;
  }

  static Ended Convert(const Outcome& outcome, const fbs::FunctionType& type) {
    Ended ended;
    if (const auto* returned = std::get_if<runtime::Returned>(&outcome)) {
      for (std::uint32_t i = 0; i < type.results()->size(); ++i) {
        ended.values.push_back({static_cast<fbs::ValueType>(type.results()->Get(i)), returned->results[i]});
      }
    } else if (const auto* trapped = std::get_if<runtime::Trapped>(&outcome)) {
      ended.trap = trapped->message;
      ended.exhausted = trapped->code == abi::TrapCode::kStackOverflow;
    } else {
      ended.trap = "neither returned nor trapped";
    }
    return ended;
  }

  // Null without stress.
  Instance* Stopped(const Target& target) const {
    if (!settings_.stress) return nullptr;
    return target.position ? stopped_store_->instances()[*target.position] : target.stopped.get();
  }

  // The instance, or all that are linked with it, becomes a snapshot, is dropped, and comes back.
  Status Reincarnate(Target& target) {
    ++report_.stops;
    if (target.position) return ReincarnateStore();
    GODWIT_ASSIGN(const snapshot::Snapshot snapshot, target.stopped->Capture());
    GODWIT_ASSIGN(const Bytes encoded, snapshot::EncodeToBytes(snapshot));
    target.stopped.reset();
    GODWIT_ASSIGN(const snapshot::Snapshot decoded, snapshot::Decode(encoded));
    GODWIT_ASSIGN(target.stopped, Instance::Restore(target.module, Hosts(), {}, decoded));
    return {};
  }
  Status ReincarnateStore() {
    std::vector<Bytes> encoded;
    GODWIT_ASSIGN(const std::vector<snapshot::Snapshot> snapshots, stopped_store_->Capture());
    for (const snapshot::Snapshot& snapshot : snapshots) {
      GODWIT_ASSIGN(Bytes bytes, snapshot::EncodeToBytes(snapshot));
      encoded.push_back(std::move(bytes));
    }
    stopped_store_.reset();
    std::vector<snapshot::Snapshot> decoded;
    for (const Bytes& bytes : encoded) {
      GODWIT_ASSIGN(snapshot::Snapshot snapshot, snapshot::Decode(bytes));
      decoded.push_back(std::move(snapshot));
    }
    std::vector<runtime::Store::Part> parts;
    for (std::size_t i = 0; i < decoded.size(); ++i) parts.push_back({linked_modules_[i], Hosts(), {}, &decoded[i]});
    GODWIT_ASSIGN(stopped_store_, runtime::Store::Restore(std::move(parts)));
    return {};
  }

  // Stops at every safepoint at first, and between calls.
  Result<Ended> CallUnderStops(Target& target, std::uint32_t function, const std::vector<runtime::Cell>& arguments,
                               const fbs::FunctionType& type) {
    if (target.calls < kCallsWithMoveBetween || target.calls % kCallsWithMoveBetween == 0) GODWIT_TRY(Reincarnate(target));
    ++target.calls;
    GODWIT_ASSIGN(const runtime::TaskId task, Stopped(target)->Start(function, arguments));
    std::uint64_t every = command_->kind == Command::Kind::kAssertExhaustion ? 0 : 1, stops = 0;
    while (true) {
      Stopped(target)->StopEvery(every);
      const Outcome outcome = Stopped(target)->Run(task);
      if (!std::holds_alternative<runtime::Captured>(outcome)) {
        Stopped(target)->StopEvery(0);
        return Convert(outcome, type);
      }
      GODWIT_TRY(Reincarnate(target));
      if (++stops % kStopsPerGrain == 0) every *= 2;
    }
  }

  const std::vector<Command>& commands_;
  const Settings settings_;
  std::set<std::string> registered_;
  bool register_latest_ = false;
  std::size_t at_ = 0;
  const Command* command_ = nullptr;
  Report report_;
  std::unique_ptr<runtime::Store> store_, stopped_store_;
  std::vector<std::shared_ptr<const LoadedModule>> linked_modules_;  // Of the instances in both stores.
  std::vector<std::unique_ptr<Target>> targets_;
  std::map<std::string, Target*> named_;
  std::set<std::string, std::less<>> missing_;  // Names under which modules that were refused should be registered.
  Target* latest_ = nullptr;
};

}  // namespace

Report RunScript(std::string_view source, const Settings& settings) {
  auto commands = ParseScript(source);
  if (!commands.ok()) {
    Report report;
    report.failures.push_back(commands.error().message);
    return report;
  }
  return ScriptRun(*commands, settings).Run();
}

}  // namespace godwit::spec
