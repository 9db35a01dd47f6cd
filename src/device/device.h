// Device: a computational storage device (CSx) as its users see it, wherever it is. The engine itself, shared-memory rings
// to another process, and channels to another machine are its drivers; one conformance suite runs against each.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "device/request.h"

namespace godwit::device {

// Self-synchronised.
class Device {
 public:
  using Done = std::function<void(Completion)>;
  virtual ~Device() = default;
  // `done` is called exactly once, on any thread, perhaps before this returns; it must not block. A lost device completes what
  // is under way with kUnavailable: the effect is unknown.
  virtual void Submit(Request request, Done done) = 0;
  // Waits for the completion. kDeadlineExceeded after `timeout`: the request may still run.
  virtual Completion Call(Request request, std::chrono::milliseconds timeout = std::chrono::seconds(60));
};

// Requests under way and completions to be taken, for one user. Self-synchronised..
class Queue {
 public:
  explicit Queue(Device& device) : device_(device), state_(std::make_shared<State>()) {}
  void Submit(Request request);
  // The next completion, in the order in which they came; nullopt: none yet.
  std::optional<Completion> Poll();
  // As Poll, but waits. nullopt: none within `most`.
  std::optional<Completion> Wait(std::chrono::milliseconds most);
  std::size_t under_way() const;

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable changed;
    std::deque<Completion> completions;
    std::size_t under_way = 0;
  };
  Device& device_;
  const std::shared_ptr<State> state_;
};

}  // namespace godwit::device
