// Source side of a migration: what Source says, done.
//
// Two threads: the loop, and a lane for what blocks. The state machine is stepped by whichever has an event, so that
// nothing waits for another thread while the guest stands still: the lane stops, sends, gives the token and hears the
// answer. Actions that use the channel or timers go to the loop, the rest to the lane.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "agent/migration_session.h"
#include "migration/live_copy.h"

namespace godwit::agent {
namespace {

using namespace migration;
using Clock = std::chrono::steady_clock;

constexpr int kFindAttempts = 40;
constexpr std::chrono::milliseconds kFindInterval{50};
constexpr int kFinalReportsMax = 1200;  // Times retry_interval.
// A phase that ends sooner is not worth a message to the controller.
constexpr std::chrono::milliseconds kReportAfter{20};
// The answer to the token is waited for that long without sleeping.
constexpr std::chrono::microseconds kReplySpin{1'000};
// Smaller moves take one page stream.
constexpr std::uint64_t kSeveralStreamsFrom = 64ull << 20;

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
    AbortCopy();
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
    if (phase_ == SourcePhase::kPending) return ReportFailure(reason);
    if (!Final() && !TokenSent()) Feed(source::CancelRequested{reason});
  }
  void Shut() override {
    shut_ = true;
    AbortCopy();
    deadline_.Cancel();
    retry_.Cancel();
    report_.Cancel();
    LeaveChannel();
  }
  void OnConfirmed(const Token& token, std::optional<Clock::time_point> running_since) override {
    running_since_ = running_since.value_or(Clock::time_point()).time_since_epoch().count();
    Feed(source::Confirmed{token});
  }
  void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel, const Error& reason) override {
    if (channel != channel_ || shut_) return;
    LeaveChannel();
    Feed(source::TargetLost{reason.message});
  }

 private:
  // --- Events. Any thread: one of those that have an event performs the actions of all.
  void Feed(source::Event event) {
    std::unique_lock lock(mutex_);
    if (shut_) return;
    events_.push_back(std::move(event));
    if (feeding_) return;
    feeding_ = true;
    while (!events_.empty()) {
      const source::Event next = std::move(events_.front());
      events_.pop_front();
      const SourcePhase before = source_.phase();
      auto actions = source_.Step(next);
      const SourcePhase after = source_.phase();
      phase_ = after;
      if (!token_ && source_.token()) token_ = source_.token();
      lock.unlock();
      if (!actions.ok()) {
        spdlog::warn("migration {}: {}", record_.id.value, actions.error().message);
      } else {
        // While the guest stands still nobody is woken for it: the deadline of stopping finds out.
        const bool still = after == SourcePhase::kSending || after == SourcePhase::kCommitting;
        if (after != before && !still) OnLoop([after](Leaving& self) { self.OnPhase(after); });
        for (const source::Action& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
        if (Final() && after != before) OnLoop([](Leaving& self) { self.OnFinal(); });
      }
      lock.lock();
    }
    feeding_ = false;
  }
  bool Final() const { return phase_ >= SourcePhase::kDone; }
  std::optional<Token> token() {
    const std::lock_guard lock(mutex_);
    return token_;
  }
  // Runs `work` on the loop, at once if this is the loop, if this session is still there.
  void OnLoop(std::function<void(Leaving&)> work) {
    if (context_.loop.OnLoop()) return work(*this);
    Later(std::move(work));
  }
  void Later(std::function<void(Leaving&)> work) {
    context_.loop.Post([weak = weak_from_this(), work = std::move(work)] {
      if (const auto self = weak.lock()) work(*self);
    });
  }
  void OnLane(std::function<void()> work) { lane_->Post(std::move(work)); }

  void OnPhase(SourcePhase phase) {
    spdlog::info("migration {} of {} to {}: {}", record_.id.value, record_.instance.value, record_.target.value, ToString(phase));
    if (phase >= SourcePhase::kDone || shut_ || phase != phase_) return;
    deadline_ = context_.loop.After(TimeoutOf(phase), [this, phase] { OnDeadline(phase); });
    if (!retry_armed_) ArmRetry();
    if (PublicPhase(phase) == record_.phase) return;
    record_.phase = PublicPhase(phase);
    if (phase == SourcePhase::kIntent) return;
    report_ = context_.loop.After(kReportAfter, [this] { ReportProgress(); });
  }
  void ReportProgress() {
    nlohmann::json patch{{"phase", ToString(record_.phase)}, {"source_isa", record_.source_isa}};
    if (!record_.rounds.empty()) patch["rounds"] = RoundsJson();
    Report(patch);
  }
  void OnDeadline(SourcePhase phase) {
    if (phase_ != phase) return OnPhase(phase_);
    if (phase == SourcePhase::kPreparing && !no_channel_.empty() && !channel_) return Feed(source::TargetLost{no_channel_});
    const std::uint64_t sent = copied_bytes_.load();
    const bool goes_on = phase == SourcePhase::kCopying && sent != copied_at_deadline_;
    copied_at_deadline_ = sent;
    if (!goes_on) Feed(source::DeadlinePassed{phase});
    if (phase_ == phase) {
      deadline_ = context_.loop.After(TimeoutOf(phase), [this, phase] { OnDeadline(phase); });
    }
  }
  std::chrono::milliseconds TimeoutOf(SourcePhase phase) const {
    switch (phase) {
      case SourcePhase::kCopying: return context_.options.copy_stall_timeout;
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
      if (Final()) return;
      const SourcePhase phase = phase_;
      if (phase == SourcePhase::kResuming || phase == SourcePhase::kClaiming ||
          (phase == SourcePhase::kCommitting && asked_)) {
        Feed(source::RetryDue{phase});
      }
      if (!Final()) ArmRetry();
    });
  }

