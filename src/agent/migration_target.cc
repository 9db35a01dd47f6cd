// Target side of a migration: what Target says, done.
//
// Two threads: the loop, and a lane for what blocks, which reads the page stream that ends with the token. The state
// machine is stepped by whichever has an event, so that the lane restores and resumes the instance without waiting for
// another thread.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "agent/migration_session.h"
#include "agent/warm_thread.h"
#include "base/machine_clock.h"
#include "migration/page_receiver.h"

namespace godwit::agent {
namespace {

using namespace migration;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kThreadsOfAHost = 2;  // A reactor's.
// How much larger than announced a bundle may become while the instance still runs.
constexpr std::uint64_t kGrowthBytesMax = 512ull << 20;

class Arriving final : public ArrivingSession, public std::enable_shared_from_this<Arriving> {
 public:
  Arriving(MigrationContext& context, Token token) : context_(context), target_(std::move(token)), token_(target_.token()) {}
  ~Arriving() override {
    ShutStreams();
    lane_.reset();
  }

  void OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) override;
  void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel) override {
    if (channel != Channel()) return;
    SetChannel(nullptr);
    Feed(target::SourceLost{});
  }
  void OnLeaseLost() override { Feed(target::LeaseLost{}); }
  bool settled() const override { return settled_; }
  bool active() const override { return !settled_ || work_ > 0; }
  void Shut() override {
    shut_ = true;
    ShutStreams();
    deadline_.Cancel();
    retry_.Cancel();
    SetChannel(nullptr);
  }

 private:
  void Feed(target::Event event);
  void OnPhase(TargetPhase phase);
  void ArmDeadline(TargetPhase phase);
  void ArmRetry();
  // Runs `work` on the loop, at once if this is the loop, if this session is still there.
  void OnLoop(std::function<void(Arriving&)> work) {
    if (context_.loop.OnLoop()) return work(*this);
    Later(std::move(work));
  }
  void Later(std::function<void(Arriving&)> work) {
    context_.loop.Post([weak = weak_from_this(), work = std::move(work)] {
      if (const auto self = weak.lock()) work(*self);
    });
  }
  // From the loop, or from the lane itself.
  void OnLane(std::function<void()> work) {
    if (!lane_) lane_ = std::make_unique<Lane>();
    ++work_;
    lane_->Post([this, work = std::move(work)] {
      work();
      if (--work_ == 0 && settled_) Later([](Arriving& self) { self.EndLaneIfIdle(); });
    });
  }
  // A settled session is kept for late messages; its thread is not.
  void EndLaneIfIdle() {
    if (work_ != 0 || !settled_) return;
    lane_.reset();
    std::shared_ptr<PageReceiver> receiver;
    const std::lock_guard lock(mutex_);
    receiver.swap(receiver_);
  }
  std::shared_ptr<transport::Channel> Channel() {
    const std::lock_guard lock(mutex_);
    return channel_;
  }
  void SetChannel(std::shared_ptr<transport::Channel> channel) {
    const std::lock_guard lock(mutex_);
    channel_ = std::move(channel);
  }
  std::shared_ptr<PageReceiver> Receiver() {
    const std::lock_guard lock(mutex_);
    return receiver_;
  }
  void ShutStreams() {
    if (const auto receiver = Receiver()) receiver->Shut();
  }

  void OnPrepare(const wire::Prepare& prepare, std::uint64_t call);
  Status Prepare();
  void Serve();
  void Confirm();

  void Do(const target::PrepareLocally&);
  void Do(const target::SendPrepareReply& action);
  void Do(const target::RestoreInstance&);
  void Do(const target::ResumeInstance&);
  void Do(const target::SendCommitReply& action);
  void Do(const target::SendOwnerReply& action);
  void Do(const target::ConfirmInStore&);
  void Do(const target::SendConfirmed&);
  void Do(const target::OpenToRequests&);
  void Do(const target::PauseInstance&);
  void Do(const target::UnpauseInstance&);
  void Do(const target::DropReservation& action);
  void Do(const target::DestroyInstance& action);
  void Drop();

  MigrationContext& context_;

  std::mutex mutex_;  // Of these.
  Target target_;
  std::deque<target::Event> events_;
  bool feeding_ = false;
  std::shared_ptr<transport::Channel> channel_;  // The source's latest.
  std::shared_ptr<PageReceiver> receiver_;
  const Token token_;
  std::atomic<TargetPhase> phase_{TargetPhase::kIdle};
  std::atomic<bool> settled_{false}, shut_{false};
  std::atomic<int> work_{0};

