#include "agent/guest_pacer.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
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
  std::promise<void> looked_twice, paced;
  device::Foreground foreground(0us, [&] {
    const device::ProcessorUse use = processor.Use();
    if (processor.looks == 2) looked_twice.set_value();
    return use;
  });
  std::atomic<int> times{0};
  GuestPacer pacer(foreground, [&](double, device::Foreground::Clock::duration) {
    if (++times == 1) paced.set_value();
    return InstanceHost::Computed{};
  });
  ASSERT_EQ(looked_twice.get_future().wait_for(20s), std::future_status::ready);
  EXPECT_EQ(times, 0) << "there is no limit yet";
  processor.limit = 0.5;
  EXPECT_EQ(paced.get_future().wait_for(20s), std::future_status::ready);
}

}  // namespace
}  // namespace godwit::agent
