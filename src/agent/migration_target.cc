// Target side of a migration: what Target says, done.
#include <algorithm>
#include <optional>

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include "agent/migration_buffer.h"
#include "agent/migration_session.h"

namespace godwit::agent {
namespace {

using namespace migration;
using Clock = std::chrono::steady_clock;

// How much larger than announced a bundle may become while the instance still runs.
constexpr std::uint64_t kGrowthBytesMax = 512ull << 20;

class Arriving final : public ArrivingSession, public std::enable_shared_from_this<Arriving> {
 public:
  Arriving(MigrationContext& context, Token token) : context_(context), target_(std::move(token)) {}
  ~Arriving() override { lane_.reset(); }

  void OnFrame(const std::shared_ptr<transport::Channel>& channel, const std::shared_ptr<transport::BulkStreams>& streams,
               const transport::Frame& frame) override;
  void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel) override {
    if (channel != channel_) return;
    channel_.reset();
    streams_.reset();
    Feed(target::SourceLost{});
  }
  void OnLeaseLost() override { Feed(target::LeaseLost{}); }
  bool settled() const override { return target_.settled(); }
  bool active() const override { return !target_.settled() || work_ > 0; }
  void Shut() override {
    shut_ = true;
    deadline_.Cancel();
    retry_.Cancel();
    channel_.reset();
    streams_.reset();
  }

 private:
  void Feed(target::Event event);
  void OnPhase();
  void ArmDeadline(TargetPhase phase);
  void ArmRetry();
  void Later(std::function<void(Arriving&)> work) {
    context_.loop.Post([weak = weak_from_this(), work = std::move(work)] {
      if (const auto self = weak.lock()) work(*self);
    });
  }
  void OnLane(std::function<void()> work) {
    if (!lane_) lane_ = std::make_unique<Lane>();
    ++work_;
    lane_->Post([this, work = std::move(work)] {
      work();
      Later([](Arriving& self) {
        --self.work_;
        self.EndLaneIfIdle();
      });
    });
  }
  // A settled session is kept for late messages; its thread is not.
  void EndLaneIfIdle() {
    if (work_ == 0 && target_.settled()) lane_.reset();
  }

  void OnPrepare(const wire::Prepare& prepare, std::uint64_t call);
  void OnState(const wire::State& state);
  void OnCommit(const wire::Commit& commit, std::uint64_t call);

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
  void Do(const target::DropReservation&) { Drop(); }
  void Do(const target::DestroyInstance& action);
  void Drop();

  MigrationContext& context_;
  Target target_;
  std::deque<target::Event> events_;
  bool feeding_ = false, shut_ = false;
  int work_ = 0;
  std::shared_ptr<transport::Channel> channel_;  // The source's latest.
  std::shared_ptr<transport::BulkStreams> streams_;
  std::uint64_t prepare_call_ = 0, commit_call_ = 0, ask_call_ = 0;

  // Of the preparation.
  std::string package_, service_json_;
  std::uint64_t memory_bytes_ = 0, bytes_max_ = 0;
  std::optional<InstanceHost::Options> options_;  // The lane's.
  ArrivalBuffer buffer_;                          // The lane's while preparing and restoring, else the loop's.
  std::uint64_t announced_ = 0, received_ = 0;
  std::shared_ptr<InstanceHost> host_;            // Set by the lane, then used by the loop.
  std::unique_ptr<CapturedHost> paused_;          // The lane's.
  bool adopted_ = false, confirming_ = false;
  Clock::time_point accepted_at_{};

