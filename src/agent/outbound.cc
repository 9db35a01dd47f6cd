#include "agent/outbound.h"

#include <algorithm>
#include <charconv>

#include <fmt/format.h>

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;

// Less than the asker waits for the answer, which then asks again.
constexpr std::chrono::seconds kWait{20};

}  // namespace

Outbound::Outbound(transport::EventLoop& loop, std::uint64_t first, std::chrono::milliseconds idle_max)
    : loop_(loop), idle_max_(idle_max), next_(first) { Sweep(); }

void Outbound::Sweep() {
  const auto idle_since = Clock::now() - idle_max_;
  std::erase_if(*entries_, [&](const auto& entry) { return entry.second.connection && entry.second.used < idle_since; });
  sweep_ = loop_.After(idle_max_ / 10, [this] { Sweep(); });
}

void Outbound::Connect(const Asker& asker, const std::string& address, std::chrono::milliseconds timeout,
                       std::function<void(Result<std::uint64_t>)> done) {
  const auto of_instance = std::count_if(entries_->begin(), entries_->end(),
                                         [&](const auto& entry) { return entry.second.instance == asker.instance; });
  if (static_cast<std::size_t>(of_instance) >= kConnectionsPerInstanceMax || entries_->size() >= kConnectionsMax) {
    return done(ResourceExhausted(fmt::format("{} connections of {} are open on this device, {} in all", of_instance,
                                              asker.instance.value, entries_->size())));
  }
  const std::size_t colon = address.rfind(':');
  std::uint16_t port = 0;
  if (colon == address.npos || std::from_chars(address.data() + colon + 1, address.data() + address.size(), port).ec != std::errc()) {
    return done(InvalidArgument("'" + address + "' is not host:port"));
  }
  const std::uint64_t number = next_++;
  (*entries_)[number] = {asker.instance, asker.epoch, nullptr, Clock::now()};
  const std::weak_ptr weak = entries_;
  transport::ConnectKept(loop_, address.substr(0, colon), port, timeout,
                         [weak, number, done = std::move(done)](Result<std::shared_ptr<KeptConnection>> connection) {
                           const auto entries = weak.lock();
                           if (!entries || entries->count(number) == 0) return done(Unavailable("the connection was closed"));
                           if (!connection.ok()) {
                             entries->erase(number);
                             return done(connection.error());
                           }
                           (*entries)[number].connection = std::move(connection).value();
                           done(number);
                         });
}

Result<std::shared_ptr<KeptConnection>> Outbound::Find(const Asker& asker, std::uint64_t number) {
  const auto found = entries_->find(number);
  if (found == entries_->end() || found->second.instance != asker.instance || !found->second.connection) {
    return NotFound("the connection is closed: the guest closed it, it was idle for long, or the device that held it restarted");
  }
  if (asker.epoch.value < found->second.epoch.value) {
    return FailedPrecondition(fmt::format("{} has a newer owner than epoch {}", asker.instance.value, asker.epoch.value));
  }
  found->second.epoch = asker.epoch;
  found->second.used = Clock::now();
  return found->second.connection;
}

void Outbound::Read(const Asker& asker, std::uint64_t number, std::uint64_t offset, std::uint32_t length,
                    std::function<void(Result<KeptConnection::Received>)> done) {
  const auto connection = Find(asker, number);
  if (!connection.ok()) return done(connection.error());
  (*connection)->Read(offset, std::min<std::size_t>(length, kConnectionBytesMax), kWait, std::move(done));
}

void Outbound::Write(const Asker& asker, std::uint64_t number, std::uint64_t offset, ByteView bytes,
                     std::function<void(Result<std::uint64_t>)> done) {
  const auto connection = Find(asker, number);
  if (!connection.ok()) return done(connection.error());
  (*connection)->Write(offset, bytes, kWait, std::move(done));
}

void Outbound::Close(const Asker& asker, std::uint64_t number) {
  if (Find(asker, number).ok()) entries_->erase(number);
}

void Outbound::CloseOf(const model::InstanceId& instance) {
  std::erase_if(*entries_, [&](const auto& entry) { return entry.second.instance == instance; });
}

}  // namespace godwit::agent
