#include "agent/links.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "device/remote.h"
#include "device/ring.h"

namespace godwit::agent {
namespace {

using Clock = std::chrono::steady_clock;
using device::Device;
using nlohmann::json;

constexpr std::array<std::uint64_t, 9> kSizes{64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
constexpr std::uint64_t kEnvelopeBytes = 192 << 10;
constexpr int kRounds = 9, kLongRounds = 3;  // Medians of these; long: more than one request.
constexpr double kTooLongUs = 2e6;           // Larger sizes are left out.
constexpr std::chrono::seconds kAnswerTime{10};
constexpr const char* kTenant = "link-probe";
constexpr std::chrono::microseconds kUnusedFor = std::chrono::minutes(1);  // Then memory for measuring is freed, should this agent have died.
constexpr std::chrono::minutes kLostKept{1};  // A ring that was lost: its own thread may still be in it, and must not be who ends it.

// Memory of the device to write to, for as long as this lives.
class Target {
 public:
  static Result<Target> Create(Device& device) {
    device::Request request = Make(device::Opcode::kAllocate);
    request.bytes = device::kDataBytesMax;
    request.value = kUnusedFor.count();
    device::Completion completion = device.Call(request, kAnswerTime);
    GODWIT_TRY(completion.status);
    return Target(device, completion.capability);
  }
  Target(Target&& other) noexcept : device_(std::exchange(other.device_, nullptr)), capability_(other.capability_) {}
  Target& operator=(Target&&) = delete;
  ~Target() {
    if (device_ == nullptr) return;
    device::Request request = Make(device::Opcode::kFree);
    request.ranges = {{capability_, 0, device::kDataBytesMax}};
    static_cast<void>(device_->Call(request, kAnswerTime).status.ok());
  }
  // How long it takes to write `bytes` there by `device`, which leads to the same one.
  Result<double> Write(Device& device, std::uint64_t bytes) const {
    const auto begin = Clock::now();
    for (std::uint64_t left = bytes; left > 0;) {
      device::Request request = Make(device::Opcode::kWrite);
      const std::uint64_t piece = std::min<std::uint64_t>(left, device::kDataBytesMax);
      request.ranges = {{capability_, 0, piece}};
      request.data.assign(piece, 0x5a);
      GODWIT_TRY(device.Call(request, kAnswerTime).status);
      left -= piece;
    }
    return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
  }
  Result<double> MedianOf(Device& device, std::uint64_t bytes) const {
    std::vector<double> times;
    const int rounds = bytes > device::kDataBytesMax ? kLongRounds : kRounds;
    for (int i = 0; i < rounds; ++i) {
      GODWIT_ASSIGN(times.emplace_back(), Write(device, bytes));
    }
    std::nth_element(times.begin(), times.begin() + rounds / 2, times.end());
    return times[static_cast<std::size_t>(rounds / 2)];
  }
  Result<LinkCost> CostOf(Device& device) const {
    GODWIT_ASSIGN(const double small, MedianOf(device, kSizes.front()));
    GODWIT_ASSIGN(const double large, MedianOf(device, kEnvelopeBytes));
    return LinkCost{small, large > small ? static_cast<double>(kEnvelopeBytes - kSizes.front()) / (large - small) : 0};
  }

 private:
  static device::Request Make(device::Opcode opcode) {
    device::Request request;
    request.opcode = opcode;
    request.tenant = kTenant;
    return request;
  }
  Target(Device& device, device::Capability capability) : device_(&device), capability_(capability) {}
  Device* device_;
  device::Capability capability_;
};

}  // namespace

std::string RingAddress(model::BootId boot) { return "@godwit-ring-" + boot.ToString(); }

// Of all peers, those that were forgotten too.
struct Links::Counts {
  std::atomic<std::uint64_t> by_ring{0}, by_channel{0};
};

struct Links::Peer {
  std::string address;
  model::BootId boot;
  std::unique_ptr<device::RemoteDevice> channel;
  std::shared_ptr<Counts> counts;

