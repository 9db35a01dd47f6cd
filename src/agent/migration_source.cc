// Source side of a migration: what Source says, done.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "agent/migration_session.h"

namespace godwit::agent {
namespace {

using namespace migration;
using Clock = std::chrono::steady_clock;

constexpr int kFindAttempts = 40;
constexpr std::chrono::milliseconds kFindInterval{50};
constexpr int kFinalReportsMax = 1200;  // Times retry_interval.

std::uint64_t MicrosSince(Clock::time_point begin) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count());
}

class Leaving final : public LeavingSession, public std::enable_shared_from_this<Leaving> {
 public:
  Leaving(MigrationContext& context, model::MigrationRecord record, std::function<void()> on_over)
      : context_(context),
        record_(std::move(record)),
        on_over_(std::move(on_over)),
        source_({record_.id, record_.instance, context.options.channel.self.device, record_.target,
                 model::Epoch{record_.epoch.value - 1}}) {}
  ~Leaving() override {
    AbortEncoding();
    lane_.reset();
  }

  // A record may be seen before the instance, which has just come, is.
  void Begin(int attempt = 0) {
    host_ = context_.site.Find(record_.instance);
    if (host_) {
      record_.source_isa = context_.options.isa;
      Feed(source::Start{});
    } else if (attempt < kFindAttempts) {
      deadline_ = context_.loop.After(kFindInterval, [this, attempt] { Begin(attempt + 1); });
    } else {
      ReportFailure("instance " + record_.instance.value + " is not on " + record_.source.value);
    }
  }
  void Cancel(const std::string& reason) override {
    if (source_.phase() == SourcePhase::kPending) return ReportFailure(reason);
    if (!source_.final() && !TokenSent()) Feed(source::CancelRequested{reason});
  }
  void Shut() override {
    shut_ = true;
    AbortEncoding();
    deadline_.Cancel();
    retry_.Cancel();
    DropChannel(Aborted("the agent ends"));
  }

