// What the functions of the import module "godwit" share: the caller, and waiting for the environment.
//
// A host function must hold nothing that needs a destructor while it blocks or traps: those may abandon its stack.
#pragma once

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <utility>

#include "agent/guest_api.h"

namespace godwit::agent {

using abi::Context;
using runtime::GuestMemory;
using runtime::Instance;

inline std::int32_t Negative(ErrorCode code) { return -static_cast<std::int32_t>(code); }

// One call from the guest: its instance, its memory, its host's side.
class Caller {
 public:
  explicit Caller(Context* context)
      : instance(Instance::Of(context)),
        api(*static_cast<GuestApi*>(instance.host(kGuestModule))),
        requests(api.requests()),
        memory_(context) {}

  // Traps where the range is not in memory: a service that passes wrong pointers is broken.
  std::uint8_t* Range(std::uint32_t address, std::uint32_t bytes) {
    std::uint8_t* range = memory_.Range(address, bytes);
    if (range == nullptr) instance.RaiseTrap(abi::TrapCode::kMemoryOutOfBounds, "a pointer given to godwit is outside memory");
    return range;
  }
  std::string_view Text(std::uint32_t address, std::uint32_t bytes) {
    return {reinterpret_cast<const char*>(Range(address, bytes)), bytes};
  }
  // Null: no such request, or it was cancelled. The mutex is held.
  Exchange* Find(std::uint32_t handle) { return requests.Find(handle, instance, instance.current_task()); }
  // Copies what fits of `text`; returns its whole length.
  std::int32_t Copy(std::string_view text, std::uint32_t to, std::uint32_t capacity) {
    std::uint8_t* range = Range(to, capacity);
    std::memcpy(range, text.data(), std::min<std::size_t>(text.size(), capacity));
    return static_cast<std::int32_t>(text.size());
  }

  Instance& instance;
  GuestApi& api;
  GuestRequests& requests;

 private:
  GuestMemory memory_;
};

// --- Waiting for the environment ---

// kGone: the request has ended meanwhile. Where it is interrupted, a result that may have come is not taken: the guest
// must not go on.
enum class Awaited { kReady, kInterrupted, kGone };

// Waits until `waiting`, which the request holds, has its result.
template <typename T>
Awaited Await(Caller& caller, std::uint32_t handle, Waiting<T>* waiting) {
  for (;;) {
    {
      const std::lock_guard lock(caller.requests.mutex());
      if (caller.Find(handle) == nullptr) return Awaited::kGone;
    }
    {
      const std::lock_guard lock(waiting->mutex);
      if (waiting->result) return Awaited::kReady;
    }
    if (caller.instance.Block({}) == Instance::Wait::kInterrupted) return Awaited::kInterrupted;
  }
}

template <typename T>
std::function<void(Result<T>)> Answering(std::shared_ptr<Waiting<T>> waiting) {
  return [waiting](Result<T> result) {
    std::shared_ptr<Exchange> exchange;
    {
      const std::lock_guard lock(waiting->mutex);
      if (waiting->result) return;
      waiting->result.emplace(std::move(result));
      exchange = std::move(waiting->exchange);
    }
    if (exchange) exchange->Wake();
  };
}

template <typename T>
std::shared_ptr<Waiting<T>> MakeWaiting(std::shared_ptr<Exchange> exchange) {
  auto waiting = std::make_shared<Waiting<T>>();
  waiting->exchange = std::move(exchange);
  return waiting;
}

// The question begun for `exchange`, or null with `error` set.
template <typename T, typename Ask>
Waiting<T>* BeginQuestion(Caller& caller, std::uint32_t handle, const Status& allowed,
                          std::shared_ptr<Waiting<T>> Exchange::*slot, std::int32_t* error, Ask ask) {
  if (!allowed.ok()) {
    caller.requests.environment().Log(caller.requests.asker(), LogLevel::kWarning, allowed.error().message);
    *error = Negative(allowed.error().code);
    return nullptr;
  }
  std::shared_ptr<Waiting<T>> waiting;
  {
    const std::lock_guard lock(caller.requests.mutex());
    Exchange* exchange = caller.Find(handle);
    if (exchange == nullptr) {
      *error = Negative(ErrorCode::kNotFound);
      return nullptr;
    }
    waiting = MakeWaiting<T>(caller.requests.Share(exchange));
    exchange->*slot = waiting;
  }
  ask(waiting);
  return waiting.get();  // The request holds it.
}

template <typename T>
void EndQuestion(Caller& caller, std::uint32_t handle, std::shared_ptr<Waiting<T>> Exchange::*slot) {
  std::shared_ptr<Waiting<T>> waiting;
  const std::lock_guard lock(caller.requests.mutex());
  Exchange* exchange = caller.Find(handle);
  if (exchange != nullptr) waiting = std::exchange(exchange->*slot, nullptr);
}

// It is asked again where it was interrupted.
template <typename T>
std::int32_t GiveUpQuestion(Caller& caller, std::uint32_t handle, std::shared_ptr<Waiting<T>> Exchange::*slot, Awaited awaited) {
  EndQuestion(caller, handle, slot);
  if (awaited == Awaited::kGone) return Negative(ErrorCode::kNotFound);
  caller.instance.Restart();
  return 0;
}

struct Entry {
  std::string_view name;
  runtime::HostFunction function;
};

template <typename F>
Entry Function(std::string_view name, F function, std::string_view signature) {
  return {name, {reinterpret_cast<abi::Code>(function), signature}};
}

// The functions of this module that are in files of their own.
std::span<const Entry> ConnectionFunctions();
std::span<const Entry> OffloadFunctions();

// kPermissionDenied, saying what the manifest lacks.
Status CheckRead(GuestRequests& requests, const model::DatasetName& dataset);
Status CheckReach(GuestRequests& requests, std::string_view host_and_port);

}  // namespace godwit::agent
