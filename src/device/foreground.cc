#include "device/foreground.h"

#include <sched.h>

#include <algorithm>

namespace godwit::device {
namespace {

using namespace std::chrono_literals;

constexpr auto kLookEvery = 50ms;
constexpr std::size_t kEnough = 20;  // Operations whose 99th percentile says something.
constexpr double kLess = 0.6, kMore = 0.05;
// Of a limit on processor time: what stays free, and what the others may want more of than before.
constexpr double kFree = 0.05, kMoreOfOthers = 1.25;

double At(std::vector<double>& values, std::size_t hundredths) {
  const auto nth = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) * hundredths / 100);
  std::nth_element(values.begin(), nth, values.end());
  return *nth;
}

}  // namespace

std::vector<double> Foreground::Recent(Clock::time_point now) const {
  std::vector<double> recent;
  for (const Ended& one : ring_) {
    if (now - one.at < kWindow) recent.push_back(one.us);
  }
  return recent;
}

void Foreground::Note(Clock::duration took, Clock::time_point now) {
  const double us = std::chrono::duration<double, std::micro>(took).count();
  const std::lock_guard lock(mutex_);
  if (ring_.size() < kRemembered) ring_.push_back({now, us});
  else ring_[next_] = {now, us};
  next_ = (next_ + 1) % kRemembered;
  ++count_;
  sum_us_ += us;
  last_ = now.time_since_epoch().count();
  LookAtProcessor(now);
  if (bound_ == 0us || now - looked_ < kLookEvery) return;
  looked_ = now;
  std::vector<double> recent = Recent(now);
  over_ = recent.size() >= kEnough && At(recent, 99) > static_cast<double>(bound_.count());
  share_ = over_ ? std::max(kShareLeast, share_ * kLess) : std::min(1.0, share_ + kMore);
}

void Foreground::LookAtProcessor(Clock::time_point now) {
  if (looking_.test_and_set(std::memory_order_acquire)) return;
  if (now - processor_looked_ >= kLookEvery) {
    const ProcessorUse use = processor_();
    const std::chrono::nanoseconds worked(worked_ns_.load()), guests(guests_ns_.load());
    const std::chrono::duration<double> passed = now - processor_looked_, others = (use.used - used_) - (worked - worked_before_);
    const auto learn = [&](double known, std::chrono::duration<double> used) {
      return passed > kWindow ? 0 : (known + std::max(0.0, used / passed)) / 2;  // What was used long ago says nothing of now.
    };
    others_ = learn(others_, others);
    agent_ = learn(agent_, others - (guests - guests_before_));
    processor_looked_ = now;
    used_ = use.used;
    worked_before_ = worked;
    guests_before_ = guests;
    limit_ = use.limit.value_or(kUnlimited);
    left_ = limit_ * (1 - kFree) - others_ * kMoreOfOthers;
    left_to_guests_ = limit_ * (1 - kFree) - agent_;
  }
  looking_.clear(std::memory_order_release);
}

double Foreground::share(Clock::time_point now) const {
  return std::min(SinceLast(now) <= kWindow ? share_.load() : 1, ByLimit(left_, static_cast<std::size_t>(working_.load()), kShareLeast));
}

void Foreground::GuestsRan(std::chrono::nanoseconds used, std::size_t running, Clock::time_point now) {
  guests_ns_ += used.count();
  guests_ = running;
  LookAtProcessor(now);
}

double Foreground::ByLimit(double left, std::size_t among, double least) const {
  return std::clamp(left / static_cast<double>(std::max<std::size_t>(1, among)), least * std::min(1.0, limit_.load()), 1.0);
}

Foreground::Figures Foreground::figures(Clock::time_point now) {
  LookAtProcessor(now);
  const std::lock_guard lock(mutex_);
  Figures figures{.share = share(now), .count = count_, .sum_us = sum_us_};
  std::vector<double> recent = Recent(now);
  if (recent.empty()) return figures;
  // Where not all of the second is remembered, the time that is.
  const Ended& oldest = ring_[ring_.size() < kRemembered ? 0 : next_];
  const double seconds = recent.size() < kRemembered ? 1 : std::max(1e-6, std::chrono::duration<double>(now - oldest.at).count());
  figures.per_second = static_cast<double>(recent.size()) / seconds;
  figures.p50_us = At(recent, 50);
  figures.p99_us = At(recent, 99);
  return figures;
}

YieldingThread::YieldingThread() : thread_([this] { Main(); }) {}

YieldingThread::~YieldingThread() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void YieldingThread::Run(const std::function<void()>& work) {
  std::unique_lock lock(mutex_);
  work_ = &work;
  changed_.notify_all();
  changed_.wait(lock, [this] { return work_ == nullptr; });
}

void YieldingThread::Main() {
  const sched_param none{};
  static_cast<void>(sched_setscheduler(0, SCHED_IDLE, &none));
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return ending_ || work_ != nullptr; });
    if (ending_) return;
    const auto* work = work_;
    lock.unlock();
    (*work)();
    lock.lock();
    work_ = nullptr;
    changed_.notify_all();
  }
}

}  // namespace godwit::device