 private:
  // --- Events
  void Feed(source::Event event) {
    if (shut_) return;
    events_.push_back(std::move(event));
    if (feeding_) return;
    feeding_ = true;
    while (!events_.empty()) {
      const source::Event next = std::move(events_.front());
      events_.pop_front();
      const SourcePhase before = source_.phase();
      auto actions = source_.Step(next);
      if (!actions.ok()) {
        spdlog::warn("migration {}: {}", record_.id.value, actions.error().message);
        continue;
      }
      if (source_.phase() != before) OnPhase();
      for (const source::Action& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
      if (source_.final() && source_.phase() != before) OnFinal();
    }
    feeding_ = false;
  }
  // Runs `work` on the loop if this session is still there.
  void Later(std::function<void(Leaving&)> work) {
    context_.loop.Post([weak = weak_from_this(), work = std::move(work)] {
      if (const auto self = weak.lock()) work(*self);
    });
  }
  void OnLane(std::function<void()> work) { lane_->Post(std::move(work)); }

  void OnPhase() {
    const SourcePhase phase = source_.phase();
    spdlog::info("migration {} of {} to {}: {}", record_.id.value, record_.instance.value, record_.target.value, ToString(phase));
    if (source_.final()) return;
    deadline_ = context_.loop.After(TimeoutOf(phase), [this, phase] { OnDeadline(phase); });
    if (!retry_armed_) ArmRetry();
    if (PublicPhase(phase) != record_.phase) {
      record_.phase = PublicPhase(phase);
      if (phase != SourcePhase::kIntent) {
        Report(nlohmann::json{{"phase", ToString(record_.phase)}, {"source_isa", record_.source_isa}});
      }
    }
  }
  void OnDeadline(SourcePhase phase) {
    if (phase == SourcePhase::kPreparing && !no_channel_.empty() && !channel_) return Feed(source::TargetLost{no_channel_});
    Feed(source::DeadlinePassed{phase});
    if (!source_.final() && source_.phase() == phase) {
      deadline_ = context_.loop.After(TimeoutOf(phase), [this, phase] { OnDeadline(phase); });
    }
  }
  std::chrono::milliseconds TimeoutOf(SourcePhase phase) const {
    switch (phase) {
      case SourcePhase::kStopping: return context_.options.stop_timeout + std::chrono::seconds(1);
      case SourcePhase::kSending:
      case SourcePhase::kCommitting:
      case SourcePhase::kResuming:
      case SourcePhase::kClaiming: return context_.options.commit_timeout;
      default: return context_.options.prepare_timeout;
    }
  }
  // Questions are asked again only once their answer is overdue.
  void ArmRetry() {
    retry_armed_ = true;
    retry_ = context_.loop.After(context_.options.retry_interval, [this] {
      retry_armed_ = false;
      if (source_.final()) return;
      const SourcePhase phase = source_.phase();
      if (phase == SourcePhase::kResuming || phase == SourcePhase::kClaiming ||
          (phase == SourcePhase::kCommitting && asked_)) {
        Feed(source::RetryDue{phase});
      }
      if (!source_.final()) ArmRetry();
    });
  }

  // --- The channel
  using ChannelUser = std::function<void(const std::shared_ptr<transport::Channel>&)>;
  // Gives `use` the channel to the target, opening it if need be; TargetLost if that fails.
  void WithChannel(ChannelUser use) {
    if (channel_ && channel_->open()) return use(channel_);
    waiting_for_channel_.push_back(std::move(use));
    if (waiting_for_channel_.size() > 1) return;
    context_.control.Post([weak = weak_from_this(), &store = context_.store, target = record_.target, &loop = context_.loop] {
      auto device = store.Device(target);
      loop.Post([weak, device = std::move(device)] {
        if (const auto self = weak.lock()) self->Connect(device);
      });
    });
  }
  void Connect(const Result<model::DeviceRecord>& device) {
    if (shut_) return;
    if (!device.ok()) return ConnectFailed(device.error());
    record_.target_isa = device->isa;
    target_address_ = device->channel;
    if (!source_.token() && device->state == model::DeviceState::kOffline) {
      return ConnectFailed(Unavailable("device " + record_.target.value + " is offline"));
    }
    transport::ChannelHandlers handlers;
    handlers.on_frame = [weak = weak_from_this()](const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
      if (const auto self = weak.lock()) self->OnFrame(channel, frame);
    };
    handlers.on_closed = [weak = weak_from_this()](const std::shared_ptr<transport::Channel>& channel, const Error& reason) {
      if (const auto self = weak.lock()) self->OnClosed(channel, reason);
    };
    transport::ConnectChannel(context_.loop, device->channel, context_.options.channel, std::move(handlers),
                              [weak = weak_from_this()](Result<std::shared_ptr<transport::Channel>> channel) {
                                const auto self = weak.lock();
                                if (!self || self->shut_) {
                                  if (channel.ok()) (*channel)->Close("the migration is over");
                                  return;
                                }
                                self->Connected(std::move(channel));
                              });
  }
  void Connected(Result<std::shared_ptr<transport::Channel>> channel) {
    if (!channel.ok()) return ConnectFailed(channel.error());
    if ((*channel)->peer().device != record_.target) {
      (*channel)->Close("not the device that was looked for");
      return ConnectFailed(Unavailable("at its address answers " + (*channel)->peer().device.value));
    }
    channel_ = *std::move(channel);
    streams_ = std::make_shared<transport::BulkStreams>(channel_);
    sent_before_ += bytes_on_channel_;
    bytes_on_channel_ = 0;
    if (source_.token()) Feed(source::TargetRebooted{channel_->peer().boot});  // Means nothing if it is the token's.
    auto users = std::move(waiting_for_channel_);
    waiting_for_channel_.clear();
    for (const ChannelUser& use : users) use(channel_);
  }
  void ConnectFailed(const Error& error) {
    waiting_for_channel_.clear();
    spdlog::info("migration {}: no channel to {}: {}", record_.id.value, record_.target.value, error.message);
    // After the token this is no news: the question is asked again when it is due.
    if (TokenSent()) return;
    no_channel_ = "no channel to " + record_.target.value + ": " + error.message;
    // A slow device may answer yet; the phase's deadline ends the attempts.
    const bool slow = error.code == ErrorCode::kDeadlineExceeded && source_.phase() == SourcePhase::kPreparing;
    if (slow) Feed(source::RetryDue{SourcePhase::kPreparing});
    else Feed(source::TargetLost{no_channel_});
  }
  void OnClosed(const std::shared_ptr<transport::Channel>& channel, const Error& reason) {
    if (channel != channel_ || shut_) return;
    DropChannel(reason);
    Feed(source::TargetLost{reason.message});
  }
  void DropChannel(const Error& reason) {
    if (!channel_) return;
    CountBytes();
    if (streams_) streams_->Fail(reason);
    streams_.reset();
    channel_->Close(reason.message);
    channel_.reset();
  }
  void OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) {
    if (channel != channel_ || shut_) return;
    if (streams_ && streams_->Handle(frame)) return;
    if (const auto* confirmed = frame.as<wire::Confirmed>()) {
      const Token token = GetToken(*confirmed->token());
      if (frame.call() != 0) {
        flatbuffers::FlatBufferBuilder builder;
        const auto outcome = PutOutcome(builder, true, "");
        static_cast<void>(channel->Reply(frame.call(), builder, wire::CreateDone(builder, outcome)));
      }
      Feed(source::Confirmed{token});
    }
  }
  void CountBytes() {
    if (channel_) bytes_on_channel_ = channel_->counters().bytes_sent;
  }
  bool TokenSent() const { return source_.phase() >= SourcePhase::kCommitting && !source_.final(); }