  transport::Timer deadline_, retry_;
  std::unique_ptr<Lane> lane_;
};

void Arriving::Feed(target::Event event) {
  if (shut_) return;
  events_.push_back(std::move(event));
  if (feeding_) return;
  feeding_ = true;
  while (!events_.empty()) {
    const target::Event next = std::move(events_.front());
    events_.pop_front();
    const TargetPhase before = target_.phase();
    auto actions = target_.Step(next);
    if (!actions.ok()) {
      spdlog::warn("migration {}: {}", target_.token().migration.value, actions.error().message);
      continue;
    }
    if (target_.phase() != before) OnPhase();
    for (const target::Action& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
  }
  feeding_ = false;
}

void Arriving::OnPhase() {
  const TargetPhase phase = target_.phase();
  spdlog::info("migration {} of {} to here: {}", target_.token().migration.value, target_.token().instance.value, ToString(phase));
  if (phase == TargetPhase::kConfirming || phase == TargetPhase::kOwner) ArmRetry();
  if (phase == TargetPhase::kConfirming) accepted_at_ = Clock::now();
  ArmDeadline(phase);
}

void Arriving::ArmDeadline(TargetPhase phase) {
  if (phase >= TargetPhase::kConfirming) return deadline_.Cancel();
  const auto timeout = phase == TargetPhase::kPreparing ? context_.options.prepare_timeout
                                                        : context_.options.stop_timeout + context_.options.commit_timeout;
  deadline_ = context_.loop.After(timeout, [this, phase] { Feed(target::DeadlinePassed{phase}); });
}

void Arriving::ArmRetry() {
  retry_ = context_.loop.After(context_.options.retry_interval, [this] {
    const TargetPhase phase = target_.phase();
    if (phase == TargetPhase::kConfirming && Clock::now() - accepted_at_ > context_.options.unconfirmed_max) {
      Feed(target::LeaseLost{});
    }
    Feed(target::RetryDue{phase});
    if (!target_.settled() && !shut_) ArmRetry();
  });
}

void Arriving::OnFrame(const std::shared_ptr<transport::Channel>& channel,
                       const std::shared_ptr<transport::BulkStreams>& streams, const transport::Frame& frame) {
  if (shut_) return;
  channel_ = channel;
  streams_ = streams;
  if (const auto* prepare = frame.as<wire::Prepare>()) return OnPrepare(*prepare, frame.call());
  if (const auto* state = frame.as<wire::State>()) return OnState(*state);
  if (const auto* commit = frame.as<wire::Commit>()) return OnCommit(*commit, frame.call());
  if (const auto* ask = frame.as<wire::AskOwner>()) {
    ask_call_ = frame.call();
    Feed(target::AskReceived{GetToken(*ask->token()), ask->demand_promise()});
  } else if (const auto* abort = frame.as<wire::Abort>()) {
    Feed(target::AbortReceived{abort->reason() ? abort->reason()->str() : ""});
  }
}

void Arriving::OnPrepare(const wire::Prepare& prepare, std::uint64_t call) {
  prepare_call_ = call;
  if (target_.phase() == TargetPhase::kIdle) {
    package_ = prepare.package()->str();
    service_json_ = prepare.service_json() ? prepare.service_json()->str() : "";
    memory_bytes_ = prepare.memory_bytes();
    bytes_max_ = std::min(kBundleBytesMax, memory_bytes_) + kGrowthBytesMax;  // What the source estimates beyond its memory binds nobody.
  }
  Feed(target::PrepareReceived{});
}

void Arriving::Do(const target::PrepareLocally&) {
  OnLane([this] {
    const auto prepare = [this]() -> Status {
      GODWIT_ASSIGN(const model::ServiceRecord service, model::ServiceRecord::FromJson(service_json_));
      GODWIT_ASSIGN(model::InstanceRecord record, context_.store.Instance(target_.token().instance));
      if (record.epoch.Next() != target_.token().epoch) {
        return FailedPrecondition(fmt::format("the store has instance {} at epoch {}, so that {} is not the next",
                                              record.id.value, record.epoch.value, target_.token().epoch.value));
      }
      if (record.service != service.name || record.package != package_) {
        return FailedPrecondition("the store has another service or package for instance " + record.id.value);
      }
      record.device = context_.options.channel.self.device;
      record.epoch = target_.token().epoch;
      record.state = model::InstanceState::kRunning;
      GODWIT_ASSIGN(options_, context_.site.Prepare(record, service, memory_bytes_));
      return buffer_.Reserve(std::min(bytes_max_, memory_bytes_ + kSegmentBytes));  // No more than the site has.
    };
    const Status prepared = prepare();
    service_json_ = {};  // The session is remembered, and the peer may have sent much.
    if (!prepared.ok() && options_) {
      options_.reset();
      context_.site.Abandon(target_.token().instance);
    }
    Later([prepared](Arriving& self) {
      if (prepared.ok()) self.Feed(target::Prepared{});
      else self.Feed(target::PrepareFailed{prepared.error().message});
    });
  });
}

void Arriving::Do(const target::SendPrepareReply& action) {
  if (!channel_) return;
  flatbuffers::FlatBufferBuilder builder;
  const auto outcome = PutOutcome(builder, action.accepted, action.reason);
  const auto reply = wire::CreatePrepareReply(builder, outcome, target_.token().target_boot.value);
  static_cast<void>(channel_->Reply(prepare_call_, builder, reply));
}

// Announces the next segment of the bundle.
void Arriving::OnState(const wire::State& state) {
  if (GetToken(*state.token()) != target_.token() || target_.phase() != TargetPhase::kReady) return;
  const std::uint64_t offset = announced_;
  const auto refuse = [this](const std::string& reason) {
    spdlog::warn("migration {}: {}", target_.token().migration.value, reason);
    Feed(target::SourceLost{});
  };
  if (state.bytes() == 0 || state.bytes() > kSegmentBytes || state.bytes() > bytes_max_ - announced_) {
    return refuse(fmt::format("a segment of {} bytes after {} is beyond what was prepared for", state.bytes(), announced_));
  }
  if (const Status reserved = buffer_.Reserve(offset + state.bytes()); !reserved.ok()) return refuse(reserved.error().message);
  announced_ += state.bytes();
  auto position = std::make_shared<std::uint64_t>(offset);
  const Status receiving = streams_->Receive(
      state.stream(), state.bytes(),
      [weak = weak_from_this(), position](ByteView bytes) -> Status {
        const auto self = weak.lock();
        if (!self || self->target_.phase() != TargetPhase::kReady) return Aborted("the migration was given up");
        self->buffer_.Write(*position, bytes);
        *position += bytes.size();
        self->received_ += bytes.size();
        return {};
      },
      [weak = weak_from_this()](const Status& status) {
        const auto self = weak.lock();
        if (self && !status.ok()) self->Feed(target::SourceLost{});
      });
  if (!receiving.ok()) refuse(receiving.error().message);
}

void Arriving::OnCommit(const wire::Commit& commit, std::uint64_t call) {
  commit_call_ = call;
  const Token token = GetToken(*commit.token());
  if (token == target_.token() && target_.phase() == TargetPhase::kReady && announced_ > 0 && received_ == announced_) {
    Feed(target::StateReceived{});
  }
  Feed(target::TokenReceived{token});
}

void Arriving::Do(const target::RestoreInstance&) {
  OnLane([this] {
    auto host = context_.site.Restore(std::move(*options_), buffer_.First(received_));
    options_.reset();
    buffer_.Free();
    if (host.ok()) host_ = *std::move(host);
    Later([status = host.ok() ? Status() : Status(host.error())](Arriving& self) {
      if (status.ok()) self.Feed(target::Restored{});
      else self.Feed(target::RestoreFailed{"the instance could not be restored: " + status.error().message});
    });
  });
}

void Arriving::Do(const target::ResumeInstance&) {
  adopted_ = true;
  context_.site.Adopt(host_);
  host_->Resume();
}

void Arriving::Do(const target::SendCommitReply& action) {
  if (!channel_) return;
  flatbuffers::FlatBufferBuilder builder;
  const auto outcome = PutOutcome(builder, action.accepted, action.reason);
  const auto token = PutToken(builder, action.token);
  const auto reply = wire::CreateCommitReply(builder, outcome, token, action.accepted);
  static_cast<void>(channel_->Reply(commit_call_, builder, reply));
}

void Arriving::Do(const target::SendOwnerReply& action) {
  if (!channel_) return;
  flatbuffers::FlatBufferBuilder builder;
  const auto outcome = PutOutcome(builder, true, "");
  const auto token = PutToken(builder, action.token);
  const auto reply = wire::CreateOwnerReply(builder, outcome, token, static_cast<wire::Ownership>(action.ownership),
                                            target_.token().target_boot.value);
  static_cast<void>(channel_->Reply(ask_call_, builder, reply));
}

void Arriving::Do(const target::ConfirmInStore&) {
  if (confirming_) return;
  confirming_ = true;
  context_.control.Post([weak = weak_from_this(), &context = context_, token = target_.token()] {
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
      spdlog::warn("migration {}: not confirmed yet: {}", self->target_.token().migration.value, confirmed.error().message);
    });
  });
}

