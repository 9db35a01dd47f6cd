#include "service_calls.h"

#include <algorithm>
#include <mutex>

namespace godwit::daemon {
namespace {

using agent::CallAnswer;

// One call; loop-bound but for Cancel.
struct Calling final : agent::Pending, std::enable_shared_from_this<Calling> {
  Calling(gateway::Relay& over, agent::OutgoingCall what, std::function<void(Result<CallAnswer>)> then)
      : relay(over), call(std::move(what)), done(std::move(then)) {}

  void Cancel() override {
    relay.loop().Post([self = shared_from_this()] {
      if (self->relayed) self->relayed->Cancel();
      self->End(Aborted("the call was given up"));
    });
  }

  void Begin() {
    if (!done) return;
    const std::string_view target = call.target;
    const auto match = relay.directory().MatchWithin(call.service, target.substr(0, target.find('?')));
    if (!match) return End(NotFound("no service '" + call.service.value + "' takes " + call.target));
    gateway::RelayRequest request;
    request.match = *match;
    request.method = call.method;
    request.target = call.target;
    for (const agent::Header& header : call.headers) request.headers.push_back({header.name, header.value});
    request.timeout = std::max(std::chrono::milliseconds(1), std::chrono::duration_cast<std::chrono::milliseconds>(
                                                                 call.deadline - std::chrono::steady_clock::now()));
    request.body_follows = !call.body.empty();
    if (request.body_follows) request.body_bytes = call.body.size();
    request.caller_service = call.asker.service.value;
    request.caller_instance = call.asker.instance.value;
    gateway::RelayHandlers handlers;
    const auto self = shared_from_this();
    handlers.on_head = [self](int status, transport::HttpHeaders headers, std::optional<std::uint64_t>) {
      self->answer.status = static_cast<std::uint16_t>(status);
      for (auto& header : headers) self->answer.headers.push_back({std::move(header.name), std::move(header.value)});
    };
    handlers.on_body = [self](ByteView bytes) {
      const bool too_large = self->answer.body.size() + bytes.size() > agent::kCallResponseBytesMax;
      if (too_large || !self->relay.held()->Add(bytes.size())) {
        const std::string why = too_large ? "the answer is larger than 16 MiB" : self->relay.HoldsTooMuch().message;
        if (self->relayed) self->relayed->Cancel();
        return self->End(ResourceExhausted(why));
      }
      self->held += bytes.size();
      self->answer.body.insert(self->answer.body.end(), bytes.begin(), bytes.end());
      if (self->relayed) self->relayed->Consumed(bytes.size());
    };
    handlers.on_end = [self] { self->End(std::move(self->answer)); };
    handlers.on_failed = [self](const gateway::Failure& failure) { self->Fail(failure); };
    handlers.on_body_wanted = [self] { self->PumpBody(); };
    relayed = relay.Open(std::move(request), std::move(handlers));
    if (!call.body.empty()) PumpBody();
  }

  void PumpBody() {
    if (!relayed || !done) return;
    const std::size_t bytes = std::min(relayed->body_room(), call.body.size() - sent);
    const bool last = sent + bytes == call.body.size();
    if (bytes == 0) return;
    sent += bytes;
    relayed->WriteBody(ByteView(call.body).subspan(sent - bytes, bytes), last);
  }

  // A problem of the callee is its answer; the caller sees the status.
  void Fail(const gateway::Failure& failure) {
    if (failure.code == ErrorCode::kUnavailable || failure.problem.empty()) {
      return End(Error{failure.code, call.service.value + ": " + failure.message});
    }
    answer.status = static_cast<std::uint16_t>(failure.status);
    answer.headers = {{"content-type", "application/problem+json"}};
    answer.body.assign(failure.problem.begin(), failure.problem.end());
    End(std::move(answer));
  }

  void End(Result<CallAnswer> result) {
    relayed.reset();
    relay.held()->Remove(std::exchange(held, 0));
    if (auto then = std::exchange(done, nullptr)) then(std::move(result));
  }

  gateway::Relay& relay;
  agent::OutgoingCall call;
  std::function<void(Result<CallAnswer>)> done;
  std::shared_ptr<gateway::RelayedCall> relayed;
  CallAnswer answer;
  std::uint64_t held = 0;  // Of the answer, counted with the relay's.
  std::size_t sent = 0;
};

}  // namespace

std::shared_ptr<agent::Pending> CallService(gateway::Relay& relay, agent::OutgoingCall call,
                                            std::function<void(Result<CallAnswer>)> done) {
  auto calling = std::make_shared<Calling>(relay, std::move(call), std::move(done));
  relay.loop().Post([calling] { calling->Begin(); });
  return calling;
}

}  // namespace godwit::daemon