  // --- Actions
  void Do(const source::WriteIntent&) {
    context_.control.Post([weak = weak_from_this(), &context = context_, id = record_.id, isa = record_.source_isa] {
      const nlohmann::json patch{{"phase", ToString(model::MigrationPhase::kPreparing)}, {"source_isa", isa}};
      const Status written = context.store.Patch(id, patch.dump());
      context.loop.Post([weak, written] {
        const auto self = weak.lock();
        if (!self) return;
        if (written.ok()) self->Feed(source::IntentWritten{});
        else self->Feed(source::IntentRefused{"the intent could not be recorded: " + written.error().message});
      });
    });
  }

  void Do(const source::SendPrepare&) {
    WithChannel([this](const std::shared_ptr<transport::Channel>& channel) {
      const auto statistics = host_->statistics();
      flatbuffers::FlatBufferBuilder builder;
      const Token token{record_.id, record_.instance, record_.epoch, {}};
      const auto put = PutToken(builder, token);
      const auto prepare = wire::CreatePrepareDirect(
          builder, put, record_.source.value.c_str(), "", host_->record().package.c_str(), record_.service.value.c_str(),
          statistics.memory_bytes, statistics.memory_bytes, host_->record().ToJson().c_str(), host_->service().ToJson().c_str());
      channel->Ask<wire::Prepare>(builder, prepare, context_.options.prepare_timeout, [weak = weak_from_this()](Result<transport::Frame> frame) {
        if (const auto self = weak.lock()) self->OnPrepareReply(frame);
      });
    });
  }
  void OnPrepareReply(const Result<transport::Frame>& frame) {
    if (!frame.ok()) return Feed(source::TargetLost{"the target did not prepare: " + frame.error().message});
    const auto* reply = frame->as<wire::PrepareReply>();
    if (!reply) return Feed(source::TargetLost{"the target answered something else"});
    const bool accepted = reply->outcome()->code() == 0 && reply->target_boot() != 0;
    Feed(source::PrepareReplied{record_.id, accepted, model::BootId{reply->target_boot()},
                                record_.target.value + " refused: " + ReasonOf(*reply->outcome())});
  }

  void Do(const source::StopInstance&) {
    OnLane([this] {
      const auto begin = Clock::now();
      auto captured = host_->PauseAndCapture(context_.options.stop_timeout);
      const std::uint64_t latency = MicrosSince(begin);
      if (!captured.ok()) {
        return Later([reason = captured.error().message](Leaving& self) {
          self.Feed(source::CaptureFailed{"the instance could not be stopped: " + reason});
        });
      }
      captured_ = *std::move(captured);
      const std::uint64_t memory = captured_->memory_bytes(), requests = captured_->requests();
      Later([begin, latency, memory, requests](Leaving& self) {
        self.stop_began_ = begin;
        self.record_.stop_latency_us = latency;
        self.record_.memory_bytes = memory;
        self.record_.requests_held = requests;
        self.Feed(source::Captured{});
      });
    });
  }