  // --- The channel
  using ChannelUser = std::function<void(const std::shared_ptr<transport::Channel>&)>;
  // Gives `use` the channel to the target, opening it if need be; TargetLost if that fails.
  void WithChannel(ChannelUser use) {
    if (channel_ && channel_->open()) return use(channel_);
    waiting_for_channel_.push_back(std::move(use));
    if (waiting_for_channel_.size() > 1) return;
    const auto known = context_.targets.find(record_.target);
    for (const auto& channel : context_.channels->channels()) {
      if (known != context_.targets.end() && channel->open() && channel->peer().boot == known->second.boot_id) return Connect(known->second);
    }
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
    if (!token()) target_address_ = device->channel;
    if (!token() && device->state == model::DeviceState::kOffline) {
      return ConnectFailed(Unavailable("device " + record_.target.value + " is offline"));
    }
    context_.channels->Get(device->channel, [weak = weak_from_this(), device = *device](Result<std::shared_ptr<transport::Channel>> channel) {
      const auto self = weak.lock();
      if (!self || self->shut_) return;
      if (channel.ok()) self->context_.targets[device.name] = device;
      self->Connected(std::move(channel));
    });
  }
  void Connected(Result<std::shared_ptr<transport::Channel>> channel) {
    if (!channel.ok()) return ConnectFailed(channel.error());
    if ((*channel)->peer().device != record_.target) {
      return ConnectFailed(Unavailable("at its address answers " + (*channel)->peer().device.value));
    }
    channel_ = *std::move(channel);
    sent_before_ = channel_->counters().bytes_sent;
    if (token()) Feed(source::TargetRebooted{channel_->peer().boot});  // Means nothing if it is the token's.
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
    const bool slow = error.code == ErrorCode::kDeadlineExceeded && phase_ == SourcePhase::kPreparing;
    if (slow) Feed(source::RetryDue{SourcePhase::kPreparing});
    else Feed(source::TargetLost{no_channel_});
  }
  // Other moves may use it, now or later.
  void LeaveChannel() {
    CountBytes();
    channel_.reset();
  }
  // What other moves send at the same time is counted as well: some hundred bytes.
  void CountBytes() {
    if (!channel_) return;
    const std::uint64_t sent = channel_->counters().bytes_sent;
    bytes_on_channel_ += sent - sent_before_;
    sent_before_ = sent;
  }
  bool TokenSent() const { return phase_ >= SourcePhase::kCommitting && !Final(); }

