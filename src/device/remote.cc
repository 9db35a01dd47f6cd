#include "device/remote.h"

#include <algorithm>
#include <utility>

#include "device/wire.h"

namespace godwit::device {
namespace {

// Longer than what a request may take without a deadline of its own is no use: the channel's loss ends it sooner.
constexpr std::chrono::minutes kAnswerTime{60};

}  // namespace

RemoteDevice::RemoteDevice(Connect connect) : connect_(std::move(connect)), under_way_(std::make_shared<UnderWay>()) {}

void RemoteDevice::Submit(Request request, Done done) {
  if (!under_way_->Begin(request, std::move(done))) return;
  const auto finish = [under_way = under_way_, number = request.id](Result<Completion> completion) {
    if (!completion.ok()) return under_way->Finish(Failed(number, completion.error()));
    completion->id = number;
    under_way->Finish(std::move(completion).value());
  };
  auto encoded = Encode(request);
  if (!encoded.ok()) return finish(encoded.error());
  const auto message = std::make_shared<const Bytes>(std::move(encoded).value());
  connect_([message, finish](Result<std::shared_ptr<transport::Channel>> channel) {
    if (!channel.ok()) return finish(channel.error());
    flatbuffers::FlatBufferBuilder builder(64);
    (*channel)->Ask<wire::DeviceRequest>(builder, wire::CreateDeviceRequest(builder), kAnswerTime, [finish](Result<transport::Frame> frame) {
      if (!frame.ok()) return finish(frame.error());
      if (frame->as<wire::DeviceCompletion>() == nullptr) return finish(Corrupt("another answer than a DeviceCompletion"));
      finish(DecodeCompletion(frame->payload()));
    }, *message);
  });
}

bool ServeDevice(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame, Device& device, bool owner, const Invite& invite) {
  const auto* asked = frame.as<wire::DeviceRequest>();
  if (asked == nullptr) return false;
  const std::uint64_t call = frame.call();
  const auto answer = [channel, call](const Completion& completion) {
    auto encoded = Encode(completion);
    if (!encoded.ok()) encoded = Encode(Failed(completion.id, encoded.error()));
    auto builder = std::make_shared<flatbuffers::FlatBufferBuilder>(64);
    transport::FinishMessage(*builder, wire::CreateDeviceCompletion(*builder), 0, call);
    const Status sent = channel->Send(*builder, *encoded);
    if (!sent.ok() && sent.error().code == ErrorCode::kResourceExhausted) {
      // The queue is full of answers: this one waits its turn, once.
      channel->WhenWritable([channel, builder, bytes = std::move(encoded).value()] { static_cast<void>(channel->Send(*builder, bytes).ok()); });
    }
  };
  if (asked->trust_domain() != nullptr) {
    const auto invitation = invite ? invite(asked->trust_domain()->str()) : Result<UcxInvitation>(PermissionDenied("it is in no trust domain"));
    if (!invitation.ok()) {
      answer(Failed(0, invitation.error()));
      return true;
    }
    flatbuffers::FlatBufferBuilder builder(128);
    const auto ticket = builder.CreateVector(invitation->ticket.data(), invitation->ticket.size());
    static_cast<void>(channel->Reply(call, builder, wire::CreateDeviceCompletion(builder, 0, invitation->port, ticket)).ok());  // Who gets no answer asks again.
    return true;
  }
  auto request = DecodeRequest(frame.payload());
  if (!request.ok()) {
    answer(Failed(0, request.error()));
    return true;
  }
  if (!owner && request->tenant.empty()) {
    answer(Failed(request->id, PermissionDenied("a request of a remote device needs a tenant")));
    return true;
  }
  device.Submit(std::move(request).value(), answer);
  return true;
}

void AskInvitation(const std::shared_ptr<transport::Channel>& channel, const std::string& trust_domain, std::function<void(Result<UcxInvitation>)> done) {
  flatbuffers::FlatBufferBuilder builder(128);
  const auto domain = builder.CreateString(trust_domain);
  const std::string& there = channel->peer_address();
  std::string address = there.substr(0, there.rfind(':'));
  if (address.starts_with('[')) address = address.substr(1, address.size() - 2);
  channel->Ask<wire::DeviceRequest>(builder, wire::CreateDeviceRequest(builder, 0, domain), kUcxConnectTime, [address, done = std::move(done)](Result<transport::Frame> frame) {
    if (!frame.ok()) return done(frame.error());
    const auto* answer = frame->as<wire::DeviceCompletion>();
    if (answer == nullptr) return done(Corrupt("another answer than a DeviceCompletion"));
    UcxInvitation invitation{address, answer->ucx_port(), {}};
    if (answer->ucx_port() != 0 && answer->ucx_ticket() != nullptr && answer->ucx_ticket()->size() == invitation.ticket.size()) {
      std::copy(answer->ucx_ticket()->begin(), answer->ucx_ticket()->end(), invitation.ticket.begin());
      return done(invitation);
    }
    const auto refusal = DecodeCompletion(frame->payload());
    done(refusal.ok() && !refusal->status.ok() ? refusal->status.error() : Corrupt("no invitation, and no reason why not"));
  });
}

}  // namespace godwit::device
