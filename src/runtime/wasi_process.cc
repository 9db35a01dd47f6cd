// Arguments, environment, clocks, waiting, randomness and exit.
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <ctime>
#include <limits>

#include "runtime/into_guest.h"
#include "runtime/wasi_calls.h"

namespace godwit::runtime::wasi {
namespace {

using u32 = std::uint32_t;
using u64 = std::uint64_t;

// "Later than anything": about 146 years; larger timeouts are waits without end.
constexpr u64 kForeverNs = 1ull << 62;

u64 SaturatingAdd(u64 a, u64 b) { return a > std::numeric_limits<u64>::max() - b ? ~0ull : a + b; }

// Writes pointers to, and NUL-terminated copies of, what `text(i)` gives.
template <typename Text>
Errno PutStrings(const GuestMemory& memory, u32 pointers, u32 buffer, std::size_t count, const Text& text) {
  u64 bytes = 0;
  for (std::size_t i = 0; i < count; ++i) bytes += text(i).size() + 1;
  std::uint8_t* pointer = memory.Range(pointers, count * 4);
  std::uint8_t* to = memory.Range(buffer, bytes);
  if (pointer == nullptr || to == nullptr) return Errno::kFault;
  u32 address = buffer;
  for (std::size_t i = 0; i < count; ++i, pointer += 4) {
    const std::string item = text(i);
    Put<u32>(pointer, address);
    std::memcpy(to, item.c_str(), item.size() + 1);
    to += item.size() + 1;
    address += static_cast<u32>(item.size() + 1);
  }
  return Errno::kSuccess;
}

template <typename Text>
Errno PutSizes(const GuestMemory& memory, u32 count_at, u32 bytes_at, std::size_t count, const Text& text) {
  std::uint8_t *count_out = memory.Range(count_at, 4), *bytes_out = memory.Range(bytes_at, 4);
  if (count_out == nullptr || bytes_out == nullptr) return Errno::kFault;
  u64 bytes = 0;
  for (std::size_t i = 0; i < count; ++i) bytes += text(i).size() + 1;
  Put<u32>(count_out, static_cast<u32>(count));
  Put<u32>(bytes_out, static_cast<u32>(bytes));
  return Errno::kSuccess;
}

struct Event {
  u64 userdata;
  Errno error;
  std::uint8_t type;
  u64 bytes;
  std::uint16_t flags;