  void Do(const source::SendState&) {
    OnLane([this] {
      auto segment = std::make_shared<Bytes>();
      segment->reserve(kSegmentBytes);
      const Status encoded = captured_->Encode([&](ByteView bytes) -> Status {
        while (!bytes.empty()) {
          const std::size_t take = std::min(bytes.size(), kSegmentBytes - segment->size());
          segment->insert(segment->end(), bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(take));
          bytes = bytes.subspan(take);
          if (segment->size() == kSegmentBytes) {
            GODWIT_TRY(Submit(std::move(segment)));
            segment = std::make_shared<Bytes>();
            segment->reserve(kSegmentBytes);
          }
        }
        return {};
      });
      Status sent = encoded;
      if (sent.ok() && !segment->empty()) sent = Submit(std::move(segment));
      if (sent.ok()) sent = WaitForSegments();
      Later([sent](Leaving& self) {
        if (sent.ok()) self.Feed(source::StateSent{});
        else self.Feed(source::TargetLost{"the state could not be sent: " + sent.error().message});
      });
    });
  }
  // On the lane: hands a segment to the loop, waiting while kSegmentsInFlightMax are on their way.
  Status Submit(std::shared_ptr<Bytes> segment) {
    {
      std::unique_lock lock(segments_mutex_);
      segments_changed_.wait(lock, [this] { return aborted_ || segments_ < kSegmentsInFlightMax; });
      if (aborted_) return Aborted("given up");
      ++segments_;
    }
    Later([segment = std::move(segment)](Leaving& self) { self.SendSegment(segment); });
    return {};
  }
  Status WaitForSegments() {
    std::unique_lock lock(segments_mutex_);
    segments_changed_.wait(lock, [this] { return aborted_ || segments_ == 0; });
    return aborted_ ? Status(Aborted("given up")) : Status();
  }
  void AbortEncoding() {
    const std::lock_guard lock(segments_mutex_);
    aborted_ = true;
    segments_changed_.notify_all();
  }
  void SegmentDone() {
    const std::lock_guard lock(segments_mutex_);
    --segments_;
    segments_changed_.notify_all();
  }
  void SendSegment(const std::shared_ptr<Bytes>& segment) {
    if (source_.phase() != SourcePhase::kSending || !streams_ || shut_) return SegmentDone();
    state_bytes_ += segment->size();
    const std::uint64_t id = streams_->Send(ByteView(*segment), [weak = weak_from_this(), segment](const Status& status) {
      const auto self = weak.lock();
      if (!self) return;
      if (!status.ok()) self->Feed(source::TargetLost{"the state could not be sent: " + status.error().message});
      self->SegmentDone();
    });
    flatbuffers::FlatBufferBuilder builder;
    const auto token = PutToken(builder, *source_.token());
    const Status told = channel_->Tell(builder, wire::CreateState(builder, token, id, segment->size()));
    if (!told.ok()) Feed(source::TargetLost{"the state could not be announced: " + told.error().message});
  }

  void Do(const source::SendToken& action) {
    if (!channel_ || !channel_->open()) return Feed(source::TargetLost{"the channel was lost before the token"});
    flatbuffers::FlatBufferBuilder builder;
    const auto token = PutToken(builder, action.token);
    channel_->Ask<wire::Commit>(builder, wire::CreateCommit(builder, token), context_.options.commit_timeout,
                                   [weak = weak_from_this(), sent = action.token](Result<transport::Frame> frame) {
                                     if (const auto self = weak.lock()) self->OnCommitReply(sent, frame);
                                   });
  }
  void OnCommitReply(const Token& sent, const Result<transport::Frame>& frame) {
    const auto* reply = frame.ok() ? frame->as<wire::CommitReply>() : nullptr;
    if (!reply) {
      return Feed(source::TargetLost{frame.ok() ? "the target answered something else" : frame.error().message});
    }
    if (reply->accepted() && record_.downtime_us == 0) record_.downtime_us = MicrosSince(stop_began_);
    Feed(source::CommitReplied{sent, reply->accepted(), record_.target.value + " refused: " + ReasonOf(*reply->outcome())});
  }

