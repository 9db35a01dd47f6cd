#include "agent/warm_thread.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

namespace godwit::agent {
namespace {

TEST(WarmThreadTest, RunsItsWorkWhetherItWaitedOrNot) {
  std::atomic<int> ran{0};
  WarmThread::Prepare(2);
  {
    std::vector<std::unique_ptr<WarmThread>> threads;
    for (int i = 0; i < 5; ++i) threads.push_back(WarmThread::Run([&] { ++ran; }));
  }
  EXPECT_EQ(ran, 5) << "the destructor waits";
}

TEST(WarmThreadTest, PreparesNoMoreThanItsLimit) {
  WarmThread::Prepare(kWarmThreadsMax + 1000);
  std::atomic<int> ran{0};
  std::vector<std::unique_ptr<WarmThread>> threads;
  for (std::size_t i = 0; i < kWarmThreadsMax + 1; ++i) threads.push_back(WarmThread::Run([&] { ++ran; }));
  threads.clear();
  EXPECT_EQ(ran, static_cast<int>(kWarmThreadsMax) + 1);
}

}  // namespace
}  // namespace godwit::agent
