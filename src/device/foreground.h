// Foreground: the device's own reads and writes, how long they take, and what that leaves to offloaded work.
//
// Offloaded work runs on threads that get the processor only while nobody else wants it. What that does not protect from - memory bandwidth,
// caches, the disk - shows as latency: where the 99th percentile of the last second is above its bound, work gets a smaller
// share of its time, and rests for the remainder; where it is not, a little more again (additive increase, multiplicative decrease, after
// Chiu and Jain, 1989). A device that is above the bound at the smallest share pushes new work back.
//
// Where a cgroup limits the processor time of this process, to go behind the others protects them only until the period's time is used up: then all
// of its threads stand still until the next period. So work leaves to the others what they use, also while there are no reads and writes: the first
// one would find the period used up. So do guests of services, which go before work.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "device/processor.h"

namespace godwit::device {

// Self-synchronised.
class Foreground {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr double kShareLeast = 0.05, kGuestsLeast = 0.25;  // Of its time, or of the limit where that is less than a core.
  static constexpr std::chrono::milliseconds kWindow{1000};  // Of what the 99th percentile is.
  static constexpr std::chrono::milliseconds kPeriod{100};   // Of limits on processor time, unless somebody chose another (sched-bwc in the kernel's documentation).
  static constexpr std::chrono::milliseconds kCredit{5};     // For how much of the past it is made good that something ran less than its share.
  static constexpr std::size_t kRemembered = 4096;  // Operations at most, of the last second.

  // `bound`: of the 99th percentile; 0: none. `processor` is asked at most every 50 ms.
  explicit Foreground(std::chrono::microseconds bound = std::chrono::microseconds(0), std::function<ProcessorUse()> processor = [] { return UseOfProcessor(); })
      : bound_(bound), processor_(std::move(processor)) {}

  // An operation of the device's own ended, and took so long.
  void Note(Clock::duration took, Clock::time_point now = Clock::now());

  // Is there a limit on processor time now?
  bool limited(Clock::time_point now = Clock::now()) {
    LookAtProcessor(now);
    return limit_ != kUnlimited;
  }
  // Of its time that a guest may compute, up to 1.
  double share_of_guests() const { return ByLimit(left_to_guests_, guests_, kGuestsLeast); }
  // So many compute now, and guests have had so much more of the processor.
  void GuestsRan(std::chrono::nanoseconds used, std::size_t running, Clock::time_point now = Clock::now());

  // A piece of offloaded work begins, has had so much more of the processor, and ends.
  void WorkBegins(Clock::time_point now = Clock::now()) {
    ++working_;
    LookAtProcessor(now);
  }
  // Waits for nobody, and nobody for it: who works is of idle class.
  void Worked(std::chrono::nanoseconds used, Clock::time_point now = Clock::now()) {
    worked_ns_ += used.count();
    LookAtProcessor(now);
  }
  void WorkEnds() { --working_; }

  // Of its time that a piece of offloaded work may run, up to 1.
  double share(Clock::time_point now = Clock::now()) const;
  // kCredit; where nobody reads, a whole period, so that brief work has what a limit gives at once.
  Clock::duration credit(Clock::time_point now = Clock::now()) const { return SinceLast(now) <= kPeriod ? kCredit : kPeriod; }
  // No more work: the bound does not hold although the share is the smallest.
  bool full(Clock::time_point now = Clock::now()) const { return over_.load() && SinceLast(now) <= kWindow && share_ <= kShareLeast; }

  struct Figures {
    double per_second = 0, p50_us = 0, p99_us = 0;  // Of the last second; 0 where there was nothing.
    double share = 1;
    std::uint64_t count = 0;                        // Since the start.
    double sum_us = 0;
  };
  Figures figures(Clock::time_point now = Clock::now());

 private:
  struct Ended {
    Clock::time_point at;
    double us;
  };
  // Those of the last second.
  std::vector<double> Recent(Clock::time_point now) const;
  Clock::duration SinceLast(Clock::time_point now) const { return now - Clock::time_point(Clock::duration(last_.load(std::memory_order_relaxed))); }
  static constexpr double kUnlimited = 1e9;

  // Of one, where so many cores are left to so many.
  double ByLimit(double left, std::size_t among, double least) const;
  // Of several that look at once, one does.
  void LookAtProcessor(Clock::time_point now);

  const std::chrono::microseconds bound_;
  const std::function<ProcessorUse()> processor_;
  mutable std::mutex mutex_;
  std::vector<Ended> ring_;
  std::size_t next_ = 0;
  std::uint64_t count_ = 0;
  double sum_us_ = 0;
  Clock::time_point looked_{};
  std::atomic<int> working_{0};
  std::atomic<std::size_t> guests_{0};  // That compute.
  std::atomic<std::int64_t> worked_ns_{0}, guests_ns_{0};
  std::atomic_flag looking_;  // For these: when it was looked at the processor last, what the process had used then, and how much of that was work's and guests'.
  Clock::time_point processor_looked_{};
  std::chrono::nanoseconds used_{0}, worked_before_{0}, guests_before_{0};
  double others_ = 0, agent_ = 0;  // Cores that all but work uses, and of those all but guests.
  std::atomic<double> share_{1};   // By the bound.
  std::atomic<double> limit_{kUnlimited}, left_{kUnlimited}, left_to_guests_{kUnlimited};  // Cores: of the process, and what of them the others leave.
  std::atomic<bool> over_{false};
  std::atomic<Clock::rep> last_{0};
};

// What one thread of offloaded work has had above its share, piece after piece: it owes that as rest. One thread at a time.
class Debt {
 public:
  using Clock = Foreground::Clock;
  static constexpr std::chrono::microseconds kLeast{1000}, kMost{50'000};  // Of one rest.

  // It ran for so long until `now`. Processor time of a share s is paid for by 1/s as much of the clock's.
  void Ran(std::chrono::nanoseconds time, double share, Clock::duration credit, Clock::time_point now) {
    paid_until_ = std::max(paid_until_, now - credit) + std::chrono::duration_cast<Clock::duration>(time / share);
    if (share == 1) paid_until_ = std::min(paid_until_, now);
  }
  // How long to rest now; 0: not worth it yet.
  std::chrono::microseconds Owed(Clock::time_point now) const {
    const auto owed = std::chrono::duration_cast<std::chrono::microseconds>(paid_until_ - now);
    return owed < kLeast ? std::chrono::microseconds(0) : std::min(owed, kMost);
  }

 private:
  Clock::time_point paid_until_{};
};

// A thread that runs only while no other wants the processor, and so do those that it makes (SCHED_IDLE; where that cannot be, it is a thread as
// any other). It should hold no lock that others wait for: it may be kept from letting go of it. One user.
class YieldingThread {
 public:
  YieldingThread();
  ~YieldingThread();
  // Runs `work` there, and returns when it has ended.
  void Run(const std::function<void()>& work);

 private:
  void Main();

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* work_ = nullptr;
  bool ending_ = false;
  std::thread thread_;
};

}  // namespace godwit::device
