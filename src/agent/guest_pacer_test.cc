#include "agent/guest_pacer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;

// Half a core, all of whose use is the guests', as they say themselves.
struct Processor {
  std::atomic<int> looks{0};
  std::atomic<std::int64_t> used_us{0};
  std::atomic<double> limit = 0.5;  // 0: none.
  device::ProcessorUse Use() {
    ++looks;
    return {limit == 0 ? std::nullopt : std::optional<double>(limit), std::chrono::microseconds(used_us.load())};
  }
};

TEST(GuestPacerTest, GuestsArePacedWhereThereIsALimitAndTheirOwnUseIsNoneOfTheOthers) {
  Processor limited, free;
  free.limit = 0;
  device::Foreground foreground(0us, [&] { return limited.Use(); }), unlimited(0us, [&] { return free.Use(); });
  std::atomic<int> without_limit{0};
  std::atomic<double> share{1};
  {
    GuestPacer none(unlimited, [&](double, device::Foreground::Clock::duration) {
      ++without_limit;
      return InstanceHost::Computed{};
    });
    GuestPacer pacer(foreground, [&](double now, device::Foreground::Clock::duration credit) {
      EXPECT_EQ(credit, device::Foreground::kPeriod) << "nobody reads";
      share = now;
      limited.used_us += 500;
      return InstanceHost::Computed{500us, 1};
    });
    const auto give_up = std::chrono::steady_clock::now() + 20s;
    while (limited.looks < 8 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  }
  EXPECT_GE(limited.looks, 8);
  EXPECT_NEAR(share, 0.5 * 0.95, 0.02) << "what guests use is not what is left to the others";
  EXPECT_EQ(without_limit, 0);
}

TEST(GuestPacerTest, ALimitThatComesLaterIsSeen) {
  Processor processor;
  processor.limit = 0;
  device::Foreground foreground(0us, [&] { return processor.Use(); });
  std::atomic<int> paced{0};
  GuestPacer pacer(foreground, [&](double, device::Foreground::Clock::duration) {
    ++paced;
    return InstanceHost::Computed{};
  });
  const auto give_up = std::chrono::steady_clock::now() + 20s;
  while (processor.looks < 2 && std::chrono::steady_clock::now() < give_up) std::this_thread::sleep_for(1ms);
  EXPECT_EQ(paced, 0);
  processor.limit = 0.5;
  while (paced == 0 && std::chrono::steady_clock::now() < give_up) std::this_thread::sleep_for(1ms);
  EXPECT_GT(paced, 0);
}

}  // namespace
}  // namespace godwit::agent
