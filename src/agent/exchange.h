// Exchange: one request on its way through an instance - its body coming in, its response going out, and what must
// travel with it when the instance moves. Guarded by its host's mutex, but for `wake`.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "agent/environment.h"
#include "agent/event_fd.h"
#include "agent/request.h"
#include "runtime/instance.h"

namespace godwit::agent {

struct Exchange;

// A question to the environment that a guest waits for.
template <typename T>
struct Waiting {
  std::mutex mutex;
  std::optional<Result<T>> result;
  std::shared_ptr<Exchange> exchange;
  std::shared_ptr<Pending> pending;
};

struct Exchange;

// The next piece of an offload, asked for while the guest does something else. It does not travel: at another place it is asked for again.
struct PieceAhead {
  struct Answer {
    std::mutex mutex;
    std::optional<Result<device::Completion>> result;
    std::function<void(Result<device::Completion>)> then;  // Who waits for it.
    std::weak_ptr<Exchange> wake;  // Whose guest waits for whichever of several comes first.
  };
  std::shared_ptr<Answer> answer = std::make_shared<Answer>();
  std::shared_ptr<Pending> pending;  // Null once somebody waits.
  ~PieceAhead() {
    if (pending) pending->Cancel();
  }
};

// A function that runs over a dataset, and its output as far as the guest has not read it.
struct OffloadStream {
  model::DatasetName dataset;
  std::uint32_t function = 0;  // Of a built-in one; 0: the service's own, by its export's name.
  std::string export_name;
  Bytes arguments, state;
  std::uint64_t offset = 0, bytes = 0;
  std::string output;
  std::size_t read = 0;
  bool ended = false;  // No more output than this.
  std::int32_t failure = 0;  // Of the last piece, negative, until the guest has it. Asked for again, work goes on from `state`.
  std::shared_ptr<PieceAhead> ahead;  // From `state` on.
};

struct Exchange {
  NewRequest request;
  std::uint32_t handle = 0;
  std::shared_ptr<RequestSink> sink;  // Null while nobody is attached.

  enum class Phase { kWaiting, kRunning, kAnswered, kEnded };  // kAnswered: the guest is done, bytes may remain.
  Phase phase = Phase::kWaiting;
  bool carried = false;                  // Went into the last capture.
  std::uint64_t captured_received = 0;   // body_received then.

  // Body. body[body_read..] is received and not read by the guest.
  std::string body;
  std::size_t body_read = 0;
  std::uint64_t body_received = 0;
  std::uint64_t body_acknowledged = 0;
  bool body_ended = false;

  // Response. `out` begins at out_base; bytes before out_sent were given to the sink.
  bool head_committed = false, head_sent = false;
  std::uint16_t status = 200;
  std::vector<Header> headers;
  std::string out;
  std::uint64_t out_base = 0, out_sent = 0;
  bool out_ended = false, last_sent = false;
  std::string cgi_buffer;

  // The guest's side.
  runtime::TaskId task = 0;
  std::chrono::steady_clock::time_point leave_by{};  // Of one that ended while its guest ran: until then it may return by itself.
  std::uint64_t cpu_ns = 0;
  std::chrono::steady_clock::time_point opened = std::chrono::steady_clock::now();  // Here: when it came, with its request or its instance.
  std::chrono::steady_clock::time_point begin_by = std::chrono::steady_clock::time_point::max();  // Waits no longer for its turn.
  std::chrono::steady_clock::time_point begun{};
  std::chrono::steady_clock::time_point gathering{};  // When the first of the bytes not given to the sink was written.
  std::map<std::uint32_t, std::pair<CallAnswer, std::size_t>> answers;  // And how much of the body was read.
  std::shared_ptr<Waiting<CallAnswer>> call;
  std::int32_t finished_call = 0;  // Not 0: what a call that was interrupted has come to, for when it is made again.
  std::shared_ptr<Waiting<Bytes>> data;
  std::shared_ptr<Waiting<std::uint64_t>> size;
  std::map<std::uint32_t, OffloadStream> streams;
  std::shared_ptr<Waiting<device::Completion>> executing;
  std::shared_ptr<Waiting<ConnectionName>> connecting;
  std::shared_ptr<Waiting<KeptConnection::Received>> receiving;
  std::shared_ptr<Waiting<std::uint64_t>> sending;

  std::atomic<bool> wake{false};             // Something the guest may wait for has happened.
  std::shared_ptr<EventFd> worker;           // Of the thread that runs it.
  void Wake() {
    wake.store(true);
    if (worker) worker->Signal();
  }

  std::uint64_t body_consumed() const { return body_received - (body.size() - body_read); }
  std::uint64_t out_end() const { return out_base + out.size(); }
  bool open() const { return phase == Phase::kWaiting || phase == Phase::kRunning; }
  std::size_t room() const { return out.size() < kWindowBytes ? kWindowBytes - out.size() : 0; }

  // A copy of what travels: nothing of the guest's waits, no sink.
  std::shared_ptr<Exchange> Copy() const;
  // Takes body bytes at `offset`; what is known already is skipped. False: a gap, or more than the window.
  bool TakeBody(std::uint64_t offset, ByteView bytes, bool last);
  // Moves up to `bytes` of the body to `to`; tells the sink now and then.
  std::size_t ReadBody(std::uint8_t* to, std::size_t bytes);
  // Takes at most room() bytes of response; returns how many. Commits the head.
  std::size_t Write(std::string_view bytes);
  void Finish();  // The guest has answered.
  void Acknowledge(std::uint64_t offset);
  // Gives the sink what it has not got.
  void Flush();
  void Attach(std::shared_ptr<RequestSink> to, std::uint64_t response_offset, bool head_received);
};

}  // namespace godwit::agent
