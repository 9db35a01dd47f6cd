#include "agent/links.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <future>
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
constexpr int kRounds = 25, kLongRounds = 3;  // Medians of these; long: more than one request.
constexpr double kTooLongUs = 2e6;           // Larger sizes are left out.
constexpr std::chrono::seconds kAnswerTime{10};
constexpr const char* kTenant = "link-probe";
constexpr std::chrono::microseconds kUnusedFor = std::chrono::minutes(1);  // Then memory for measuring is freed, should this agent have died.
constexpr std::chrono::minutes kLostKept{1};  // A ring that was lost: its own thread may still be in it, and must not be who ends it.
constexpr std::chrono::seconds kLookAgain{10};  // After a way was lost.

// Ways to a device, besides the channel. Of two that take the same time, the first.
enum : std::size_t { kRing, kUcx, kDirectWays };
constexpr std::array<const char*, kDirectWays> kNames{"ring", "ucx"};
constexpr std::array<const char*, kDirectWays> kSecurity{"one user, one machine", "none (one trust domain)"};
constexpr std::array<const char*, kDirectWays> kThere{"its agent is on this machine, in this network namespace and of this user", "its agent is of this one's trust domain"};

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
  std::array<std::atomic<std::uint64_t>, kDirectWays> direct{};
  std::atomic<std::uint64_t> by_channel{0};
};

struct Links::Way {
  std::shared_ptr<Device> device;                // Null: it is not there.
  LinkCost cost;                                 // None: not measured, and taken.
  std::string why = "it was not looked for yet"; // It is not there.
  std::optional<Clock::time_point> lost;
};

struct Links::Peer {
  std::string address;
  model::BootId boot;
  std::unique_ptr<device::RemoteDevice> channel;
  std::shared_ptr<Counts> counts;

  std::shared_ptr<Device> Now(std::size_t way) {
    const std::lock_guard lock(mutex);
    return ways[way].device;
  }
  // The fastest way for so many bytes; kDirectWays: the channel.
  std::pair<std::size_t, std::shared_ptr<Device>> WayFor(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    std::pair<std::size_t, std::shared_ptr<Device>> best{kDirectWays, nullptr};
    double least = channel_cost.us(bytes);
    for (std::size_t i = kDirectWays; i-- > 0;) {
      if (!ways[i].device || ways[i].cost.us(bytes) > least) continue;
      best = {i, ways[i].device};
      least = ways[i].cost.us(bytes);
    }
    return best;
  }
  void Lose(std::size_t way) {
    const std::lock_guard lock(mutex);
    if (!ways[way].device) return;
    lost.emplace_back(Clock::now(), std::exchange(ways[way].device, nullptr));
    ways[way].why = "it was lost";
    ways[way].lost = Clock::now();
  }
  void LoseAll() {
    for (std::size_t i = 0; i < kDirectWays; ++i) Lose(i);
  }
  // Says so once.
  bool TimeToLook() {
    const std::lock_guard lock(mutex);
    bool time = false;
    for (Way& way : ways) {
      if (!way.lost || Clock::now() - *way.lost < kLookAgain) continue;
      way.lost.reset();
      time = true;
    }
    return time;
  }

  std::mutex mutex;
  std::array<Way, kDirectWays> ways;
  LinkCost channel_cost;
  std::vector<std::pair<Clock::time_point, std::shared_ptr<Device>>> lost;
};

class Links::LinkedDevice final : public Device {
 public:
  explicit LinkedDevice(std::shared_ptr<Peer> peer) : peer_(std::move(peer)) {}
  void Submit(device::Request request, Done done) override {
    if (request.opcode == device::Opcode::kAbort) return Abort(std::move(request), 0, std::move(done));
    const auto [way, device] = peer_->WayFor(request.data.size() + request.state.size());
    if (!device) {
      ++peer_->counts->by_channel;
      return peer_->channel->Submit(std::move(request), std::move(done));
    }
    ++peer_->counts->direct[way];
    device->Submit(std::move(request), [peer = peer_, way = way, done = std::move(done)](device::Completion completion) {
      if (!completion.status.ok() && completion.status.error().code == ErrorCode::kUnavailable) peer->Lose(way);
      done(std::move(completion));
    });
  }

