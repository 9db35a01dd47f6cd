// What a command's standard input, output and error are connected to: its request's body, its response (through the
// CGI header parser), and the log. None has a descriptor: the host wakes the instance.
#pragma once

#include <memory>
#include <string>

#include "agent/cgi.h"
#include "agent/host_core.h"
#include "runtime/wasi_stream.h"

namespace godwit::agent {

class BodyStream final : public runtime::Stream {
 public:
  BodyStream(HostCore* core, std::weak_ptr<Exchange> exchange) : core_(core), exchange_(std::move(exchange)) {}
  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override;
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override;
  bool Writable() override { return false; }

 private:
  HostCore* core_;
  std::weak_ptr<Exchange> exchange_;
};

class CgiOutput final : public runtime::Stream {
 public:
  CgiOutput(HostCore* core, std::weak_ptr<Exchange> exchange) : core_(core), exchange_(std::move(exchange)) {}
  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override;
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override { return 0; }
  bool Writable() override;

 private:
  HostCore* core_;
  std::weak_ptr<Exchange> exchange_;
};

// The program has ended: what it wrote so far is all. The lock is held.
void FinishCgi(Exchange& exchange);

// Lines to the log of the service. What has no newline yet stays behind when the instance moves.
class LogStream final : public runtime::Stream {
 public:
  LogStream(HostCore* core, LogLevel level) : core_(core), level_(level) {}
  ~LogStream() override;
  Result<std::optional<std::size_t>> TryRead(std::span<std::uint8_t> to) override;
  Result<std::optional<std::size_t>> TryWrite(std::span<const std::uint8_t> from) override;
  std::optional<std::size_t> Readable() override { return 0; }
  bool Writable() override { return true; }

 private:
  HostCore* core_;
  LogLevel level_;
  std::string line_;
};

}  // namespace godwit::agent
