#include "runtime/trap.h"

#include <csignal>
#include <cstdlib>
#include <mutex>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/check.h"
#include "runtime/fiber.h"
#include "runtime/image.h"
#include "runtime/memory.h"

namespace godwit::runtime {
namespace {

constexpr int kSignals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr std::size_t kSignalStackBytes = 64 * 1024;

struct sigaction g_previous[NSIG];

std::atomic<bool (*)(std::uintptr_t)> g_interceptor{nullptr};

thread_local RunningGuest* t_guest = nullptr;

// This thread's signal stack. What was installed before comes back when the thread ends, since others
// (sanitizers) free whatever they find installed then.
class SignalStack {
 public:
  SignalStack() {
    void* memory = mmap(nullptr, kSignalStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    GODWIT_CHECK(memory != MAP_FAILED, "no memory for a signal stack");
    stack_ = stack_t{.ss_sp = memory, .ss_flags = 0, .ss_size = kSignalStackBytes};
    GODWIT_CHECK(sigaltstack(&stack_, &previous_) == 0, "sigaltstack failed");
  }
  ~SignalStack() {
    sigaltstack(&previous_, nullptr);
    munmap(stack_.ss_sp, stack_.ss_size);
  }
  void Touch() {}

 private:
  stack_t stack_{}, previous_{};
};

std::uintptr_t ProgramCounter(const ucontext_t* context) {
#if defined(__x86_64__)
  return static_cast<std::uintptr_t>(context->uc_mcontext.gregs[REG_RIP]);
#elif defined(__aarch64__)
  return context->uc_mcontext.pc;
#endif
}

[[noreturn]] void LeaveFiber(Fiber* fiber) { fiber->Leave(); }

// Makes the interrupted thread go on in LeaveFiber(fiber). The frames of the fiber are dead by now, so the
// top of its own stack serves, which also holds when the bottom is exhausted.
void ContinueInLeave(ucontext_t* context, Fiber* fiber) {
  fiber->stack().ForgetFrames();
  const auto top = reinterpret_cast<std::uintptr_t>(fiber->stack().top()) & ~std::uintptr_t{63};
#if defined(__x86_64__)
  context->uc_mcontext.gregs[REG_RIP] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(&LeaveFiber));
  context->uc_mcontext.gregs[REG_RSP] = static_cast<greg_t>(top - 64 - 8);  // As after a call.
  context->uc_mcontext.gregs[REG_RBP] = 0;
  context->uc_mcontext.gregs[REG_RDI] = static_cast<greg_t>(reinterpret_cast<std::uintptr_t>(fiber));
  context->uc_mcontext.gregs[REG_EFL] &= ~0x400;  // Direction flag, which the ABI wants clear.
#elif defined(__aarch64__)
  context->uc_mcontext.pc = reinterpret_cast<std::uintptr_t>(&LeaveFiber);
  context->uc_mcontext.sp = top - 64;
  context->uc_mcontext.regs[0] = reinterpret_cast<std::uintptr_t>(fiber);
  context->uc_mcontext.regs[29] = 0;
  context->uc_mcontext.regs[30] = 0;
#endif
}

// Whether the fault was the guest's; if so it has been dealt with.
bool HandleGuestFault(int signal, const siginfo_t* info, ucontext_t* context) {
  RunningGuest* guest = t_guest;
  if (guest == nullptr) return false;
  const std::uintptr_t pc = ProgramCounter(context);
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  bool in_guest_code = false, in_memory = false;
  for (const GuestPart& part : guest->parts) {
    in_guest_code |= part.image->InText(pc);
    in_memory |= part.memory->InReservation(address);
  }
  const bool memory_fault = signal == SIGSEGV || signal == SIGBUS;
  if (!in_guest_code) {
    if (!memory_fault || !guest->fiber->stack().OpenReserve(address)) return false;
    guest->overflowed = true;
    for (const GuestPart& part : guest->parts) part.state->fetch_or(abi::kSlow);
    return true;
  }
  if (memory_fault) {
    if (in_memory) {
      guest->code = abi::TrapCode::kMemoryOutOfBounds;
    } else if (guest->fiber->stack().InGuard(address) ||
               (address >= guest->capture_guard && address < guest->capture_guard_end)) {
      guest->code = abi::TrapCode::kStackOverflow;
    } else {
      return false;
    }
  } else if (signal == SIGFPE) {
    guest->code = abi::TrapCode::kIntegerDivideByZero;
  } else {
    guest->code = abi::TrapCode::kHostFailure;
    guest->illegal_instruction = true;
  }
  guest->pc = pc;
  ContinueInLeave(context, guest->fiber);
  return true;
}

void Handle(int signal, siginfo_t* info, void* context) {
  const auto interceptor = g_interceptor.load();
  if (signal == SIGSEGV && interceptor != nullptr && interceptor(reinterpret_cast<std::uintptr_t>(info->si_addr))) return;
  if (HandleGuestFault(signal, info, static_cast<ucontext_t*>(context))) return;
  const struct sigaction& previous = g_previous[signal];
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else {
    // Returning faults again, now with the default action: a core dump at the right place.
    struct sigaction action {};
    action.sa_handler = SIG_DFL;
    sigaction(signal, &action, nullptr);
  }
}

}  // namespace

void PrepareThreadForGuests() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (int signal : kSignals) {
      struct sigaction action {};
      action.sa_sigaction = &Handle;
      action.sa_flags = SA_SIGINFO | SA_ONSTACK;
      sigemptyset(&action.sa_mask);
      GODWIT_CHECK(sigaction(signal, &action, &g_previous[signal]) == 0, "sigaction failed");
    }
  });
  thread_local SignalStack stack;
  stack.Touch();
}

void InterceptFaults(bool (*handler)(std::uintptr_t)) { g_interceptor.store(handler); }
bool FaultsAreIntercepted() { return g_interceptor.load() != nullptr; }

GuestScope::GuestScope(RunningGuest* guest) : outer_(t_guest) { t_guest = guest; }
GuestScope::~GuestScope() { t_guest = outer_; }

std::string_view TrapCodeText(abi::TrapCode code) {
  switch (code) {
    case abi::TrapCode::kNone: return "no trap";
    case abi::TrapCode::kUnreachable: return "unreachable";
    case abi::TrapCode::kMemoryOutOfBounds: return "out of bounds memory access";
    case abi::TrapCode::kTableOutOfBounds: return "out of bounds table access";
    case abi::TrapCode::kIndirectCallToNull: return "uninitialized element";
    case abi::TrapCode::kIndirectCallTypeMismatch: return "indirect call type mismatch";
    case abi::TrapCode::kIntegerOverflow: return "integer overflow";
    case abi::TrapCode::kIntegerDivideByZero: return "integer divide by zero";
    case abi::TrapCode::kInvalidConversionToInteger: return "invalid conversion to integer";
    case abi::TrapCode::kStackOverflow: return "call stack exhausted";
    case abi::TrapCode::kCancelled: return "cancelled";
    case abi::TrapCode::kMemoryLimit: return "memory limit";
    case abi::TrapCode::kHostFailure: return "host failure";
    case abi::TrapCode::kUndefinedElement: return "undefined element";
    case abi::TrapCode::kUncaughtException: return "uncaught exception";
  }
  return "unknown trap";
}

}  // namespace godwit::runtime