  void Do(const source::SendAbort& action) {
    if (!channel_ || !channel_->open() || !source_.token()) return;
    flatbuffers::FlatBufferBuilder builder;
    const auto token = PutToken(builder, *source_.token());
    const auto reason = builder.CreateString(action.reason);
    static_cast<void>(channel_->Tell(builder, wire::CreateAbort(builder, token, reason)));
  }

  void Do(const source::ResumeLocally& action) {
    AbortEncoding();
    OnLane([this, epoch = action.epoch] {
      if (captured_) {
        captured_.reset();
        host_->Resume();
      }
      context_.site.OnKept(record_.instance, epoch);
    });
  }

  void Do(const source::AskTarget& action) {
    asked_ = true;
    WithChannel([this, action](const std::shared_ptr<transport::Channel>& channel) {
      flatbuffers::FlatBufferBuilder builder;
      const auto token = PutToken(builder, action.token);
      auto done = [weak = weak_from_this(), asked = action.token](Result<transport::Frame> frame) {
        const auto self = weak.lock();
        if (self && frame.ok()) self->OnOwner(asked, *frame);
      };
      const auto ask = wire::CreateAskOwner(builder, token, action.demand_promise);
      channel->Ask<wire::AskOwner>(builder, ask, context_.options.retry_interval * 4, std::move(done));
    });
  }
  void OnOwner(const Token& asked, const transport::Frame& frame) {
    const auto* reply = frame.as<wire::OwnerReply>();
    if (!reply || reply->ownership() > wire::Ownership::MAX) return;
    const auto ownership = static_cast<Ownership>(reply->ownership());
    Feed(source::OwnerAnswered{asked, ownership, model::BootId{reply->target_boot()}});
  }

  void Do(const source::AskStore&) {
    if (store_asked_) return;
    store_asked_ = true;
    context_.control.Post([weak = weak_from_this(), &context = context_, instance = record_.instance, target = record_.target] {
      auto owner = context.store.Instance(instance);
      auto device = context.store.Device(target);
      context.loop.Post([weak, owner = std::move(owner), device = std::move(device)] {
        const auto self = weak.lock();
        if (!self) return;
        self->store_asked_ = false;
        if (owner.ok()) self->Feed(source::StoreShows{owner->device, owner->epoch});
        else if (owner.error().code == ErrorCode::kNotFound) self->Feed(source::StoreShows{});
        if (!device.ok() || !self->source_.token()) return;
        self->Feed(source::TargetRebooted{device->boot_id});
        if (device->state == model::DeviceState::kOffline) self->Feed(source::TargetLeaseExpired{});
      });
    });
  }

  void Do(const source::ClaimInStore& action) {
    if (claiming_) return;
    claiming_ = true;
    context_.control.Post([weak = weak_from_this(), &context = context_, epoch = action.epoch, record = record_] {
      const Status claimed = context.store.Confirm(record.instance, record.source, epoch, record.id);
      std::optional<source::Event> event;
      if (claimed.ok()) {
        event = source::ClaimWon{};
      } else if (claimed.error().code == ErrorCode::kFailedPrecondition || claimed.error().code == ErrorCode::kNotFound) {
        const auto owner = context.store.Instance(record.instance);
        if (owner.ok()) event = source::ClaimLost{owner->device};
        else if (owner.error().code == ErrorCode::kNotFound) event = source::ClaimLost{};
      }
      context.loop.Post([weak, event] {
        const auto self = weak.lock();
        if (!self) return;
        self->claiming_ = false;
        if (event) self->Feed(*event);
      });
    });
  }

  void Do(const source::ReleaseInstance&) {
    if (record_.downtime_us == 0) record_.downtime_us = MicrosSince(stop_began_);
    OnLane([this, to = Location{record_.target, target_address_, record_.epoch}] {
      captured_.reset();
      host_->Release(to);
      context_.site.OnLeft(record_.instance, to);
    });
  }

  void Do(const source::DestroyInstance& action) {
    OnLane([this, reason = action.reason] {
      captured_.reset();
      context_.site.OnLost(record_.instance, reason);
    });
  }