  // The loop's.
  std::uint64_t prepare_call_ = 0, ask_call_ = 0, received_at_deadline_ = 0;
  bool confirming_ = false;
  Clock::time_point accepted_at_{};
  transport::Timer deadline_, retry_;

  // Of the preparation, written before the lane begins.
  std::string package_, service_json_, instance_json_;
  model::DeviceName source_;
  std::vector<std::uint64_t> memories_;
  std::size_t streams_ = 0;
  std::uint64_t memory_bytes_ = 0;

  // The lane's.
  std::optional<InstanceHost::Options> options_;
  std::unique_ptr<CapturedHost> paused_;
  std::shared_ptr<InstanceHost> host_;
  std::weak_ptr<InstanceHost> resumed_;  // With mutex_.
  bool opened_ = false;  // The page streams.

  std::unique_ptr<Lane> lane_;
};

void Arriving::Feed(target::Event event) {
  std::unique_lock lock(mutex_);
  if (shut_) return;
  events_.push_back(std::move(event));
  if (feeding_) return;
  feeding_ = true;
  while (!events_.empty()) {
    const target::Event next = std::move(events_.front());
    events_.pop_front();
    const TargetPhase before = target_.phase();
    auto actions = target_.Step(next);
    const TargetPhase after = target_.phase();
    phase_ = after;
    settled_ = target_.settled();
    lock.unlock();
    if (!actions.ok()) {
      spdlog::warn("migration {}: {}", token_.migration.value, actions.error().message);
    } else {
      for (const target::Action& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
      // Nobody is woken while the guest stands still; the deadline of what was before finds out.
      const bool still = after == TargetPhase::kRestoring || after == TargetPhase::kRestored;
      if (after != before && !still) OnLoop([after](Arriving& self) { self.OnPhase(after); });
    }
    lock.lock();
  }
  feeding_ = false;
}

void Arriving::OnPhase(TargetPhase phase) {
  spdlog::info("migration {} of {} to here: {}", token_.migration.value, token_.instance.value, ToString(phase));
  if (phase != phase_) return;
  if (phase == TargetPhase::kConfirming || phase == TargetPhase::kOwner) ArmRetry();
  if (phase == TargetPhase::kConfirming) accepted_at_ = Clock::now();
  ArmDeadline(phase);
}

void Arriving::ArmDeadline(TargetPhase phase) {
  if (phase >= TargetPhase::kConfirming) return deadline_.Cancel();
  const auto timeout = phase == TargetPhase::kPreparing ? context_.options.prepare_timeout
                                                        : context_.options.stop_timeout + context_.options.commit_timeout;
  deadline_ = context_.loop.After(timeout, [this, phase] {
    if (phase_ != phase) return ArmDeadline(phase_);
    // Pages may come for a long time; only silence is a reason to give up.
    const auto receiver = Receiver();
    const std::uint64_t received = receiver ? receiver->bytes_received() : 0;
    if (phase == TargetPhase::kReady && received != received_at_deadline_) {
      received_at_deadline_ = received;
      return ArmDeadline(phase);
    }
    Feed(target::DeadlinePassed{phase});
  });
}

void Arriving::ArmRetry() {
  retry_ = context_.loop.After(context_.options.retry_interval, [this] {
    const TargetPhase phase = phase_;
    if (phase == TargetPhase::kConfirming && Clock::now() - accepted_at_ > context_.options.unconfirmed_max) {
      Feed(target::LeaseLost{});
    }
    Feed(target::RetryDue{phase});
    if (!settled_ && !shut_) ArmRetry();
  });
}

void Arriving::OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
  if (shut_) return;
  SetChannel(channel);
  if (const auto* prepare = frame.as<wire::Prepare>()) return OnPrepare(*prepare, frame.call());
  if (const auto* ask = frame.as<wire::AskOwner>()) {
    ask_call_ = frame.call();
    Feed(target::AskReceived{GetToken(*ask->token()), ask->demand_promise()});
  } else if (const auto* abort = frame.as<wire::Abort>()) {
    Feed(target::AbortReceived{abort->reason() ? abort->reason()->str() : ""});
  }
}

void Arriving::OnPrepare(const wire::Prepare& prepare, std::uint64_t call) {
  prepare_call_ = call;
  if (phase_ == TargetPhase::kIdle) {
    package_ = prepare.package()->str();
    service_json_ = prepare.service_json() ? prepare.service_json()->str() : "";
    memory_bytes_ = prepare.memory_bytes();
    source_ = model::DeviceName(prepare.source()->str());
    streams_ = prepare.page_streams();
    for (unsigned i = 0; prepare.memories() && i < prepare.memories()->size() && i <= kMemoriesMax; ++i) {
      memories_.push_back(prepare.memories()->Get(i));
    }
  }
  Feed(target::PrepareReceived{});
}

