// Environment: what an instance's guest can reach outside itself - logs, datasets, other services - as the agent
// provides it. A fake stands in for it in tests.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "agent/request.h"
#include "base/bytes.h"
#include "base/result.h"
#include "model/ids.h"

namespace godwit::agent {

inline constexpr std::size_t kCallResponseBytesMax = 16 << 20;  // A call's answer is held whole.
inline constexpr std::size_t kDataReadBytesMax = 512 << 10;     // Of one ranged read.

enum class LogLevel : std::uint8_t { kError = 0, kWarning = 1, kInfo = 2, kDebug = 3 };

// Who asks: checked by the side that holds the data or serves the call.
struct Asker {
  model::ServiceName service;
  model::InstanceId instance;
  model::Epoch epoch;
};

struct OutgoingCall {
  Asker asker;
  model::ServiceName service;
  std::string method, target;
  std::vector<Header> headers;
  Bytes body;
  std::chrono::steady_clock::time_point deadline;
};

struct CallAnswer {
  std::uint16_t status = 0;
  std::vector<Header> headers;
  Bytes body;
};

// Something under way whose result will be dropped. Cancelling twice or after the end does nothing.
class Pending {
 public:
  virtual ~Pending() = default;
  virtual void Cancel() = 0;
};

struct DeviceInfo {
  std::string name, device_class, isa;
};

// Self-synchronised. A callback is called exactly once, perhaps before the function returns, on any thread.
class Environment {
 public:
  virtual ~Environment() = default;
  virtual const DeviceInfo& device() const = 0;
  virtual void Log(const Asker& from, LogLevel level, std::string_view line) = 0;
  virtual std::shared_ptr<Pending> Call(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) = 0;
  // Size of the dataset in bytes. kNotFound.
  virtual void DataSize(const Asker& asker, const model::DatasetName& dataset,
                        std::function<void(Result<std::uint64_t>)> done) = 0;
  // At most kDataReadBytesMax bytes from `offset`; fewer at the end, none past it.
  virtual void DataRead(const Asker& asker, const model::DatasetName& dataset, std::uint64_t offset,
                        std::uint32_t length, std::function<void(Result<Bytes>)> done) = 0;
};

}  // namespace godwit::agent
