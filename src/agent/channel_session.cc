#include "agent/channel_session.h"

#include <algorithm>
#include <set>

namespace godwit::agent {
namespace {

using flatbuffers::FlatBufferBuilder;

wire::RequestId PutRequestId(const RequestId& id) { return {id.boot, id.number}; }

std::unique_ptr<FlatBufferBuilder> NewBuilder() { return std::make_unique<FlatBufferBuilder>(256); }

}  // namespace

RequestId GetRequestId(const wire::RequestId& id) { return {id.boot(), id.number()}; }

template <typename T>
void ChannelSession::Tell(std::unique_ptr<FlatBufferBuilder> builder, flatbuffers::Offset<T> body, ByteView payload) {
  transport::FinishMessage(*builder, body);
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  if (queue_.empty()) {
    const Status sent = channel_->Send(*builder, payload);
    if (sent.ok() || sent.error().code != ErrorCode::kResourceExhausted) return;  // Closed: OnClosed follows.
  }
  queue_bytes_ += builder->GetSize() + payload.size();
  queue_.push_back({std::move(builder), Bytes(payload.begin(), payload.end())});
  if (queue_bytes_ > kSessionQueueBytesMax) return GiveUp("the peer does not read its answers");
  Pump();
}

void ChannelSession::Pump() {
  while (!queue_.empty()) {
    const Status sent = channel_->Send(*queue_.front().message, queue_.front().payload);
    if (!sent.ok() && sent.error().code == ErrorCode::kResourceExhausted) {
      if (waiting_) return;
      waiting_ = true;
      channel_->WhenWritable([weak = weak_from_this()] {
        const auto self = weak.lock();
        if (!self) return;
        const std::lock_guard lock(self->mutex_);
        self->waiting_ = false;
        self->Pump();
      });
      return;
    }
    queue_bytes_ -= queue_.front().message->GetSize() + queue_.front().payload.size();
    queue_.pop_front();
  }
}

std::shared_ptr<InstanceHost> ChannelSession::HostOf(const RequestId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = served_.find(id);
  return found != served_.end() ? found->second.host : nullptr;
}

bool ChannelSession::Remember(const RequestId& id, Served served) {
  const std::lock_guard lock(mutex_);
  if (closed_) return false;
  served_[id] = std::move(served);
  if (served_.size() <= kSessionRequestsMax) return true;
  GiveUp("the peer has more requests here than it may");
  return false;
}

void ChannelSession::GiveUp(const std::string& reason) {
  closed_ = true;
  queue_.clear();
  queue_bytes_ = 0;
  channel_->loop().Post([channel = channel_, reason] { channel->Close(reason); });  // OnClosed follows.
}

void ChannelSession::Forget(const RequestId& id) {
  const std::lock_guard lock(mutex_);
  served_.erase(id);
}

// --- From the gateway

bool ChannelSession::OnFrame(const transport::Frame& frame) {
  if (const auto* chunk = frame.as<wire::BodyChunk>()) {
    if (chunk->request() == nullptr) return true;
    const RequestId id = GetRequestId(*chunk->request());
    if (const auto host = HostOf(id)) host->Body(id, chunk->offset(), frame.payload(), chunk->last());
    return true;
  }
  if (const auto* ack = frame.as<wire::ResponseAck>()) {
    if (ack->request() == nullptr) return true;
    const RequestId id = GetRequestId(*ack->request());
    if (const auto host = HostOf(id)) {
      if (host->ResponseAck(id, ack->offset())) Forget(id);
    }
    return true;
  }
  if (const auto* cancel = frame.as<wire::CancelRequest>()) {
    if (cancel->request() == nullptr) return true;
    const RequestId id = GetRequestId(*cancel->request());
    if (const auto host = HostOf(id)) {
      host->Cancel(id);
      Forget(id);
    }
    return true;
  }
  return false;
}

void ChannelSession::OnOpen(const wire::OpenRequest& open, const std::shared_ptr<InstanceHost>& host) {
  NewRequest request;
  request.id = GetRequestId(*open.request());
  request.method = open.method()->str();
  request.target = open.target()->str();
  if (open.route() != nullptr) request.route = open.route()->str();
  for (unsigned i = 0; open.headers() != nullptr && i < open.headers()->size(); ++i) {
    request.headers.push_back({open.headers()->Get(i)->name()->str(), open.headers()->Get(i)->value()->str()});
  }
  request.deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(open.deadline_ms());
  request.body_follows = open.body_follows();
  request.body_bytes = open.body_bytes();
  if (open.caller() != nullptr) request.caller = open.caller()->service()->str();
  if (!Remember(request.id, {host, open.instance()->str()})) return;
  host->Open(std::move(request), shared_from_this());
}

void ChannelSession::OnAttach(const wire::AttachRequest& attach, const std::shared_ptr<InstanceHost>& host) {
  const RequestId id = GetRequestId(*attach.request());
  if (!Remember(id, {host, attach.instance()->str()})) return;
  host->Attach(id, attach.response_offset(), attach.head_received(), shared_from_this());
}

void ChannelSession::OnClosed() {
  std::set<std::shared_ptr<InstanceHost>> hosts;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    queue_.clear();
    queue_bytes_ = 0;
    for (const auto& [id, served] : served_) hosts.insert(served.host);
    served_.clear();
  }
  for (const auto& host : hosts) host->Detach(this);
}