  std::shared_ptr<Device> RingNow() {
    const std::lock_guard lock(mutex);
    return ring;
  }
  // The ring, if it is there and the faster way for so many bytes.
  std::shared_ptr<Device> RingFor(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    return ring && (!costs || costs->first.us(bytes) <= costs->second.us(bytes)) ? ring : nullptr;
  }
  void Lose() {
    const std::lock_guard lock(mutex);
    if (ring) lost.emplace_back(Clock::now(), std::exchange(ring, nullptr));
    why = "it was lost";
  }

  std::mutex mutex;
  std::shared_ptr<Device> ring;
  std::vector<std::pair<Clock::time_point, std::shared_ptr<Device>>> lost;
  std::optional<std::pair<LinkCost, LinkCost>> costs;  // The ring's, the channel's.
  std::string why = "it was not looked for yet";       // There is no ring.
};

class Links::LinkedDevice final : public Device {
 public:
  explicit LinkedDevice(std::shared_ptr<Peer> peer) : peer_(std::move(peer)) {}
  void Submit(device::Request request, Done done) override {
    if (request.opcode == device::Opcode::kAbort) {  // Each transport has numbers of its own: the other one finds nothing.
      if (const auto ring = peer_->RingNow()) ring->Submit(request, [](device::Completion) {});
      return peer_->channel->Submit(std::move(request), std::move(done));
    }
    const auto ring = peer_->RingFor(request.data.size() + request.state.size());
    if (!ring) {
      ++peer_->counts->by_channel;
      return peer_->channel->Submit(std::move(request), std::move(done));
    }
    ++peer_->counts->by_ring;
    ring->Submit(std::move(request), [peer = peer_, done = std::move(done)](device::Completion completion) {
      if (!completion.status.ok() && completion.status.error().code == ErrorCode::kUnavailable) peer->Lose();
      done(std::move(completion));
    });
  }

 private:
  const std::shared_ptr<Peer> peer_;
};

Links::Links(bool rings, std::string channel_security, Connect connect)
    : counts_(std::make_shared<Counts>()), rings_(rings), channel_security_(std::move(channel_security)), connect_(std::move(connect)), thread_([this] { Main(); }) {}

Links::~Links() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
  for (const auto& [key, peer] : peers_) {
    peer->Lose();
    peer->lost.clear();
  }
}

void Links::Main() {
  for (;;) {
    std::function<void()> work;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ending_ || !work_.empty(); });
      if (ending_) return;
      work = std::move(work_.front());
      work_.pop_front();
    }
    work();
  }
}

std::shared_ptr<Links::Peer> Links::PeerAt(const std::string& address, model::BootId boot) {
  const std::lock_guard lock(mutex_);
  auto& peer = peers_[fmt::format("{} {}", address, boot.value)];
  if (!peer) {
    peer = std::make_shared<Peer>();
    peer->address = address;
    peer->boot = boot;
    peer->counts = counts_;
    peer->channel = std::make_unique<device::RemoteDevice>([connect = connect_, address](auto then) { connect(address, std::move(then)); });
    work_.push_back([this, peer] { FindRing(*peer); });
    changed_.notify_all();
  }
  return peer;
}

std::shared_ptr<Device> Links::To(const std::string& address, model::BootId boot) { return std::make_shared<LinkedDevice>(PeerAt(address, boot)); }

// On the own thread: what is left of agents that listened at that address before.
void Links::ForgetOthers(const Peer& now) {
  const std::lock_guard lock(mutex_);
  std::erase_if(peers_, [&](const auto& item) {
    Peer& peer = *item.second;
    const bool before = peer.address == now.address && peer.boot != now.boot;
    if (before) peer.Lose();
    const std::lock_guard inner(peer.mutex);
    std::erase_if(peer.lost, [](const auto& lost) { return Clock::now() - lost.first > kLostKept; });
    return before && peer.lost.empty();
  });
}