 private:
  // Each way has numbers of its own, and finds only what went by it.
  void Abort(device::Request request, std::size_t from, Done done) {
    std::shared_ptr<Device> device;
    while (from < kDirectWays && !device) device = peer_->Now(from++);
    if (!device) return peer_->channel->Submit(std::move(request), std::move(done));
    device->Submit(request, [self = LinkedDevice(peer_), request, from, done = std::move(done)](device::Completion completion) mutable {
      const bool elsewhere = !completion.status.ok() && completion.status.error().code == ErrorCode::kNotFound;
      if (elsewhere) self.Abort(std::move(request), from, std::move(done));
      else done(std::move(completion));
    });
  }
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
    peer->LoseAll();
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
  } else if (!peer->TimeToLook()) {
    return peer;
  }
  work_.push_back([this, peer] { Find(*peer); });
  changed_.notify_all();
  return peer;
}

std::shared_ptr<Device> Links::To(const std::string& address, model::BootId boot) { return std::make_shared<LinkedDevice>(PeerAt(address, boot)); }

// On the own thread: what is left of agents that listened at that address before.
void Links::ForgetOthers(const Peer& now) {
  const std::lock_guard lock(mutex_);
  std::erase_if(peers_, [&](const auto& item) {
    Peer& peer = *item.second;
    const bool before = peer.address == now.address && peer.boot != now.boot;
    if (before) peer.LoseAll();
    const std::lock_guard inner(peer.mutex);
    std::erase_if(peer.lost, [](const auto& lost) { return Clock::now() - lost.first > kLostKept; });
    return before && peer.lost.empty();
  });
}

Result<std::shared_ptr<Device>> Links::ConnectByRing(const Peer& peer) {
  if (!rings_) return FailedPrecondition("this agent's links are shaped, which rings would go past");
  GODWIT_ASSIGN(auto ring, device::ConnectRing(RingAddress(peer.boot)));
  return std::shared_ptr<Device>(std::move(ring));
}

Result<std::shared_ptr<Device>> Links::ConnectByUcx(const Peer& peer) {
  if (ucx_ == nullptr) return FailedPrecondition("this agent is in no trust domain (godwitd agent --trust-domain)");
  const auto asked = std::make_shared<std::promise<Result<device::UcxInvitation>>>();
  auto answer = asked->get_future();
  connect_(peer.address, [asked, domain = trust_domain_](Result<std::shared_ptr<transport::Channel>> channel) {
    if (!channel.ok()) return asked->set_value(channel.error());
    device::AskInvitation(*channel, domain, [asked](Result<device::UcxInvitation> invitation) { asked->set_value(std::move(invitation)); });
  });
  if (answer.wait_for(kAnswerTime) != std::future_status::ready) return DeadlineExceeded("it does not answer");
  GODWIT_ASSIGN(const device::UcxInvitation invitation, answer.get());
  GODWIT_ASSIGN(auto device, ucx_->Connect(invitation));
  return std::shared_ptr<Device>(std::move(device));
}

void Links::Trust(std::string domain, std::unique_ptr<device::Ucx> ucx) {
  trust_domain_ = std::move(domain);
  ucx_ = std::move(ucx);
}

Result<device::UcxInvitation> Links::Invite(const std::string& domain) {
  if (ucx_ == nullptr) return PermissionDenied("it is in no trust domain");
  if (domain != trust_domain_) return PermissionDenied(fmt::format("it is in trust domain '{}', not in '{}'", trust_domain_, domain));
  return ucx_->Invite();
}

void Links::Find(Peer& peer) {
  ForgetOthers(peer);
  bool found = false;
  for (std::size_t i = 0; i < kDirectWays; ++i) {
    if (peer.Now(i)) continue;
    auto connected = i == kRing ? ConnectByRing(peer) : ConnectByUcx(peer);
    const std::lock_guard lock(peer.mutex);
    if (connected.ok()) peer.ways[i].device = std::move(connected).value();
    else peer.ways[i].why = connected.error().message;
    found |= connected.ok();
  }
  if (!found) return;
  const auto target = Target::Create(*peer.channel);
  if (!target.ok()) return;
  const auto by_channel = target->CostOf(*peer.channel);
  for (std::size_t i = 0; i < kDirectWays && by_channel.ok(); ++i) {
    const auto device = peer.Now(i);
    const auto cost = device ? target->CostOf(*device) : Result<LinkCost>(LinkCost());
    const std::lock_guard lock(peer.mutex);
    peer.channel_cost = *by_channel;
    if (cost.ok()) peer.ways[i].cost = *cost;
  }
}

