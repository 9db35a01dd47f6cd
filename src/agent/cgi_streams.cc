#include "agent/cgi_streams.h"

#include <algorithm>

namespace godwit::agent {
namespace {

using Phase = Exchange::Phase;

// Moves the header block, once it is known, from the buffer to the response.
void TakeHead(Exchange& exchange, bool ended) {
  CgiHead head;
  if (exchange.head_committed || ParseCgiHead(exchange.cgi_buffer, ended, &head) == CgiState::kMore) return;
  exchange.status = head.status;
  exchange.headers = std::move(head.headers);
  exchange.head_committed = true;
  // May pass the window by the header limit: those bytes have been taken from the guest already.
  exchange.out.append(exchange.cgi_buffer, head.body_begin);
  exchange.cgi_buffer.clear();
}

}  // namespace

Result<std::optional<std::size_t>> BodyStream::TryRead(std::span<std::uint8_t> to) {
  const std::lock_guard lock(core_->lock);
  const auto exchange = exchange_.lock();
  if (!exchange) return Unavailable("the request has ended");
  const std::size_t taken = exchange->ReadBody(to.data(), to.size());
  if (taken > 0 || exchange->body_ended) return std::optional(taken);
  return std::optional<std::size_t>();
}

Result<std::optional<std::size_t>> BodyStream::TryWrite(std::span<const std::uint8_t>) {
  return Unsupported("standard input cannot be written");
}

std::optional<std::size_t> BodyStream::Readable() {
  const std::lock_guard lock(core_->lock);
  const auto exchange = exchange_.lock();
  if (!exchange) return 0;
  const std::size_t bytes = exchange->body.size() - exchange->body_read;
  return bytes > 0 || exchange->body_ended ? std::optional(bytes) : std::nullopt;
}

Result<std::optional<std::size_t>> CgiOutput::TryRead(std::span<std::uint8_t>) {
  return Unsupported("standard output cannot be read");
}

Result<std::optional<std::size_t>> CgiOutput::TryWrite(std::span<const std::uint8_t> from) {
  const std::lock_guard lock(core_->lock);
  const auto exchange = exchange_.lock();
  if (!exchange || exchange->phase != Phase::kRunning) return Unavailable("the request has ended");
  if (!exchange->head_committed) {
    const std::size_t taken = std::min(from.size(), kCgiHeaderBytesMax);
    exchange->cgi_buffer.append(AsText(from.first(taken)));
    TakeHead(*exchange, false);
    return std::optional(taken);
  }
  const std::size_t taken = exchange->Write(AsText(from));
  // Programs flush their output when they mean it to be seen.
  exchange->Flush();
  return taken > 0 ? std::optional(taken) : std::nullopt;
}

bool CgiOutput::Writable() {
  const std::lock_guard lock(core_->lock);
  const auto exchange = exchange_.lock();
  return !exchange || !exchange->head_committed || exchange->room() > 0;
}

void FinishCgi(Exchange& exchange) {
  if (!exchange.cgi_buffer.empty()) TakeHead(exchange, true);
}

LogStream::~LogStream() {
  if (!line_.empty()) core_->environment().Log(core_->asker(), level_, line_);
}

Result<std::optional<std::size_t>> LogStream::TryRead(std::span<std::uint8_t>) {
  return Unsupported("the log cannot be read");
}

Result<std::optional<std::size_t>> LogStream::TryWrite(std::span<const std::uint8_t> from) {
  line_ += AsText(from);
  for (std::size_t end; (end = line_.find('\n')) != std::string::npos || line_.size() >= kLogLineBytesMax;) {
    const std::size_t bytes = std::min({end, line_.size(), kLogLineBytesMax});
    core_->environment().Log(core_->asker(), level_, std::string_view(line_).substr(0, bytes));
    line_.erase(0, bytes + (bytes == end ? 1 : 0));
  }
  return std::optional(from.size());
}

}  // namespace godwit::agent
