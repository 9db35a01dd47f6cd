// The conformance suite's fixture: what every driver of a device must do alike. A driver joins by a value of Driver and one
// INSTANTIATE_TEST_SUITE_P, in a file of its own.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device/built_in.h"
#include "device/engine.h"

namespace godwit::device {

// Makes a driver to `engine`. The result keeps all that it needs but the engine.
struct Driver {
  std::string name;
  std::string profile = "conformance";
  std::function<std::shared_ptr<Device>(Engine& engine)> connect;
  friend std::ostream& operator<<(std::ostream& out, const Driver& driver) { return out << driver.name; }
};

inline std::shared_ptr<const Source> TextObject(std::string text) {
  const auto owner = std::make_shared<const std::string>(std::move(text));
  return std::make_shared<BytesSource>(AsBytes(*owner), owner);
}

class FakeStorage final : public Storage {
 public:
  Result<std::shared_ptr<const Source>> Open(const std::string& tenant, const std::string& object) override {
    const std::lock_guard lock(mutex_);
    opened_.push_back(tenant);
    const auto found = objects_.find(object);
    if (found == objects_.end()) return NotFound("no object '" + object + "'");
    if (object.rfind("private", 0) == 0 && tenant != "alice") return PermissionDenied("'" + object + "' is Alice's");
    return found->second;
  }
  Status Create(const std::string&, const std::string& object, ByteView bytes) override {
    const std::lock_guard lock(mutex_);
    const bool made = objects_.emplace(object, TextObject(std::string(AsText(bytes)))).second;
    return made ? Status() : Status(FailedPrecondition("there is an object '" + object + "'"));
  }
  void Put(const std::string& object, std::string text) {
    const std::lock_guard lock(mutex_);
    objects_[object] = TextObject(std::move(text));
  }
  // The tenants for whom objects were opened, in that order.
  std::vector<std::string> opened() const {
    const std::lock_guard lock(mutex_);
    return opened_;
  }

 private:
  mutable std::mutex mutex_;
  std::map<std::string, std::shared_ptr<const Source>> objects_;
  std::vector<std::string> opened_;
};

// Counts up to its argument, a step each, and gives what it counted; the state is how far it came.
class Counter final : public Function {
 public:
  std::string_view name() const override { return "counter"; }
  Result<std::unique_ptr<Work>> Begin(ByteView arguments, ByteView state, Part) const override {
    class Counting final : public Work {
     public:
      Counting(std::uint64_t from, std::uint64_t to) : at_(from), to_(to) {}
      Result<bool> Run(const Source&, const Pace& pace, Bytes* output) override {
        while (at_ < to_) {
          ++at_;
          if (at_ < to_ && pace.Over(output->size())) return false;
        }
        const std::string text = std::to_string(at_);
        output->insert(output->end(), text.begin(), text.end());
        return true;
      }
      Result<Bytes> Save() override {
        const std::string text = std::to_string(at_);
        return Bytes(text.begin(), text.end());
      }
      std::uint64_t read_bytes() const override { return 0; }

     private:
      std::uint64_t at_, to_;
    };
    return std::unique_ptr<Work>(std::make_unique<Counting>(state.empty() ? 0 : std::stoull(std::string(AsText(state))),
                                                            std::stoull(std::string(AsText(arguments)))));
  }
  bool brief(ByteView arguments, Part) const override { return arguments.size() < 3; }
};

class FakePrograms final : public Programs {
 public:
  Result<std::shared_ptr<const Function>> Load(const std::string&, const std::string& name, ByteView) override {
    if (name != "counter") return InvalidArgument("no program is called '" + name + "'");
    return std::shared_ptr<const Function>(std::make_shared<Counter>());
  }
};

// The engine's profile: profiles/NAME.toml.
Profile LoadProfile(const std::string& name);

class ConformanceTest : public ::testing::TestWithParam<Driver> {
 protected:
  void SetUp() override;
  void TearDown() override;

  // --- Commands, as "alice" unless said otherwise.
  Request Make(Opcode opcode) {
    Request request;
    request.id = next_id_++;
    request.opcode = opcode;
    request.tenant = tenant_;
    return request;
  }
  Completion Do(Request request) { return device_->Call(std::move(request)); }
  Capability Allocate(std::uint64_t bytes);
  Completion Write(const Range& to, std::string_view text);
  std::string Read(const Range& from);  // "error N" where it fails.
  static Range Whole(const Capability& capability) { return {capability, 0, capability.bytes}; }
  Request Execute(BuiltIn function, const std::string& arguments, const std::string& object = "");
  // All output of an Execute, going on as long as there is more.
  std::string Output(Request request, int* parts = nullptr);
  std::uint32_t LoadCounter(bool activate = true, const std::string& program = "");
  // As the owner.
  void Configure(const std::string& settings);
  std::string Json(Opcode opcode);

  std::shared_ptr<FakeStorage> storage_ = std::make_shared<FakeStorage>();
  std::unique_ptr<Engine> engine_;
  std::shared_ptr<Device> device_;
  std::string tenant_ = "alice";
  std::uint64_t next_id_ = 1;
};

}  // namespace godwit::device
