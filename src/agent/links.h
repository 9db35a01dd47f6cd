// Links: how this agent's requests reach other devices. Shared-memory rings where the other agent is on this machine and of this user
// (device/ring.h), UCX where it is of this one's trust domain (device/ucx.h), a channel (TLS, transport/channel.h) everywhere; of those that are
// there, the one that takes least time for a request of that size, by what was measured when they were made.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "device/device.h"
#include "device/ucx.h"
#include "model/ids.h"
#include "transport/channel.h"

namespace godwit::agent {

// A transport's cost: the time of a request and its completion, one of which carries `bytes`.
struct LinkCost {
  double latency_us = 0, bytes_per_us = 0;
  double us(std::uint64_t bytes) const { return latency_us + (bytes_per_us > 0 ? static_cast<double>(bytes) / bytes_per_us : 0); }
};

// The abstract Unix address of the rings of the agent with that boot: reachable from its network namespace alone.
std::string RingAddress(model::BootId boot);

// Self-synchronised.
class Links {
 public:
  using Connect = std::function<void(const std::string& address, std::function<void(Result<std::shared_ptr<transport::Channel>>)>)>;
  // `rings`: whether to look for rings; false where links are shaped, which rings would go past.
  Links(bool rings, std::string channel_security, Connect connect);
  ~Links();  // Ends what is under way over rings and UCX.

  // From now on, with agents that are of this trust domain as well. Before the first To.
  void Trust(std::string domain, std::unique_ptr<device::Ucx> ucx);
  // For an agent that says it is of that domain; kPermissionDenied: this one is not.
  Result<device::UcxInvitation> Invite(const std::string& domain);

  // The device whose agent listens at `address`. Never waits: until another way is found, requests go over the channel.
  std::shared_ptr<device::Device> To(const std::string& address, model::BootId boot);

  // Measures now: JSON with a round trip of each size (64 B to 16 MiB, in requests of at most kDataBytesMax) by each transport, the choice
  // for it, and why a transport is not there. On a thread of its own; kUnavailable where the device does not answer.
  void Measure(const std::string& address, model::BootId boot, std::function<void(Result<std::string>)> done);

  // OpenMetrics text.
  std::string MetricsText() const;

 private:
  struct Counts;
  struct Peer;
  struct Way;
  class Target;
  class LinkedDevice;
  std::shared_ptr<Peer> PeerAt(const std::string& address, model::BootId boot);
  // On the own thread.
  void Find(Peer& peer);
  // Of the ways that are there: they, and the channel behind them; null: it failed, and is not there any more.
  static std::vector<std::shared_ptr<device::Device>> MeasureCosts(Peer& peer, const Target& target);
  Result<std::shared_ptr<device::Device>> ConnectByRing(const Peer& peer);
  Result<std::shared_ptr<device::Device>> ConnectByUcx(const Peer& peer);
  void ForgetOthers(const Peer& now);
  void Main();

  const std::shared_ptr<Counts> counts_;
  const bool rings_;
  const std::string channel_security_;
  const Connect connect_;
  std::string trust_domain_;
  std::unique_ptr<device::Ucx> ucx_;  // Null: of no trust domain.
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ending_ = false;
  std::deque<std::function<void()>> work_;
  std::map<std::string, std::shared_ptr<Peer>> peers_;  // By address and boot.
  std::thread thread_;
};

}  // namespace godwit::agent
