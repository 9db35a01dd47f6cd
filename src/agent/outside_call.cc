#include "agent/outside_call.h"

#include <algorithm>
#include <atomic>
#include <mutex>
#include <thread>
#include <utility>

#include "transport/http_client.h"

namespace godwit::agent {
namespace {

using transport::HttpClient;

std::atomic<int> open_calls{0};

// The client blocks: it has a thread for as long as the call lasts.
class OutsideCall final : public Pending {
 public:
  explicit OutsideCall(std::unique_ptr<HttpClient> client) : client_(std::move(client)) {}
  void Cancel() override { client_->Cancel(); }

  Result<CallAnswer> Make(const OutgoingCall& call) {
    transport::HttpCall http;
    http.method = call.method;
    http.target = call.target;
    for (const Header& header : call.headers) http.headers.push_back({header.name, header.value});
    http.body.assign(call.body.begin(), call.body.end());
    http.timeout = std::max(std::chrono::milliseconds(1), std::chrono::duration_cast<std::chrono::milliseconds>(
                                                              call.deadline - std::chrono::steady_clock::now()));
    GODWIT_ASSIGN(auto answer, client_->Call(http));
    CallAnswer out;
    out.status = static_cast<std::uint16_t>(answer.status);
    for (auto& header : answer.headers) out.headers.push_back({std::move(header.name), std::move(header.value)});
    out.body.assign(answer.body.begin(), answer.body.end());
    return out;
  }

 private:
  const std::unique_ptr<HttpClient> client_;
};

}  // namespace

std::shared_ptr<Pending> CallOutside(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) {
  HttpClient::Options options;
  options.answer_bytes_max = {kCallResponseBytesMax};
  auto client = HttpClient::Create(call.service.value, std::move(options));
  if (!client.ok()) {
    done(client.error());
    return nullptr;
  }
  if (++open_calls > kOutsideCallsMax) {
    --open_calls;
    done(ResourceExhausted("too many calls to hosts outside are under way on this device"));
    return nullptr;
  }
  auto outside = std::make_shared<OutsideCall>(std::move(client).value());
  std::thread([outside, call = std::move(call), done = std::move(done)]() mutable {
    auto answer = outside->Make(call);
    --open_calls;
    done(std::move(answer));
    done = nullptr;
  }).detach();
  return outside;
}

}  // namespace godwit::agent