  // --- Actions
  void Do(const source::WriteIntent&) {
    OnLoop([](Leaving& self) {  // After the question where the target is, which its preparing waits for.
      self.context_.control.Post([weak = self.weak_from_this(), &context = self.context_, id = self.record_.id, isa = self.record_.source_isa] {
        const nlohmann::json patch{{"phase", ToString(model::MigrationPhase::kPreparing)}, {"source_isa", isa}};
        const Status written = context.store.Patch(id, patch.dump());
        context.loop.Post([weak, written] {
          const auto self = weak.lock();
          if (!self) return;
          if (written.ok()) self->Feed(source::IntentWritten{});
          else self->Feed(source::IntentRefused{"the intent could not be recorded: " + written.error().message});
        });
      });
    });
  }

  void Do(const source::SendPrepare&) {
    OnLoop([](Leaving& self) {
      self.WithChannel([&self](const std::shared_ptr<transport::Channel>& channel) { self.SendPrepare(channel); });
    });
  }
  void SendPrepare(const std::shared_ptr<transport::Channel>& channel) {
    if (Final()) return;  // Given up while there was no channel yet.
    if (memories_.empty()) memories_ = host_->Memories();
    std::vector<std::uint64_t> bytes;
    for (const auto& memory : memories_) bytes.push_back(memory->bytes());
    memory_bytes_ = 0;
    for (const std::uint64_t size : bytes) memory_bytes_ += size;
    streams_ = memory_bytes_ >= kSeveralStreamsFrom ? context_.options.page_streams : 1;
    flatbuffers::FlatBufferBuilder builder;
    const Token token{record_.id, record_.instance, record_.epoch, {}};
    const auto put = PutToken(builder, token);
    const auto prepare = wire::CreatePrepareDirect(
        builder, put, record_.source.value.c_str(), "", host_->record().package.c_str(), record_.service.value.c_str(),
        std::max(memory_bytes_, host_->statistics().memory_bytes), memory_bytes_, host_->record().ToJson().c_str(),
        host_->service().ToJson().c_str(), &bytes, static_cast<std::uint8_t>(streams_), static_cast<std::uint32_t>(sysconf(_SC_PAGESIZE)));
    channel->Ask<wire::Prepare>(builder, prepare, context_.options.prepare_timeout, [weak = weak_from_this()](Result<transport::Frame> frame) {
      if (const auto self = weak.lock()) self->OnPrepareReply(frame);
    });
  }
  void OnPrepareReply(const Result<transport::Frame>& frame) {
    if (!frame.ok()) return Feed(source::TargetLost{"the target did not prepare: " + frame.error().message});
    const auto* reply = frame->as<wire::PrepareReply>();
    if (!reply) return Feed(source::TargetLost{"the target answered something else"});
    const bool accepted = reply->outcome()->code() == 0 && reply->target_boot() != 0 && reply->page_port() != 0;
    page_port_ = reply->page_port();
    page_bytes_ = std::clamp<std::uint64_t>(reply->page_bytes(), static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE)), 64 << 10);
    const bool refused = reply->outcome()->code() != 0;
    Feed(source::PrepareReplied{record_.id, accepted, model::BootId{reply->target_boot()},
                                record_.target.value + (refused ? " refused: " + ReasonOf(*reply->outcome()) : " takes no page streams: its version is older")});
  }

  // --- Actions on the lane
  void Do(const source::CopyMemory&) {
    OnLane([this] {
      const Status copied = Copy();
      if (copied.ok()) return Feed(source::Copied{});
      if (copied.error().code == ErrorCode::kFailedPrecondition) return Feed(source::CopyFailed{"the copy does not converge: " + copied.error().message});
      Feed(source::CopyFailed{fmt::format("the memory could not be copied to {}: {}", record_.target.value, copied.error().message)});
    });
  }
  Status Copy() {
    const bool rounds = record_.mode != "stop" && context_.options.tracker != TrackerKind::kNone;
    LiveCopy::Options options;
    options.channel = context_.options.channel;
    const std::size_t colon = target_address_.rfind(':');
    options.host = target_address_.substr(0, colon);
    if (options.host.size() > 2 && options.host.front() == '[') options.host = options.host.substr(1, options.host.size() - 2);
    options.port = page_port_;
    options.migration = record_.id;
    options.epoch = record_.epoch;
    options.streams = streams_;
    options.tracker = rounds ? context_.options.tracker : TrackerKind::kNone;
    options.page_bytes = page_bytes_;
    options.bytes_per_second = LimitOfLink();
    if (record_.max_downtime_ms) options.policy.max_downtime = std::chrono::milliseconds(*record_.max_downtime_ms);
    else options.policy.stop_anyway = record_.mode == "auto" && options.tracker == TrackerKind::kProtect;  // That sees coarsely, and not where stopping all costs least.
    options.nap = [host = host_](std::chrono::microseconds length) { host->Nap(length); };
    options.on_round = [this](const LiveCopy::Round& round) {
      copied_bytes_ += round.bytes + 1;
      Later([round](Leaving& self) { self.OnRound(round); });
    };
    GODWIT_ASSIGN(auto copy, LiveCopy::Open(std::move(options), memories_));
    {
      const std::lock_guard lock(copy_mutex_);
      copy_ = std::move(copy);
      if (aborted_) return Aborted("the migration was given up");
    }
    Later([rounds](Leaving& self) { self.record_.mode = rounds ? "precopy" : "stop"; });
    GODWIT_TRY(copy_->CopyRounds());
    return copy_->AnnounceStop();
  }
  std::uint64_t LimitOfLink() const {
    const std::uint64_t link = context_.options.channel.shape.bytes_per_second, most = context_.options.bytes_per_second;
    return link == 0 || most == 0 ? std::max(link, most) : std::min(link, most);
  }
  void OnRound(const LiveCopy::Round& round) {
    record_.rounds.push_back({round.bytes, round.pages, round.dirty_pages, static_cast<std::uint64_t>(round.length.count())});
    if (record_.phase == model::MigrationPhase::kCopying && round.length > kReportAfter) ReportProgress();
  }
  void AbortCopy() {
    const std::lock_guard lock(copy_mutex_);
    aborted_ = true;
    if (copy_) copy_->Abort();
  }
  void Do(const source::EndCopy&) {
    AbortCopy();
    OnLane([this] { DropCopy(); });
  }
  // Ends the tracking: the instance runs at full speed again.
  void DropCopy() {
    std::unique_ptr<LiveCopy> copy;
    const std::lock_guard lock(copy_mutex_);
    if (copy_) {
      page_bytes_sent_ = copy_->bytes_sent();
      slowed_ = copy_->slowest_share();
    }
    copy = std::move(copy_);
  }

  void Do(const source::StopInstance&) {
    OnLane([this] {
      const auto begin = Clock::now();
      auto captured = host_->PauseAndCapture(context_.options.stop_timeout, memories_);
      const std::uint64_t latency = MicrosSince(begin);
      if (!captured.ok()) return Feed(source::CaptureFailed{"the instance could not be stopped: " + captured.error().message});
      captured_ = *std::move(captured);
      stop_began_ = begin;
      stopped_ = {latency, captured_->memory_bytes(), captured_->requests(), std::nullopt};
      Feed(source::Captured{});
    });
  }

  void Do(const source::SendState&) {
    OnLane([this] {
      Status sent = copy_->SendPages(captured_->elsewhere());
      if (sent.ok()) {
        stopped_.last = copy_->rounds().back();
        sent = copy_->SendState([this](const std::function<Status(ByteView)>& sink) { return captured_->Encode(sink); });
      }
      if (sent.ok()) return Feed(source::StateSent{});
      Feed(source::TargetLost{"the state could not be sent: " + sent.error().message});
    });
  }

  void Do(const source::SendToken& action) {
    OnLane([this, token = action.token] {
      auto reply = copy_->SendToken().ok() ? copy_->AwaitReply(kReplySpin) : Result<LiveCopy::Reply>(Unavailable("the page stream was lost"));
      if (!reply.ok()) return Feed(source::TargetLost{reply.error().message});
      if (reply->accepted) AnswerIsBack();
      Feed(source::CommitReplied{token, reply->accepted, record_.target.value + " refused: " + reply->reason});
    });
  }

  // Loop and lane: by the token's answer or by `Confirmed`, whichever of the two is handled first.
  void AnswerIsBack() {
    std::uint64_t not_yet = 0;
    downtime_us_.compare_exchange_strong(not_yet, MicrosSince(stop_began_));
  }

  // --- Others
  void Do(const source::SendAbort& action) {
    OnLoop([reason = action.reason](Leaving& self) {
      if (!self.channel_ || !self.channel_->open()) return;
      const auto named = self.token();  // None before it has answered: it may be preparing all the same.
      flatbuffers::FlatBufferBuilder builder;
      const auto token = PutToken(builder, named.value_or(Token{self.record_.id, self.record_.instance, self.record_.epoch, self.channel_->peer().boot}));
      const auto text = builder.CreateString(reason);
      static_cast<void>(self.channel_->Tell(builder, wire::CreateAbort(builder, token, text)));
    });
  }

  void Do(const source::ResumeLocally& action) {
    AbortCopy();
    OnLane([this, epoch = action.epoch] {
      DropCopy();
      if (captured_) {
        captured_.reset();
        host_->Resume();
      }
      context_.site.OnKept(record_.instance, epoch);
    });
  }

  void Do(const source::AskTarget& action) {
    OnLoop([action](Leaving& self) { self.AskTarget(action); });
  }
  void AskTarget(const source::AskTarget& action) {
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
    OnLoop([](Leaving& self) { self.AskStore(); });
  }
  void AskStore() {
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
        if (!device.ok() || !self->token()) return;
        self->Feed(source::TargetRebooted{device->boot_id});
        if (device->state == model::DeviceState::kOffline) self->Feed(source::TargetLeaseExpired{});
      });
    });
  }

  void Do(const source::ClaimInStore& action) {
    OnLoop([action](Leaving& self) { self.Claim(action); });
  }
  void Claim(const source::ClaimInStore& action) {
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
    AnswerIsBack();  // Where the answer to the token was lost, it is known only now that the target goes on.
    const Clock::time_point began = stop_began_, running_since{Clock::duration(running_since_)};
    if (running_since > began) {
      const auto exact = std::chrono::duration_cast<std::chrono::microseconds>(running_since - began).count();
      downtime_us_ = std::min(downtime_us_.load(), static_cast<std::uint64_t>(exact));
    }
    AbortCopy();
    OnLane([this, to = Location{record_.target, target_address_, record_.epoch}] {
      DropCopy();
      captured_.reset();
      host_->Release(to);
      context_.site.OnLeft(record_.instance, to);
    });
  }

  void Do(const source::DestroyInstance& action) {
    AbortCopy();
    OnLane([this, reason = action.reason] {
      DropCopy();
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
    report_.Cancel();
    record_.phase = PublicPhase(phase_);
    {
      const std::lock_guard lock(mutex_);
      record_.error = source_.error();
    }
    record_.total_us = MicrosSince(began_);
    CountBytes();
    // After what the lane still has to do.
    OnLane([this] { Later([](Leaving& self) { self.FinalReport(0); }); });
  }
  nlohmann::json RoundsJson() const {
    auto list = nlohmann::json::array();
    for (const auto& round : record_.rounds) {
      list.push_back({{"bytes", round.bytes}, {"pages", round.pages}, {"dirty_pages", round.dirty_pages}, {"us", round.us}});
    }
    return list;
  }
  void Report(const nlohmann::json& patch) {
    context_.reports.Post([&context = context_, id = record_.id, text = patch.dump()] {
      const Status reported = context.store.Patch(id, text);
      if (!reported.ok()) spdlog::debug("migration {}: progress not reported: {}", id.value, reported.error().message);
    });
  }
  void FinalReport(int attempt) {
    if (shut_) return;
    if (stopped_.last) OnRound(*stopped_.last);
    stopped_.last.reset();
    record_.stop_latency_us = stopped_.latency_us;
    record_.memory_bytes = stopped_.memory_bytes;
    record_.requests_held = stopped_.requests;
    const nlohmann::json patch{{"phase", ToString(record_.phase)},
                               {"error", record_.error},
                               {"stop_latency_us", record_.stop_latency_us},
                               {"downtime_us", record_.phase == model::MigrationPhase::kDone ? downtime_us_.load() : 0},
                               {"total_us", record_.total_us},
                               {"bytes_sent", bytes_on_channel_ + page_bytes_sent_},
                               {"memory_bytes", record_.memory_bytes},
                               {"source_isa", record_.source_isa},
                               {"target_isa", record_.target_isa},
                               {"requests_held", record_.requests_held},
                               {"mode", record_.mode},
                               {"tracker", record_.mode == "precopy" ? std::string(ToString(context_.options.tracker)) : std::string()},
                               {"streams", streams_},
                               {"slowed", slowed_.load()},
                               {"rounds", RoundsJson()}};
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
  model::MigrationRecord record_;  // The loop's, but for what never changes once begun.
  const std::function<void()> on_over_;
  const Clock::time_point began_ = Clock::now();

  std::mutex mutex_;  // Of these.
  Source source_;
  std::optional<Token> token_;
  std::deque<source::Event> events_;
  bool feeding_ = false;
  std::atomic<SourcePhase> phase_{SourcePhase::kPending};
  std::atomic<bool> shut_{false};

  // Set before the first action.
  std::shared_ptr<InstanceHost> host_;
  // Of the preparation: written before the copy begins, then read.
  LiveMemories memories_;
  std::uint64_t memory_bytes_ = 0, page_bytes_ = 0;
  std::size_t streams_ = 1;
  std::uint16_t page_port_ = 0;
  std::string target_address_;  // Of its record: where gateways reach it too.

  // The lane's; read by the loop once the lane is done.
  struct Stopped {
    std::uint64_t latency_us = 0, memory_bytes = 0, requests = 0;
    std::optional<LiveCopy::Round> last;
  };
  Stopped stopped_;
  std::unique_ptr<CapturedHost> captured_;
  std::atomic<Clock::rep> running_since_{0};  // Of the instance at the target; 0: unknown.
  std::atomic<std::uint64_t> downtime_us_{0}, page_bytes_sent_{0}, copied_bytes_{0};
  std::atomic<double> slowed_{0};
  std::atomic<Clock::time_point> stop_began_{began_};
  std::mutex copy_mutex_;  // Of these, for Abort.
  std::unique_ptr<LiveCopy> copy_;
  bool aborted_ = false;

  // The loop's.
  std::shared_ptr<transport::Channel> channel_;
  std::vector<ChannelUser> waiting_for_channel_;
  std::string no_channel_;  // Why the last attempt to open one failed.
  std::uint64_t sent_before_ = 0, bytes_on_channel_ = 0, copied_at_deadline_ = 0;
  bool asked_ = false, store_asked_ = false, claiming_ = false, retry_armed_ = false;
  transport::Timer deadline_, retry_, report_;

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
