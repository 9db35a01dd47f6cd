// Fibers: stacks of their own for guest code, and the switch to them and back.
//
// A fiber is entered and left only between the owner and itself. One that trapped is never entered again and
// never unwound: its stack is simply reused, so nothing on it may need a destructor.
//
// A stack has two guards. The outer one (kGuardBytes) tells guest code that its stack is exhausted. A host
// function or builtin that runs into it cannot be cut short, since it may hold a lock: the outer guard is
// then opened as a reserve for it, and the guest traps when the host function has returned. The inner guard
// behind it is never opened.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::runtime {

inline constexpr ByteCount kGuardBytes = 1_MiB;
inline constexpr ByteCount kInnerGuardBytes = 64_KiB;
// Stacks of ended fibers kept for the next ones, per process.
inline constexpr std::size_t kPooledStacksMax = 16;

class GuardedStack {
 public:
  GuardedStack() = default;
  // `size` is rounded up to pages; kResourceExhausted or kInternal if the system has no memory. Any thread.
  static Result<GuardedStack> Acquire(ByteCount size);
  GuardedStack(GuardedStack&& other) noexcept { *this = static_cast<GuardedStack&&>(other); }
  GuardedStack& operator=(GuardedStack&& other) noexcept;
  ~GuardedStack();

  explicit operator bool() const { return mapping_ != nullptr; }
  std::uint8_t* top() const { return mapping_ + mapped_; }  // Highest address; the stack grows down from it.
  std::uint8_t* bottom() const { return mapping_ + kInnerGuardBytes.value + kGuardBytes.value; }
  std::uint64_t size() const { return mapped_ - kInnerGuardBytes.value - kGuardBytes.value; }
  bool Contains(std::uintptr_t address) const;
  bool InGuard(std::uintptr_t address) const;  // Either guard.
  // Makes the outer guard accessible; false if it was already, or `address` is not in it. Async-signal-safe.
  bool OpenReserve(std::uintptr_t address);
  // Its frames are dead: AddressSanitizer forgets them. Async-signal-safe.
  void ForgetFrames();

 private:
  std::uint8_t* mapping_ = nullptr;
  std::uint64_t mapped_ = 0;
  bool reserve_open_ = false;
};

class Fiber {
 public:
  // `entry(argument)` runs at the first Enter and must not return: it ends with Leave.
  using EntryFunction = void (*)(void* argument);
  Fiber(GuardedStack stack, EntryFunction entry, void* argument);
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;
  ~Fiber();

  // Owner: runs the fiber until it calls Suspend or Leave.
  void Enter();
  // On the fiber: back to the owner, until the next Enter.
  void Suspend();
  // On the fiber, or on any stack after a fault in it: back to the owner for good.
  [[noreturn]] void Leave();

  GuardedStack& stack() { return stack_; }

 private:
  static void Main(void* transfer_context, void* transfer_data);
  friend struct FiberEntry;

  GuardedStack stack_;
  EntryFunction entry_;
  void* argument_;
  void* inside_ = nullptr;  // Where Enter goes.
  void* owner_ = nullptr;   // Where Suspend and Leave go.
  // AddressSanitizer's view of the two stacks.
  void* owner_shadow_ = nullptr;
  void* inside_shadow_ = nullptr;
  const void* owner_bottom_ = nullptr;
  std::size_t owner_size_ = 0;
};

}  // namespace godwit::runtime
