// Faults of guest code become traps: a process-wide handler for SIGSEGV, SIGBUS, SIGFPE and SIGILL that ends
// the guest call that runs on the faulting thread, and passes every other fault on to who was there before.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "package/native_abi.h"

namespace godwit::runtime {

class Fiber;
class Image;
class LinearMemory;

// An instance whose code a guest call may run.
struct GuestPart {
  const Image* image;
  const LinearMemory* memory;
  std::atomic<std::uint32_t>* state;  // Context::state.
};

// The guest call that runs on this thread: what the handler compares a fault with, and where it reports.
struct RunningGuest {
  Fiber* fiber;
  std::span<const GuestPart> parts;                 // All that are linked with the instance that was called.
  std::uintptr_t capture_guard, capture_guard_end;  // Behind the capture buffer.

  // Set by the handler. With `code` set the fiber has left; with `overflowed` a host function ran out of
  // stack: it goes on, and the next poll must trap (kSlow is set so that it comes there).
  abi::TrapCode code = abi::TrapCode::kNone;
  std::uintptr_t pc = 0;
  bool illegal_instruction = false;
  bool overflowed = false;
};

// Installs the handler (once per process) and this thread's signal stack (once per thread).
void PrepareThreadForGuests();

// `handler` is asked first about every access that the memory's protection refused, in the signal handler, on the
// thread that made it. True: it has made the access possible, which is then made again. For the process, for good.
void InterceptFaults(bool (*handler)(std::uintptr_t address));
// Whether there is one: then system calls that write to guest memory may fail with EFAULT, and must write elsewhere.
bool FaultsAreIntercepted();

// While it lives, faults on this thread are checked against `guest`. Nests.
class GuestScope {
 public:
  explicit GuestScope(RunningGuest* guest);
  ~GuestScope();
  GuestScope(const GuestScope&) = delete;
  GuestScope& operator=(const GuestScope&) = delete;

 private:
  RunningGuest* outer_;
};

// In the words of the Wasm specification's tests, for example "integer divide by zero".
std::string_view TrapCodeText(abi::TrapCode code);

}  // namespace godwit::runtime