// --- To the gateway

void ChannelSession::Refuse(const RequestId& id, std::uint16_t status, ErrorCode code, const std::string& message, bool begun) {
  Failed(id, {.status = status, .code = code, .message = message, .problem = {}, .begun = begun, .retry_after_ms = status == 503 ? 1000u : 0u});
}

void ChannelSession::Redirect(const RequestId& id, const std::string& instance, const Location& to) {
  {
    const std::lock_guard lock(mutex_);
    served_[id] = {nullptr, instance};
  }
  Moved(id, to, 0, false);
}

void ChannelSession::BodyConsumed(const RequestId& id, std::uint64_t offset) {
  auto builder = NewBuilder();
  const auto wire_id = PutRequestId(id);
  const auto body = wire::CreateBodyAck(*builder, &wire_id, offset);
  Tell(std::move(builder), body);
}

void ChannelSession::Head(const RequestId& id, std::uint16_t status, const std::vector<Header>& headers, std::int64_t body_bytes) {
  auto builder = NewBuilder();
  std::vector<flatbuffers::Offset<wire::Header>> list;
  for (const Header& header : headers) list.push_back(wire::CreateHeaderDirect(*builder, header.name.c_str(), header.value.c_str()));
  const auto wire_id = PutRequestId(id);
  const auto body = wire::CreateResponseHeadDirect(*builder, &wire_id, status, &list, body_bytes);
  Tell(std::move(builder), body);
}

void ChannelSession::Chunk(const RequestId& id, std::uint64_t offset, ByteView bytes, bool last) {
  auto builder = NewBuilder();
  const auto wire_id = PutRequestId(id);
  const auto body = wire::CreateResponseChunk(*builder, &wire_id, offset, last);
  Tell(std::move(builder), body, bytes);
  // The request stays in served_ until it is acknowledged: the last acknowledgement frees its bytes.
}

void ChannelSession::Failed(const RequestId& id, const Failure& failure) {
  Forget(id);
  auto builder = NewBuilder();
  const auto wire_id = PutRequestId(id);
  const auto body = wire::CreateRequestFailedDirect(*builder, &wire_id, failure.status, static_cast<std::uint8_t>(failure.code),
                                                    failure.message.c_str(), failure.begun, failure.retry_after_ms);
  Tell(std::move(builder), body, AsBytes(failure.problem));
}

void ChannelSession::Moved(const RequestId& id, const Location& to, std::uint64_t body_offset, bool carried) {
  std::string instance;
  {
    const std::lock_guard lock(mutex_);
    const auto found = served_.find(id);
    if (found != served_.end()) instance = found->second.instance;
    served_.erase(id);
  }
  auto builder = NewBuilder();
  const auto wire_id = PutRequestId(id);
  const auto body = wire::CreateMovedDirect(*builder, &wire_id, instance.c_str(), to.device.value.c_str(), to.channel.c_str(),
                                            to.epoch.value, body_offset, carried);
  Tell(std::move(builder), body);
}

}  // namespace godwit::agent