  void PutAt(std::uint8_t* to) const {
    std::memset(to, 0, kEventBytes);
    Put<u64>(to, userdata);
    Put<std::uint16_t>(to + 8, static_cast<std::uint16_t>(error));
    to[10] = type;
    Put<u64>(to + 16, bytes);
    Put<std::uint16_t>(to + 24, flags);
  }
};

}  // namespace

Errno Calls::args_get(GuestCall& call, u32 argv, u32 buffer) {
  return PutStrings(call.memory(), argv, buffer, state_.args.size(), [&](std::size_t i) { return state_.args[i]; });
}

Errno Calls::args_sizes_get(GuestCall& call, u32 count, u32 bytes) {
  return PutSizes(call.memory(), count, bytes, state_.args.size(), [&](std::size_t i) { return state_.args[i]; });
}

Errno Calls::environ_get(GuestCall& call, u32 environment, u32 buffer) {
  return PutStrings(call.memory(), environment, buffer, state_.env.size(),
                    [&](std::size_t i) { return state_.env[i].first + "=" + state_.env[i].second; });
}

Errno Calls::environ_sizes_get(GuestCall& call, u32 count, u32 bytes) {
  return PutSizes(call.memory(), count, bytes, state_.env.size(),
                  [&](std::size_t i) { return state_.env[i].first + "=" + state_.env[i].second; });
}

Errno Calls::clock_res_get(GuestCall& call, u32 clock, u32 result) {
  if (clock > kClockThreadCpu) return Errno::kInval;
  std::uint8_t* out = call.memory().Range(result, 8);
  if (out == nullptr) return Errno::kFault;
  Put<u64>(out, 1);
  return Errno::kSuccess;
}

// The CPU clocks are both that of the process that runs the instance: its thread is not the instance's own.
Errno Calls::clock_time_get(GuestCall& call, u32 clock, u64, u32 result) {
  if (clock > kClockThreadCpu) return Errno::kInval;
  std::uint8_t* out = call.memory().Range(result, 8);
  if (out == nullptr) return Errno::kFault;
  const HostClock& host = *options_.clock;
  switch (clock) {
    case kClockRealtime: Put<u64>(out, host.Realtime()); break;
    case kClockMonotonic: Put<u64>(out, state_.monotonic.At(host.Monotonic())); break;
    default: Put<u64>(out, state_.cpu.At(host.Cpu())); break;
  }
  return Errno::kSuccess;
}

Errno Calls::random_get(GuestCall& call, u32 buffer, u32 bytes) {
  std::uint8_t* to = call.memory().Range(buffer, bytes);
  if (to == nullptr) return Errno::kFault;
  for (u32 done = 0; done < bytes;) {
    const ssize_t got = IntoGuest(std::span(to + done, bytes - done), [&] { return ::getrandom(to + done, bytes - done, 0); });
    if (got < 0) return FromHostErrno(errno);
    done += static_cast<u32>(got);
  }
  return Errno::kSuccess;
}

Errno Calls::sched_yield(GuestCall& call) {
  // A deadline that is now: the owner may run another task of this instance first.
  const auto now = std::chrono::nanoseconds(static_cast<std::int64_t>(options_.clock->Monotonic()));
  if (call.Block(Blocked{{}, std::chrono::steady_clock::time_point(now)}) == Instance::Wait::kInterrupted) call.Restart();
  return Errno::kSuccess;
}

void Calls::proc_exit(GuestCall& call, u32 code) { call.Exit(code); }

// There are no handlers in WASI, so a signal has its default action: to end the program (with the code that a
// shell would show), or nothing.
Errno Calls::proc_raise(GuestCall& call, u32 signal) {
  constexpr u32 kChild = 16, kContinue = 17, kStopFirst = 18, kStopLast = 21, kUrgent = 22,
                kWindow = 27, kLast = 30;
  if (signal > kLast) return Errno::kInval;
  if (signal == 0 || signal == kChild || signal == kContinue || signal == kUrgent || signal == kWindow) {
    return Errno::kSuccess;
  }
  if (signal >= kStopFirst && signal <= kStopLast) return Errno::kNotSup;
  call.Exit(128 + signal);
  __builtin_unreachable();  // GCC does not see that a virtual function never returns.
}

Errno Calls::poll_oneoff(GuestCall& call, u32 subscriptions, u32 events, u32 count, u32 result) {
  if (count == 0 || count > Wasi::kSubscriptionsMax) return Errno::kInval;
  const std::array<u32, 4> arguments{subscriptions, events, count, result};
  const HostClock& clock = *options_.clock;
  // Relative timeouts run from when the call was first made, on the guest's clock: so neither an interruption
  // nor a move makes a sleep longer.
  u64 begun = state_.monotonic.At(clock.Monotonic());
  if (const auto pending = TakePending(call.task(), kPendingPoll, arguments)) begun = pending->value;

  for (;;) {
    const GuestMemory memory = call.memory();
    const std::uint8_t* in = memory.Range(subscriptions, count * kSubscriptionBytes);
    std::uint8_t* to = memory.Range(events, count * kEventBytes);
    std::uint8_t* out = memory.Range(result, 4);
    if (in == nullptr || to == nullptr || out == nullptr) return Errno::kFault;
    const u64 host_now = clock.Monotonic();
    const u64 now = state_.monotonic.At(host_now), realtime = clock.Realtime();
    u64 wait = ~0ull;  // Until the first clock, in nanoseconds.
    u32 ready = 0;
    Blocked blocked;

    // Events may lie over the subscriptions, so those are all read before: first what is ready, then the events.
    std::vector<Event> happened;
    const auto add = [&](const Event& event) { happened.push_back(event); };
    for (u32 i = 0; i < count; ++i, in += kSubscriptionBytes) {
      u64 userdata;
      std::memcpy(&userdata, in, 8);
      const std::uint8_t type = in[8];
      if (type == kEventClock) {
        u32 id;
        u64 timeout;
        std::uint16_t flags;
        std::memcpy(&id, in + 16, 4);
        std::memcpy(&timeout, in + 24, 8);
        std::memcpy(&flags, in + 40, 2);
        if (id != kClockRealtime && id != kClockMonotonic) {
          add({userdata, id > kClockThreadCpu ? Errno::kInval : Errno::kNotSup, type, 0, 0});
          continue;
        }
        const bool absolute = flags & kClockAbsolute;
        const u64 deadline = absolute ? timeout : SaturatingAdd(begun, timeout);
        const u64 current = absolute && id == kClockRealtime ? realtime : now;
        if (current >= deadline) {
          add({userdata, Errno::kSuccess, type, 0, 0});
        } else {
          wait = std::min(wait, deadline - current);
        }
      } else if (type == kEventFdRead || type == kEventFdWrite) {
        u32 fd;
        std::memcpy(&fd, in + 16, 4);
        const bool reads = type == kEventFdRead;
        Descriptor* found;
        Errno error = Find(fd, right::kPollFdReadwrite | (reads ? right::kFdRead : right::kFdWrite), found);
        if (found != nullptr && found->is_directory()) error = Errno::kBadF;
        if (error != Errno::kSuccess) {
          add({userdata, error, type, 0, 0});
        } else if (found->kind == Kind::kListener) {
          pollfd waiting{options_.sockets->poll_fd(found->socket), POLLIN, 0};
          if (::poll(&waiting, 1, 0) > 0) {
            add({userdata, Errno::kSuccess, type, 1, 0});
          } else {
            blocked.fds.push_back(waiting);
          }
        } else if (!found->stream) {  // Files are always ready.
          struct stat status;
          const off_t at = ::lseek(found->host.get(), 0, SEEK_CUR);
          u64 bytes = 1;
          if (reads) {
            const bool known = at >= 0 && ::fstat(found->host.get(), &status) == 0;
            bytes = known && status.st_size > at ? static_cast<u64>(status.st_size - at) : 0;
          }
          add({userdata, Errno::kSuccess, type, bytes, 0});
        } else {
          const std::optional<std::size_t> bytes =
              reads ? found->stream->Readable()
                    : (found->stream->Writable() ? std::optional<std::size_t>(1) : std::nullopt);
          if (bytes) {
            add({userdata, Errno::kSuccess, type, *bytes, *bytes == 0 ? kEventHangup : std::uint16_t{0}});
          } else if (found->stream->poll_fd() >= 0) {
            const short wanted = reads ? POLLIN : POLLOUT;
            blocked.fds.push_back({found->stream->poll_fd(), wanted, 0});
          }
        }
      } else {
        return Errno::kInval;
      }
    }
    if (!happened.empty()) {
      for (const Event& event : happened) event.PutAt(to + ready++ * kEventBytes);
      Put<u32>(out, ready);
      return Errno::kSuccess;
    }
    if (wait < kForeverNs) {
      blocked.deadline = std::chrono::steady_clock::time_point(
          std::chrono::nanoseconds(static_cast<std::int64_t>(SaturatingAdd(host_now, wait))));
    }
    if (call.Block(std::move(blocked)) == Instance::Wait::kInterrupted) {
      return Interrupted(call, kPendingPoll, arguments, begun);
    }
  }
}

}  // namespace godwit::runtime::wasi