Status Arriving::Prepare() {
  GODWIT_ASSIGN(const model::ServiceRecord service, model::ServiceRecord::FromJson(service_json_));
  GODWIT_ASSIGN(model::InstanceRecord record, context_.store.Instance(token_.instance));
  if (record.epoch.Next() != token_.epoch) {
    return FailedPrecondition(fmt::format("the store has instance {} at epoch {}, so that {} is not the next",
                                          record.id.value, record.epoch.value, token_.epoch.value));
  }
  if (record.service != service.name || record.package != package_) {
    return FailedPrecondition("the store has another service or package for instance " + record.id.value);
  }
  record.device = context_.options.channel.self.device;
  record.epoch = token_.epoch;
  record.state = model::InstanceState::kRunning;
  GODWIT_ASSIGN(options_, context_.site.Prepare(record, service, memory_bytes_));
  WarmThread::Prepare(kThreadsOfAHost);
  std::uint64_t sum = 0;
  ArrivingMemories memories;
  for (const std::uint64_t bytes : memories_) {
    // No more than the site has set aside.
    if (bytes > memory_bytes_ - sum) return InvalidArgument("the memories are larger than their sum");
    sum += bytes;
    GODWIT_ASSIGN(auto memory, context_.site.PrepareMemory(*options_, {bytes}));
    memories.push_back(std::move(memory));
  }
  PageReceiver::Options options;
  options.channel = context_.options.channel;
  options.migration = token_.migration;
  options.epoch = token_.epoch;
  options.source = source_;
  options.streams = streams_;
  options.state_bytes_max = std::min(kBundleBytesMax, memory_bytes_ - sum + kGrowthBytesMax);
  options.open_timeout = context_.options.stop_timeout;
  GODWIT_ASSIGN(auto receiver, PageReceiver::Create(context_.options.listen_address, std::move(options), std::move(memories)));
  const std::lock_guard lock(mutex_);
  if (shut_) return Aborted("the agent ends");
  receiver_ = std::move(receiver);
  return {};
}

void Arriving::Do(const target::PrepareLocally&) {
  OnLane([this] {
    const Status prepared = Prepare();
    service_json_ = {};  // The session is remembered, and the peer may have sent much.
    if (!prepared.ok() && options_) {
      options_.reset();
      context_.site.Abandon(token_.instance);
    }
    if (!prepared.ok()) return Feed(target::PrepareFailed{prepared.error().message});
    Feed(target::Prepared{});
    OnLane([this] { Serve(); });  // Ends at once where the migration was given up meanwhile.
  });
}

// Takes what comes on the page streams: to the state, and once that is restored, to the token.
void Arriving::Serve() {
  const auto receiver = Receiver();
  if (!opened_) {
    if (const Status open = receiver->Open(); !open.ok()) return Feed(target::SourceLost{});
    opened_ = true;
  }
  auto arrived = receiver->Serve();
  if (!arrived.ok()) {
    if (phase_ < TargetPhase::kConfirming) spdlog::info("migration {}: {}", token_.migration.value, arrived.error().message);
    return Feed(target::SourceLost{});
  }
  if (std::holds_alternative<PageReceiver::StateArrived>(*arrived)) Feed(target::StateReceived{});
  else Feed(target::TokenReceived{token_});
}

void Arriving::Do(const target::SendPrepareReply& action) {
  OnLoop([action](Arriving& self) {
    const auto channel = self.Channel();
    if (!channel) return;
    const auto receiver = self.Receiver();
    flatbuffers::FlatBufferBuilder builder;
    const auto outcome = PutOutcome(builder, action.accepted, action.reason);
    const auto reply = wire::CreatePrepareReply(builder, outcome, self.token_.target_boot.value, receiver ? receiver->port() : 0,
                                                static_cast<std::uint32_t>(sysconf(_SC_PAGESIZE)));
    static_cast<void>(channel->Reply(self.prepare_call_, builder, reply));
  });
}

void Arriving::Do(const target::RestoreInstance&) {
  OnLane([this] {
    const auto receiver = Receiver();
    auto host = context_.site.Restore(std::move(*options_), receiver->state(), receiver->TakeMemories());
    options_.reset();
    receiver->FreeState();
    if (!host.ok()) return Feed(target::RestoreFailed{"the instance could not be restored: " + host.error().message});
    host_ = *std::move(host);
    OnLane([this] { Serve(); });
    Feed(target::Restored{});
  });
}