  // --- Reports
  void ReportFailure(const std::string& reason) {
    if (model::IsFinal(record_.phase)) return;
    deadline_.Cancel();
    record_.phase = model::MigrationPhase::kFailed;
    record_.error = reason;
    FinalReport(0);
  }
  void OnFinal() {
    deadline_.Cancel();
    record_.phase = PublicPhase(source_.phase());
    record_.error = source_.error();
    record_.total_us = MicrosSince(began_);
    CountBytes();
    record_.bytes_sent = sent_before_ + bytes_on_channel_;
    // After what the lane still has to do.
    OnLane([this] { Later([](Leaving& self) { self.FinalReport(0); }); });
  }
  void Report(const nlohmann::json& patch) {
    context_.reports.Post([&context = context_, id = record_.id, text = patch.dump()] {
      const Status reported = context.store.Patch(id, text);
      if (!reported.ok()) spdlog::debug("migration {}: progress not reported: {}", id.value, reported.error().message);
    });
  }
  void FinalReport(int attempt) {
    if (shut_) return;
    const nlohmann::json patch{{"phase", ToString(record_.phase)},
                               {"error", record_.error},
                               {"stop_latency_us", record_.stop_latency_us},
                               {"downtime_us", record_.phase == model::MigrationPhase::kDone ? record_.downtime_us : 0},
                               {"total_us", record_.total_us},
                               {"bytes_sent", record_.bytes_sent},
                               {"memory_bytes", record_.memory_bytes},
                               {"source_isa", record_.source_isa},
                               {"target_isa", record_.target_isa},
                               {"requests_held", record_.requests_held},
                               {"rounds", nlohmann::json::array({{{"bytes", state_bytes_}, {"pages", state_bytes_ / 4096},
                                                                  {"dirty_pages", 0}, {"us", record_.downtime_us}}})}};
    context_.reports.Post([weak = weak_from_this(), &context = context_, id = record_.id, text = patch.dump(), attempt] {
      const Status reported = context.store.Patch(id, text);
      const bool again = !reported.ok() && (reported.error().code == ErrorCode::kUnavailable ||
                                            reported.error().code == ErrorCode::kDeadlineExceeded);
      context.loop.Post([weak, again, attempt] {
        const auto self = weak.lock();
        if (!self || self->shut_) return;
        if (again && attempt < kFinalReportsMax) {
          self->deadline_ = self->context_.loop.After(self->context_.options.retry_interval,
                                                      [raw = self.get(), attempt] { raw->FinalReport(attempt + 1); });
          return;
        }
        self->Shut();
        self->on_over_();
      });
    });
  }

  MigrationContext& context_;
  model::MigrationRecord record_;
  const std::function<void()> on_over_;
  Source source_;
  std::deque<source::Event> events_;
  bool feeding_ = false, shut_ = false;
  const Clock::time_point began_ = Clock::now();
  Clock::time_point stop_began_ = began_;

  std::shared_ptr<InstanceHost> host_;
  std::unique_ptr<CapturedHost> captured_;  // The lane's.

  std::shared_ptr<transport::Channel> channel_;
  std::shared_ptr<transport::BulkStreams> streams_;
  std::vector<ChannelUser> waiting_for_channel_;
  std::string no_channel_;      // Why the last attempt to open one failed.
  std::string target_address_;  // Of its record: where gateways reach it too.
  std::uint64_t sent_before_ = 0, bytes_on_channel_ = 0, state_bytes_ = 0;
  bool asked_ = false, store_asked_ = false, claiming_ = false, retry_armed_ = false;
  transport::Timer deadline_, retry_;

  std::mutex segments_mutex_;
  std::condition_variable segments_changed_;
  std::size_t segments_ = 0;
  bool aborted_ = false;
  std::unique_ptr<Lane> lane_ = std::make_unique<Lane>();
};

}  // namespace

std::shared_ptr<LeavingSession> LeavingSession::Start(MigrationContext& context, model::MigrationRecord record,
                                                      std::function<void()> on_over) {
  auto session = std::make_shared<Leaving>(context, std::move(record), std::move(on_over));
  session->Begin();
  return session;
}

}  // namespace godwit::agent
