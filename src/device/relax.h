// Waiting for another core without sleeping.
#pragma once

#include <chrono>
#include <thread>

namespace godwit::device {

// How long a side looks for more before it sleeps: about what a wake-up costs.
inline constexpr std::chrono::microseconds kSpin{50};

inline void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

}  // namespace godwit::device