void Links::Measure(const std::string& address, model::BootId boot, std::function<void(Result<std::string>)> done) {
  const auto peer = PeerAt(address, boot);
  const auto measure = [this, peer]() -> Result<std::string> {
    GODWIT_ASSIGN(const auto target, Target::Create(*peer->channel));
    Find(*peer);
    std::array<std::shared_ptr<Device>, kDirectWays> devices;
    json transports = json::array(), sizes = json::array();
    const auto describe = [&](const char* name, const std::string& security, const std::optional<LinkCost>& cost, const std::string& why) {
      json entry{{"name", name}, {"security", security}, {"available", cost.has_value()}, {"why", why}};
      if (cost) entry.update({{"latency_us", cost->latency_us}, {"bytes_per_second", cost->bytes_per_us * 1e6}});
      transports.push_back(std::move(entry));
    };
    for (std::size_t i = 0; i < kDirectWays; ++i) {
      std::optional<LinkCost> cost;
      for (int tries = 0; tries < 2 && !cost; ++tries) {  // It may have been lost.
        if (tries > 0) Find(*peer);
        devices[i] = peer->Now(i);
        if (!devices[i]) break;
        if (const auto measured = target.CostOf(*devices[i]); measured.ok()) cost = *measured;
        else peer->Lose(i);
      }
      if (!cost) devices[i] = nullptr;
      const std::lock_guard lock(peer->mutex);
      if (cost) peer->ways[i].cost = *cost;
      describe(kNames[i], kSecurity[i], cost, cost ? kThere[i] : peer->ways[i].why);
    }
    GODWIT_ASSIGN(const LinkCost by_channel, target.CostOf(*peer->channel));
    {
      const std::lock_guard lock(peer->mutex);
      peer->channel_cost = by_channel;
    }
    describe("channel", channel_security_, by_channel, "always there");
    for (const std::uint64_t bytes : kSizes) {
      if (by_channel.us(bytes) > kTooLongUs) break;
      const std::uint64_t request = std::min<std::uint64_t>(bytes, device::kDataBytesMax);
      json entry{{"bytes", bytes}};
      GODWIT_ASSIGN(entry["channel_us"], target.MedianOf(*peer->channel, bytes));
      for (std::size_t i = 0; i < kDirectWays; ++i) {
        if (!devices[i]) continue;
        GODWIT_ASSIGN(entry[fmt::format("{}_us", kNames[i])], target.MedianOf(*devices[i], bytes));
      }
      const std::size_t way = peer->WayFor(request).first;
      entry["chosen"] = way < kDirectWays ? kNames[way] : "channel";
      const json& chosen = transports[way];
      const LinkCost cost{chosen["latency_us"], chosen["bytes_per_second"].get<double>() / 1e6};
      entry["expected_us"] = cost.us(request) * static_cast<double>((bytes + request - 1) / request);
      sizes.push_back(std::move(entry));
    }
    return json{{"transports", std::move(transports)}, {"sizes", std::move(sizes)}}.dump();
  };
  const std::lock_guard lock(mutex_);
  work_.push_back([measure, done = std::move(done)] { done(measure()); });
  changed_.notify_all();
}

std::string Links::MetricsText() const {
  std::string text = "# TYPE godwit_link_requests counter\n";
  for (std::size_t i = 0; i < kDirectWays; ++i) text += fmt::format("godwit_link_requests_total{{transport=\"{}\"}} {}\n", kNames[i], counts_->direct[i].load());
  return text + fmt::format("godwit_link_requests_total{{transport=\"channel\"}} {}\n", counts_->by_channel.load());
}

}  // namespace godwit::agent
