// GuestApi: the import module "godwit" (docs/formats/guest-api.md): what a service's code calls to read its request,
// answer it, call other services, read datasets and reach hosts outside. Its state is its requests', which the host keeps and
// moves, and the connections that its instance has open.
#pragma once

#include <map>
#include <memory>
#include <mutex>

#include "agent/environment.h"
#include "agent/exchange.h"
#include "model/manifest.h"
#include "runtime/host.h"

namespace godwit::agent {

inline constexpr std::string_view kGuestModule = "godwit";
inline constexpr std::size_t kCallsOpenMax = 16;         // Answers that one request holds without closing them.
inline constexpr std::size_t kCallBodyBytesMax = 16 << 20;
inline constexpr std::size_t kResponseHeadersMax = 64;
inline constexpr std::size_t kEmitBytesMax = 64 << 10;  // Of one call.
inline constexpr std::size_t kStreamsOpenMax = 16;      // Of one request.
inline constexpr std::size_t kConnectionsOpenMax = 64;   // Of one instance.
inline constexpr std::chrono::seconds kConnectTimeout{10};
inline constexpr std::size_t kLogLineBytesMax = 8 << 10;

// The host's side of GuestApi.
class GuestRequests {
 public:
  virtual ~GuestRequests() = default;
  virtual std::mutex& mutex() = 0;
  // The request the guest calls `handle`, or, for 0, the one that `task` of this instance serves. Null if there is none
  // or its answer is complete. It stays while that task lives. The mutex is held.
  virtual Exchange* Find(std::uint32_t handle, runtime::Instance& instance, runtime::TaskId task) = 0;
  virtual std::shared_ptr<Exchange> Share(Exchange* exchange) = 0;
  virtual const model::Manifest& manifest() const = 0;
  virtual const Asker& asker() const = 0;
  virtual Environment& environment() = 0;
};

// Of a function that runs over a dataset instead of serving requests (agent/user_function.h).
struct FunctionIo {
  Bytes arguments;
  Bytes output;  // Emitted and not yet taken.
};

class GuestApi final : public runtime::HostModule {
 public:
  // `requests`, and `function` where there is one, outlive the instance.
  explicit GuestApi(GuestRequests* requests, FunctionIo* function = nullptr) : requests_(requests), function_(function) {}
  FunctionIo* function() { return function_; }
  std::string_view name() const override { return kGuestModule; }
  std::optional<runtime::HostFunction> Find(std::string_view function) const override;
  Result<Bytes> Save() const override;
  Status Load(ByteView state) override;
  GuestRequests& requests() { return *requests_; }
  // Where the instance ends, and not where it moved away.
  void CloseConnections();

  // A connection out of the cluster, as far as the guest has come with it.
  struct Connection {
    ConnectionName name;
    std::uint64_t read = 0, written = 0;  // Bytes.
  };
  std::map<std::uint32_t, Connection> connections;  // By the guest's handle, from 1.

 private:
  GuestRequests* requests_;
  FunctionIo* function_;
};

}  // namespace godwit::agent