void Arriving::Do(const target::ResumeInstance&) {
  host_->Resume();
  context_.site.Adopt(host_);
  const std::lock_guard lock(mutex_);
  resumed_ = host_;
}

void Arriving::Do(const target::SendCommitReply& action) {
  if (const auto receiver = Receiver()) static_cast<void>(receiver->Reply(action.accepted, action.reason).ok());
}

void Arriving::Do(const target::SendOwnerReply& action) {
  OnLoop([action](Arriving& self) {
    const auto channel = self.Channel();
    if (!channel) return;
    flatbuffers::FlatBufferBuilder builder;
    const auto outcome = PutOutcome(builder, true, "");
    const auto token = PutToken(builder, action.token);
    const auto reply = wire::CreateOwnerReply(builder, outcome, token, static_cast<wire::Ownership>(action.ownership),
                                              self.token_.target_boot.value);
    static_cast<void>(channel->Reply(self.ask_call_, builder, reply));
  });
}

void Arriving::Do(const target::ConfirmInStore&) {
  OnLoop([](Arriving& self) { self.Confirm(); });
}

void Arriving::Confirm() {
  if (confirming_) return;
  confirming_ = true;
  context_.control.Post([weak = weak_from_this(), &context = context_, token = token_] {
    const Status confirmed =
        context.store.Confirm(token.instance, context.options.channel.self.device, token.epoch, token.migration);
    context.loop.Post([weak, confirmed] {
      const auto self = weak.lock();
      if (!self) return;
      self->confirming_ = false;
      if (confirmed.ok()) return self->Feed(target::ConfirmWon{});
      const ErrorCode code = confirmed.error().code;
      if (code == ErrorCode::kFailedPrecondition || code == ErrorCode::kNotFound || code == ErrorCode::kInvalidArgument) {
        return self->Feed(target::ConfirmLost{confirmed.error().message});
      }
      spdlog::warn("migration {}: not confirmed yet: {}", self->token_.migration.value, confirmed.error().message);
    });
  });
}

void Arriving::Do(const target::SendConfirmed&) {
  const auto channel = Channel();
  if (!channel || !channel->open()) return;  // The source asks.
  flatbuffers::FlatBufferBuilder builder;
  const auto token = PutToken(builder, token_);
  std::uint64_t running_since = 0;
  {
    const std::lock_guard lock(mutex_);
    const auto host = resumed_.lock();
    const auto since = host ? host->statistics().running_since : std::nullopt;
    if (since) running_since = static_cast<std::uint64_t>(std::chrono::nanoseconds(since->time_since_epoch()).count());
  }
  const auto kernel = builder.CreateString(RunningKernel());
  channel->Ask<wire::Confirmed>(builder, wire::CreateConfirmed(builder, token, running_since, kernel), context_.options.retry_interval * 4,
                               [weak = weak_from_this()](Result<transport::Frame> frame) {
                                 const auto self = weak.lock();
                                 if (self && frame.ok() && frame->as<wire::Done>()) {
                                   self->Feed(target::ReleaseAcknowledged{});
                                   self->EndLaneIfIdle();
                                 }
                               });
}

void Arriving::Do(const target::OpenToRequests&) {
  context_.site.OnArrived(token_.instance);
  OnLane([this] { host_.reset(); });  // The agent's alone now, once what the lane had to do is done.
}

void Arriving::Do(const target::PauseInstance&) {
  OnLane([this] {
    auto paused = host_->PauseAndCapture(context_.options.stop_timeout);
    if (paused.ok()) paused_ = *std::move(paused);
    else spdlog::error("migration {}: an unconfirmed instance runs on: {}", token_.migration.value, paused.error().message);
  });
}

void Arriving::Do(const target::UnpauseInstance&) {
  OnLane([this] {
    if (!paused_) return;
    paused_.reset();
    host_->Resume();
  });
}

void Arriving::Do(const target::DestroyInstance& action) {
  spdlog::warn("migration {}: instance {} is given up here: {}", token_.migration.value,
               token_.instance.value, action.reason);
  Drop();
}

// It has promised by now: a source that waits for an answer to its token may know.
void Arriving::Do(const target::DropReservation& action) {
  if (const auto receiver = Receiver()) static_cast<void>(receiver->Reply(false, action.reason).ok());
  Drop();
}

void Arriving::Drop() {
  ShutStreams();
  OnLane([this] {
    paused_.reset();
    options_.reset();
    host_.reset();
    context_.site.Abandon(token_.instance);
  });
}

}  // namespace

std::shared_ptr<ArrivingSession> ArrivingSession::Create(MigrationContext& context, Token token) {
  return std::make_shared<Arriving>(context, std::move(token));
}

}  // namespace godwit::agent
