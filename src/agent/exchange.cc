#include "agent/exchange.h"

#include <algorithm>
#include <cstring>

namespace godwit::agent {
namespace {

constexpr std::size_t kChunkBytes = 64 << 10;
constexpr std::uint64_t kAcknowledgeEvery = kWindowBytes / 4;

}  // namespace

std::shared_ptr<Exchange> Exchange::Copy() const {
  auto copy = std::make_shared<Exchange>();
  copy->request = request;
  copy->handle = handle;
  copy->phase = phase;
  copy->captured_received = captured_received;
  copy->body = body.substr(body_read);
  copy->body_received = body_received;
  copy->body_ended = body_ended;
  copy->head_committed = head_committed;
  copy->status = status;
  copy->headers = headers;
  copy->out = out;
  copy->out_base = copy->out_sent = out_base;
  copy->out_ended = out_ended;
  copy->cgi_buffer = cgi_buffer;
  copy->task = task;
  copy->cpu_ns = cpu_ns;
  copy->answers = answers;
  copy->streams = streams;
  copy->finished_call = finished_call;
  return copy;
}

bool Exchange::TakeBody(std::uint64_t offset, ByteView bytes, bool last) {
  if (offset > body_received) return false;
  const std::uint64_t known = std::min<std::uint64_t>(body_received - offset, bytes.size());
  const ByteView fresh = bytes.subspan(known);
  if (body.size() - body_read + fresh.size() > 2 * kWindowBytes) return false;
  if (body_read > 0 && body_read * 2 >= body.size()) {
    body.erase(0, body_read);
    body_read = 0;
  }
  body.append(AsText(fresh));
  body_received += fresh.size();
  if (last) body_ended = true;
  return true;
}

std::size_t Exchange::ReadBody(std::uint8_t* to, std::size_t bytes) {
  const std::size_t taken = std::min(bytes, body.size() - body_read);
  std::memcpy(to, body.data() + body_read, taken);
  body_read += taken;
  if (body_read == body.size()) {
    body.clear();
    body_read = 0;
  }
  const std::uint64_t consumed = body_consumed();
  if (sink && consumed > body_acknowledged &&
      (consumed - body_acknowledged >= kAcknowledgeEvery || (body_ended && consumed == body_received))) {
    body_acknowledged = consumed;
    sink->BodyConsumed(request.id, consumed);
  }
  return taken;
}

std::size_t Exchange::Write(std::string_view bytes) {
  head_committed = true;
  if (out_sent == out_end()) gathering = std::chrono::steady_clock::now();
  const std::size_t taken = std::min(bytes.size(), room());
  out.append(bytes.substr(0, taken));
  return taken;
}

void Exchange::Finish() {
  head_committed = true;
  out_ended = true;
  phase = Phase::kAnswered;
  Flush();
}

void Exchange::Acknowledge(std::uint64_t offset) {
  if (offset <= out_base || offset > out_sent) return;
  out.erase(0, offset - out_base);
  out_base = offset;
  if (phase == Phase::kAnswered && last_sent && out.empty()) {
    phase = Phase::kEnded;
  } else {
    Wake();
  }
}

void Exchange::Flush() {
  if (!sink || !head_committed || last_sent) return;
  if (!head_sent) {
    head_sent = true;
    sink->Head(request.id, status, headers, out_ended ? static_cast<std::int64_t>(out_end()) : -1);
  }
  while (out_sent < out_end()) {
    const std::size_t begin = out_sent - out_base;
    const std::size_t bytes = std::min(kChunkBytes, out.size() - begin);
    out_sent += bytes;
    last_sent = out_ended && out_sent == out_end();
    sink->Chunk(request.id, out_sent - bytes, AsBytes(std::string_view(out).substr(begin, bytes)), last_sent);
  }
  if (out_ended && !last_sent) {
    last_sent = true;
    sink->Chunk(request.id, out_sent, {}, true);
  }
  if (last_sent && out.empty() && phase == Phase::kAnswered) phase = Phase::kEnded;
}

void Exchange::Attach(std::shared_ptr<RequestSink> to, std::uint64_t response_offset, bool head_received) {
  sink = std::move(to);
  body_acknowledged = body_received;
  sink->BodyConsumed(request.id, body_received);
  head_sent = head_received;
  last_sent = false;
  const std::uint64_t from = std::clamp(response_offset, out_base, out_end());
  out.erase(0, from - out_base);
  out_base = out_sent = from;
  Flush();
  Wake();
}

}  // namespace godwit::agent
