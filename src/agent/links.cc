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

// Ways to a device, the last one always there. Of two that take the same time, the first.
enum : std::size_t { kRing, kUcx, kChannel, kWays, kDirectWays = kChannel };
constexpr std::array<const char*, kWays> kNames{"ring", "ucx", "channel"};
constexpr std::array<const char*, kDirectWays> kSecurity{"one user, one machine", "none (one trust domain)"};
constexpr std::array<const char*, kWays> kThere{"its agent is on this machine, in this network namespace and of this user", "its agent is of this one's trust domain",
                                               "always there"};

// Answered at the latest when nobody is left who could.
struct Asked {
  std::promise<Result<device::UcxInvitation>> answer;
  bool set = false;
  void Set(Result<device::UcxInvitation> invitation) {
    if (!std::exchange(set, true)) answer.set_value(std::move(invitation));
  }
  ~Asked() { Set(Unavailable("the channel was dropped")); }
};

std::vector<Device*> Pointers(const std::vector<std::shared_ptr<Device>>& devices) {
  std::vector<Device*> pointers;
  for (const auto& device : devices) pointers.push_back(device.get());
  return pointers;
}

}  // namespace

// Memory of the device to write to, for as long as this lives.
class Links::Target {
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
  // By each of `ways` (null: it is not there), in turns: a thread that has just answered may still be awake. nullopt: not there, or it failed.
  std::vector<std::optional<double>> MediansOf(const std::vector<Device*>& ways, std::uint64_t bytes) const {
    const int rounds = bytes > device::kDataBytesMax ? kLongRounds : kRounds;
    std::vector<std::vector<double>> times(ways.size());
    for (int i = 0; i < rounds; ++i) {
      for (std::size_t way = 0; way < ways.size(); ++way) {
        if (ways[way] == nullptr || times[way].size() < static_cast<std::size_t>(i)) continue;
        if (const auto time = Write(*ways[way], bytes); time.ok()) times[way].push_back(*time);
      }
    }
    std::vector<std::optional<double>> medians(ways.size());
    for (std::size_t way = 0; way < ways.size(); ++way) {
      if (times[way].size() < static_cast<std::size_t>(rounds)) continue;
      std::nth_element(times[way].begin(), times[way].begin() + rounds / 2, times[way].end());
      medians[way] = times[way][static_cast<std::size_t>(rounds / 2)];
    }
    return medians;
  }
  std::vector<std::optional<LinkCost>> CostsOf(const std::vector<Device*>& ways) const {
    const auto small = MediansOf(ways, kSizes.front()), large = MediansOf(ways, kEnvelopeBytes);
    std::vector<std::optional<LinkCost>> costs(ways.size());
    for (std::size_t way = 0; way < ways.size(); ++way) {
      if (!small[way] || !large[way]) continue;
      const double more = *large[way] - *small[way];
      costs[way] = LinkCost{*small[way], more > 0 ? static_cast<double>(kEnvelopeBytes - kSizes.front()) / more : 0};
    }
    return costs;
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

std::string RingAddress(model::BootId boot) { return "@godwit-ring-" + boot.ToString(); }

// Of all peers, those that were forgotten too.
struct Links::Counts {
  std::array<std::atomic<std::uint64_t>, kWays> by{};
};

struct Links::Way {
  std::shared_ptr<Device> device;                // Null: it is not there.
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
  // The fastest way for so many bytes, and its cost.
  std::pair<std::size_t, LinkCost> Choose(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    return ChooseLocked(bytes);
  }
  // nullptr: the channel.
  std::pair<std::size_t, std::shared_ptr<Device>> WayFor(std::uint64_t bytes) {
    const std::lock_guard lock(mutex);
    const std::size_t way = ChooseLocked(bytes).first;
    return {way, way < kDirectWays ? ways[way].device : nullptr};
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
  // So long ago that it is time to look again. Says so once.
  bool LostOne(std::chrono::seconds ago = {}) {
    const std::lock_guard lock(mutex);
    bool any = false;
    for (Way& way : ways) {
      if (!way.lost || Clock::now() - *way.lost < ago) continue;
      way.lost.reset();
      any = true;
    }
    return any;
  }

  std::mutex mutex;
  std::array<Way, kDirectWays> ways;
  std::array<LinkCost, kWays> costs;  // Nothing: not measured, and taken.
  std::vector<std::pair<Clock::time_point, std::shared_ptr<Device>>> lost;

 private:
  std::pair<std::size_t, LinkCost> ChooseLocked(std::uint64_t bytes) const {
    std::size_t best = kChannel;
    for (std::size_t i = kDirectWays; i-- > 0;) {
      if (ways[i].device && costs[i].us(bytes) <= costs[best].us(bytes)) best = i;
    }
    return {best, costs[best]};
  }
};

class Links::LinkedDevice final : public Device {
 public:
  explicit LinkedDevice(std::shared_ptr<Peer> peer) : peer_(std::move(peer)) {}
  void Submit(device::Request request, Done done) override {
    if (request.opcode == device::Opcode::kAbort) return Abort(std::move(request), 0, std::move(done));
    const auto [way, device] = peer_->WayFor(request.data.size() + request.state.size());
    if (!device) {
      ++peer_->counts->by[kChannel];
      return peer_->channel->Submit(std::move(request), std::move(done));
    }
    ++peer_->counts->by[way];
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
  } else if (!peer->LostOne(kLookAgain)) {
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
  auto asked = std::make_shared<Asked>();
  auto answer = asked->answer.get_future();
  connect_(peer.address, [asked = std::move(asked), domain = trust_domain_](Result<std::shared_ptr<transport::Channel>> channel) {
    if (!channel.ok()) return asked->Set(channel.error());
    device::AskInvitation(*channel, domain, [asked](Result<device::UcxInvitation> invitation) { asked->Set(std::move(invitation)); });
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
  if (const auto target = Target::Create(*peer.channel); target.ok()) static_cast<void>(MeasureCosts(peer, *target));
}

std::vector<std::shared_ptr<Device>> Links::MeasureCosts(Peer& peer, const Target& target) {
  std::vector<std::shared_ptr<Device>> ways;
  for (std::size_t i = 0; i < kDirectWays; ++i) ways.push_back(peer.Now(i));
  ways.push_back(std::shared_ptr<Device>(peer.channel.get(), [](Device*) {}));
  const auto costs = target.CostsOf(Pointers(ways));
  for (std::size_t i = 0; i < ways.size(); ++i) {
    if (ways[i] && !costs[i]) {
      if (i < kDirectWays) peer.Lose(i);
      ways[i] = nullptr;
    }
    const std::lock_guard lock(peer.mutex);
    if (costs[i]) peer.costs[i] = *costs[i];
  }
  return ways;
}

void Links::Measure(const std::string& address, model::BootId boot, std::function<void(Result<std::string>)> done) {
  const auto peer = PeerAt(address, boot);
  const auto measure = [this, peer]() -> Result<std::string> {
    GODWIT_ASSIGN(const auto target, Target::Create(*peer->channel));
    Find(*peer);
    auto ways = MeasureCosts(*peer, target);
    if (peer->LostOne()) {  // It may be back.
      Find(*peer);
      ways = MeasureCosts(*peer, target);
    }
    if (!ways.back()) return Unavailable("the channel to it was lost");
    json transports = json::array(), sizes = json::array();
    for (std::size_t i = 0; i < ways.size(); ++i) {
      const std::lock_guard lock(peer->mutex);
      json entry{{"name", kNames[i]}, {"security", i < kDirectWays ? kSecurity[i] : channel_security_}, {"available", ways[i] != nullptr},
                 {"why", ways[i] ? kThere[i] : peer->ways[i].why}};
      if (ways[i]) entry.update({{"latency_us", peer->costs[i].latency_us}, {"bytes_per_second", peer->costs[i].bytes_per_us * 1e6}});
      transports.push_back(std::move(entry));
    }
    for (const std::uint64_t bytes : kSizes) {
      const std::uint64_t request = std::min<std::uint64_t>(bytes, device::kDataBytesMax);
      const auto [way, cost] = peer->Choose(request);
      const auto expected = [&](const LinkCost& of) { return of.us(request) * static_cast<double>((bytes + request - 1) / request); };
      if (expected(cost) > kTooLongUs) break;
      json entry{{"bytes", bytes}, {"chosen", kNames[way]}, {"expected_us", expected(cost)}};
      const auto medians = target.MediansOf(Pointers(ways), bytes);
      for (std::size_t i = 0; i < ways.size(); ++i) {
        if (medians[i]) entry[fmt::format("{}_us", kNames[i])] = *medians[i];
      }
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
  for (std::size_t i = 0; i < kWays; ++i) text += fmt::format("godwit_link_requests_total{{transport=\"{}\"}} {}\n", kNames[i], counts_->by[i].load());
  return text;
}

}  // namespace godwit::agent