void Arriving::Do(const target::SendConfirmed&) {
  if (!channel_ || !channel_->open()) return;  // The source asks.
  flatbuffers::FlatBufferBuilder builder;
  const auto token = PutToken(builder, target_.token());
  channel_->Ask<wire::Confirmed>(builder, wire::CreateConfirmed(builder, token), context_.options.retry_interval * 4,
                               [weak = weak_from_this()](Result<transport::Frame> frame) {
                                 const auto self = weak.lock();
                                 if (self && frame.ok() && frame->as<wire::Done>()) {
                                   self->Feed(target::ReleaseAcknowledged{});
                                   self->EndLaneIfIdle();
                                 }
                               });
}

void Arriving::Do(const target::OpenToRequests&) {
  context_.site.OnArrived(target_.token().instance);
  OnLane([this] { host_.reset(); });  // The agent's alone now, once what the lane had to do is done.
}

void Arriving::Do(const target::PauseInstance&) {
  OnLane([this] {
    auto paused = host_->PauseAndCapture(context_.options.stop_timeout);
    if (paused.ok()) paused_ = *std::move(paused);
    else spdlog::error("migration {}: an unconfirmed instance runs on: {}", target_.token().migration.value, paused.error().message);
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
  spdlog::warn("migration {}: instance {} is given up here: {}", target_.token().migration.value,
               target_.token().instance.value, action.reason);
  Drop();
}

void Arriving::Drop() {
  OnLane([this] {
    paused_.reset();
    options_.reset();
    host_.reset();
    buffer_.Free();
    context_.site.Abandon(target_.token().instance);
  });
}

}  // namespace

std::shared_ptr<ArrivingSession> ArrivingSession::Create(MigrationContext& context, Token token) {
  return std::make_shared<Arriving>(context, std::move(token));
}

}  // namespace godwit::agent