// On the own thread.
void Links::FindRing(Peer& peer) {
  std::string why = "this agent's links are shaped, which rings would go past";
  if (rings_) {
    ForgetOthers(peer);
    auto connected = device::ConnectRing(RingAddress(peer.boot));
    if (connected.ok()) {
      const std::shared_ptr<Device> ring = std::move(connected).value();
      std::optional<std::pair<LinkCost, LinkCost>> costs;
      if (const auto target = Target::Create(*ring); target.ok()) {
        const auto by_ring = target->CostOf(*ring), by_channel = target->CostOf(*peer.channel);
        if (by_ring.ok() && by_channel.ok()) costs = {*by_ring, *by_channel};
      }
      const std::lock_guard lock(peer.mutex);
      peer.ring = ring;
      peer.costs = costs;
      return;
    }
    why = connected.error().message;
  }
  const std::lock_guard lock(peer.mutex);
  peer.why = why;
}

void Links::Measure(const std::string& address, model::BootId boot, std::function<void(Result<std::string>)> done) {
  const auto peer = PeerAt(address, boot);
  const auto measure = [this, peer]() -> Result<std::string> {
    GODWIT_ASSIGN(const auto target, Target::Create(*peer->channel));
    std::shared_ptr<Device> ring;
    std::optional<LinkCost> by_ring;
    for (int tries = 0; tries < 2 && !by_ring; ++tries) {  // It may have been lost, or have come since.
      if (!peer->RingNow()) FindRing(*peer);
      ring = peer->RingNow();
      if (!ring) break;
      auto cost = target.CostOf(*ring);
      if (cost.ok()) by_ring = *cost;
      else peer->Lose();
    }
    if (!by_ring) ring = nullptr;
    json transports = json::array(), sizes = json::array();
    const auto describe = [&](const char* name, const std::string& security, const std::optional<LinkCost>& cost, const std::string& why) {
      json entry{{"name", name}, {"security", security}, {"available", cost.has_value()}, {"why", why}};
      if (cost) entry.update({{"latency_us", cost->latency_us}, {"bytes_per_second", cost->bytes_per_us * 1e6}});
      transports.push_back(std::move(entry));
    };
    GODWIT_ASSIGN(const LinkCost by_channel, target.CostOf(*peer->channel));
    {
      const std::lock_guard lock(peer->mutex);
      if (by_ring) peer->costs = {*by_ring, by_channel};
      describe("ring", "one user, one machine", by_ring, by_ring ? "its agent is on this machine, in this network namespace and of this user" : peer->why);
    }
    describe("channel", channel_security_, by_channel, "always there");
    for (const std::uint64_t bytes : kSizes) {
      if (by_channel.us(bytes) > kTooLongUs) break;
      const std::uint64_t request = std::min<std::uint64_t>(bytes, device::kDataBytesMax);
      json entry{{"bytes", bytes}};
      GODWIT_ASSIGN(entry["channel_us"], target.MedianOf(*peer->channel, bytes));
      if (ring) {
        GODWIT_ASSIGN(entry["ring_us"], target.MedianOf(*ring, bytes));
      }
      const bool rings = peer->RingFor(request) != nullptr;
      entry["chosen"] = rings ? "ring" : "channel";
      entry["expected_us"] = (rings ? *by_ring : by_channel).us(request) * static_cast<double>((bytes + request - 1) / request);
      sizes.push_back(std::move(entry));
    }
    return json{{"transports", std::move(transports)}, {"sizes", std::move(sizes)}}.dump();
  };
  const std::lock_guard lock(mutex_);
  work_.push_back([measure, done = std::move(done)] { done(measure()); });
  changed_.notify_all();
}

std::string Links::MetricsText() const {
  return fmt::format("# TYPE godwit_link_requests counter\ngodwit_link_requests_total{{transport=\"ring\"}} {}\n"
                     "godwit_link_requests_total{{transport=\"channel\"}} {}\n", counts_->by_ring.load(), counts_->by_channel.load());
}

}  // namespace godwit::agent
