#include "agent/migration_driver.h"

#include <deque>
#include <map>
#include <set>
#include <vector>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "agent/migration_session.h"
#include "base/machine_clock.h"

namespace godwit::agent {

using migration::Token;

Result<std::unique_ptr<runtime::ArrivingMemory>> MigrationSite::PrepareMemory(const InstanceHost::Options& options, ByteCount bytes) {
  runtime::Limits limits;
  limits.memory_max = options.service.manifest.limits.memory;
  return runtime::ArrivingMemory::Create(options.module, limits, bytes);
}

namespace {

// Channels to targets are closed when no move has ended for so long.
constexpr std::chrono::seconds kChannelsKept{60};

// Sessions are remembered by these names; ours are a tenth of that.
bool Plausible(const wire::Token& token) {
  constexpr std::size_t kNameBytesMax = 512;
  return token.migration()->size() <= kNameBytesMax && token.instance()->size() <= kNameBytesMax;
}

}  // namespace

struct MigrationDriver::Impl {
  Impl(transport::EventLoop& loop, MigrationSite& site, MigrationStore& store, Options options)
      : context(loop, site, store, std::move(options)) {}

  // On the loop.
  void OpenPool(const std::weak_ptr<Impl>& weak) {
    transport::ChannelHandlers handlers;
    handlers.on_frame = [weak](const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
      if (const auto impl = weak.lock()) impl->OnAnswer(channel, frame);
    };
    handlers.on_closed = [weak](const std::shared_ptr<transport::Channel>& channel, const Error& reason) {
      const auto impl = weak.lock();
      if (!impl) return;
      const auto sessions = impl->leaving;
      for (const auto& [id, session] : sessions) session->OnChannelClosed(channel, reason);
    };
    context.channels = std::make_unique<transport::ChannelPool>(context.loop, context.options.channel, std::move(handlers));
    context.targets.clear();
  }
  // A frame of a target.
  void OnAnswer(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
    const auto* confirmed = frame.as<wire::Confirmed>();
    if (!confirmed) return;
    const Token token = GetToken(*confirmed->token());
    if (frame.call() != 0) {  // Also where its session is over: nothing of the instance is here then.
      flatbuffers::FlatBufferBuilder builder;
      const auto outcome = PutOutcome(builder, true, "");
      static_cast<void>(channel->Reply(frame.call(), builder, wire::CreateDone(builder, outcome)));
    }
    const auto session = leaving.find(token.migration);
    if (session == leaving.end()) return;
    std::optional<std::chrono::steady_clock::time_point> running_since;
    if (confirmed->running_since() != 0 && confirmed->kernel() && !RunningKernel().empty() && confirmed->kernel()->string_view() == RunningKernel()) {
      running_since.emplace(std::chrono::nanoseconds(confirmed->running_since()));
    }
    session->second->OnConfirmed(token, running_since);
  }

  void Begin(const model::MigrationRecord& record, const std::weak_ptr<Impl>& weak) {
    const model::MigrationId id = record.id;
    auto session = LeavingSession::Start(context, record, [weak, id] {
      if (const auto impl = weak.lock()) impl->Over(id, weak);
    });
    leaving[id] = std::move(session);
  }
  void Over(const model::MigrationId& id, const std::weak_ptr<Impl>& weak) {
    leaving.erase(id);
    idle = context.loop.After(kChannelsKept, [this, weak] {
      if (leaving.empty()) OpenPool(weak);
    });
    while (!queued.empty() && leaving.size() < kMigrationsMax) {
      const model::MigrationRecord next = std::move(queued.front());
      queued.pop_front();
      Begin(next, weak);
    }
  }
  // False: heard of already.
  bool Remember(const model::MigrationId& id) {
    if (!begun.insert(id).second) return false;
    begun_order.push_back(id);
    if (begun_order.size() > kHandoffsRememberedMax) {
      begun.erase(begun_order.front());
      begun_order.pop_front();
    }
    return true;
  }

  std::size_t Active() const {
    std::size_t active = 0;
    for (const auto& [id, session] : arriving) active += session->active();
    return active;
  }
  // The session of the token's migration, made if there is none; null if too many are remembered to make one.
  ArrivingSession* SessionFor(const Token& token) {
    const auto found = arriving.find(token.migration);
    if (found != arriving.end()) return found->second.get();
    while (arriving.size() >= kHandoffsRememberedMax && !arriving_order.empty()) {
      bool forgotten = false;
      for (auto it = arriving_order.begin(); it != arriving_order.end(); ++it) {
        if (arriving.at(*it)->active()) continue;
        arriving.at(*it)->Shut();
        arriving.erase(*it);
        arriving_order.erase(it);
        forgotten = true;
        break;
      }
      if (!forgotten) return nullptr;
    }
    arriving_order.push_back(token.migration);
    return (arriving[token.migration] = ArrivingSession::Create(context, token)).get();
  }
  void OnPrepare(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame, const wire::Prepare& prepare);
  void OnStranger(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame);

