#include "transport/event_loop.h"

#include <pthread.h>

#include <future>
#include <thread>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>

#include "base/check.h"

namespace godwit::transport {

namespace asio = boost::asio;

struct EventLoop::Impl {
  asio::io_context context{1};
  asio::executor_work_guard<asio::io_context::executor_type> work = asio::make_work_guard(context);
  std::thread thread;
};

struct Timer::State {
  explicit State(asio::io_context& context) : timer(context) {}
  asio::steady_timer timer;
  std::function<void()> work;
};

Timer::Timer(Timer&&) noexcept = default;

Timer& Timer::operator=(Timer&& other) noexcept {
  if (this != &other) {
    Cancel();
    state_ = std::move(other.state_);
  }
  return *this;
}

Timer::~Timer() { Cancel(); }

void Timer::Cancel() {
  if (!state_) return;
  // The completion may already be queued: without `work` it does nothing.
  auto work = std::move(state_->work);
  state_->work = nullptr;
  state_->timer.cancel();
  state_.reset();
}

EventLoop::EventLoop(const std::string& name) : impl_(std::make_unique<Impl>()) {
  impl_->thread = std::thread([context = &impl_->context] { context->run(); });
  pthread_setname_np(impl_->thread.native_handle(), name.substr(0, 15).c_str());
}

EventLoop::~EventLoop() {
  GODWIT_CHECK(!OnLoop(), "an event loop cannot be destroyed on its own thread");
  impl_->context.stop();
  impl_->thread.join();
}

void EventLoop::Post(std::function<void()> work) { asio::post(impl_->context, std::move(work)); }

void EventLoop::Run(const std::function<void()>& work) {
  if (OnLoop()) return work();
  std::promise<void> ran;
  Post([&] {
    work();
    ran.set_value();
  });
  ran.get_future().wait();
}

Timer EventLoop::After(std::chrono::milliseconds delay, std::function<void()> work) {
  Timer timer;
  timer.state_ = std::make_shared<Timer::State>(impl_->context);
  timer.state_->work = std::move(work);
  timer.state_->timer.expires_after(delay);
  timer.state_->timer.async_wait([state = timer.state_](boost::system::error_code) {
    if (!state->work) return;
    auto run = std::move(state->work);
    state->work = nullptr;
    run();
  });
  return timer;
}

bool EventLoop::OnLoop() const { return std::this_thread::get_id() == impl_->thread.get_id(); }

asio::io_context& EventLoop::context() { return impl_->context; }

}  // namespace godwit::transport
