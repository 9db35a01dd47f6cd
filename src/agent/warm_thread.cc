#include "agent/warm_thread.h"

#include <algorithm>
#include <mutex>
#include <semaphore>
#include <thread>
#include <vector>

namespace godwit::agent {

struct WarmThread::State {
  std::counting_semaphore<2> go{0};
  std::function<void()> work;  // Set before `go`.
  std::thread thread{[this] {
    go.acquire();
    if (work) work();
  }};
};

namespace {

// Never destroyed: those that wait end with the process.
struct Waiting {
  std::mutex mutex;
  std::vector<std::unique_ptr<WarmThread>> threads;
};

Waiting& TheWaiting() {
  static auto* waiting = new Waiting;
  return *waiting;
}

}  // namespace

WarmThread::WarmThread(std::unique_ptr<State> state) : state_(std::move(state)) {}

WarmThread::~WarmThread() {
  state_->go.release();  // Where it was never given work.
  state_->thread.join();
}

std::unique_ptr<WarmThread> WarmThread::Run(std::function<void()> work) {
  std::unique_ptr<WarmThread> thread;
  {
    Waiting& waiting = TheWaiting();
    const std::lock_guard lock(waiting.mutex);
    if (!waiting.threads.empty()) {
      thread = std::move(waiting.threads.back());
      waiting.threads.pop_back();
    }
  }
  if (!thread) thread.reset(new WarmThread(std::make_unique<State>()));
  thread->state_->work = std::move(work);
  thread->state_->go.release();
  return thread;
}

void WarmThread::Prepare(std::size_t count) {
  Waiting& waiting = TheWaiting();
  const std::lock_guard lock(waiting.mutex);
  while (waiting.threads.size() < std::min(count, kWarmThreadsMax)) {
    waiting.threads.emplace_back(new WarmThread(std::make_unique<State>()));
  }
}

}  // namespace godwit::agent