  MigrationContext context;
  transport::Timer idle;
  std::map<model::MigrationId, std::shared_ptr<LeavingSession>> leaving;
  std::deque<model::MigrationRecord> queued;
  std::set<model::MigrationId> begun;
  std::deque<model::MigrationId> begun_order;
  std::map<model::MigrationId, std::shared_ptr<ArrivingSession>> arriving;
  std::deque<model::MigrationId> arriving_order;
};

MigrationDriver::MigrationDriver(transport::EventLoop& loop, MigrationSite& site, MigrationStore& store, Options options)
    : impl_(std::make_shared<Impl>(loop, site, store, std::move(options))) {
  loop.Run([this] { impl_->OpenPool(impl_); });
}

MigrationDriver::~MigrationDriver() {
  std::vector<std::shared_ptr<LeavingSession>> leaving;
  std::vector<std::shared_ptr<ArrivingSession>> arriving;
  impl_->context.loop.Run([&] {
    for (auto& [id, session] : impl_->leaving) {
      session->Shut();
      leaving.push_back(std::move(session));
    }
    for (auto& [id, session] : impl_->arriving) {
      session->Shut();
      arriving.push_back(std::move(session));
    }
    impl_->leaving.clear();
    impl_->arriving.clear();
    impl_->idle.Cancel();
    impl_->context.channels.reset();
  });
}

void MigrationDriver::OnRecord(const model::MigrationRecord& record) {
  Impl& impl = *impl_;
  if (record.source != impl.context.options.channel.self.device) return;
  if (model::IsFinal(record.phase)) {
    std::erase_if(impl.queued, [&](const model::MigrationRecord& queued) { return queued.id == record.id; });
    const auto found = impl.leaving.find(record.id);
    if (found != impl.leaving.end()) found->second->Cancel(record.error.empty() ? "cancelled" : record.error);
    return;
  }
  if (record.phase != model::MigrationPhase::kPending || !impl.Remember(record.id)) return;
  if (impl.leaving.size() < kMigrationsMax) impl.Begin(record, impl_);
  else impl.queued.push_back(record);
}

void MigrationDriver::Impl::OnPrepare(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame,
                                      const wire::Prepare& prepare) {
  if (!Plausible(*prepare.token())) return;
  Token token = GetToken(*prepare.token());
  token.target_boot = context.options.channel.self.boot;
  const bool known = arriving.count(token.migration) != 0;
  ArrivingSession* session = known || Active() < kMigrationsMax ? SessionFor(token) : nullptr;
  if (session) return session->OnFrame(channel, frame);
  flatbuffers::FlatBufferBuilder builder;
  const auto outcome = PutOutcome(builder, false, fmt::format("{} instances are arriving already", kMigrationsMax));
  static_cast<void>(channel->Reply(frame.call(), builder, wire::CreatePrepareReply(builder, outcome)));
}

// A question about a token of an earlier life of this device: nothing of that life runs any more.
void MigrationDriver::Impl::OnStranger(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
  flatbuffers::FlatBufferBuilder builder;
  const auto outcome = PutOutcome(builder, false, "this agent was started after the token was made");
  const std::uint64_t boot = context.options.channel.self.boot.value;
  if (const auto* ask = frame.as<wire::AskOwner>()) {
    const auto token = PutToken(builder, GetToken(*ask->token()));
    const auto reply = wire::CreateOwnerReply(builder, outcome, token, wire::Ownership::not_accepted, boot);
    static_cast<void>(channel->Reply(frame.call(), builder, reply));
  }
}

bool MigrationDriver::OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
  Impl& impl = *impl_;
  const wire::Token* token = nullptr;
  switch (frame.type()) {
    case wire::Body::Prepare: impl.OnPrepare(channel, frame, *frame.as<wire::Prepare>()); return true;
    case wire::Body::AskOwner: token = frame.as<wire::AskOwner>()->token(); break;
    case wire::Body::Abort: token = frame.as<wire::Abort>()->token(); break;
    default: return false;
  }
  if (!Plausible(*token)) return true;
  const Token named = GetToken(*token);
  if (named.target_boot != impl.context.options.channel.self.boot) {
    impl.OnStranger(channel, frame);
    return true;
  }
  if (ArrivingSession* session = impl.SessionFor(named)) session->OnFrame(channel, frame);
  return true;
}

void MigrationDriver::OnChannelClosed(const std::shared_ptr<transport::Channel>& channel) {
  for (const auto& [id, session] : impl_->arriving) session->OnChannelClosed(channel);
}

void MigrationDriver::OnLeaseLost() {
  for (const auto& [id, session] : impl_->arriving) session->OnLeaseLost();
}

std::size_t MigrationDriver::leaving() const { return impl_->leaving.size() + impl_->queued.size(); }
std::size_t MigrationDriver::arriving() const { return impl_->Active(); }

}  // namespace godwit::agent
