#include "migration/handoff.h"

namespace godwit::migration {

using namespace source;

std::string_view ToString(Ownership value) {
  switch (value) {
    case Ownership::kUndecided: return "undecided";
    case Ownership::kNotAccepted: return "not accepted";
    case Ownership::kPromised: return "promised";
    case Ownership::kAccepted: return "accepted";
    case Ownership::kConfirmed: return "confirmed";
    case Ownership::kDestroyed: return "destroyed";
  }
  return "?";
}

std::string_view ToString(SourcePhase phase) {
  switch (phase) {
    case SourcePhase::kPending: return "pending";
    case SourcePhase::kIntent: return "recording the intent";
    case SourcePhase::kPreparing: return "preparing";
    case SourcePhase::kCopying: return "copying";
    case SourcePhase::kStopping: return "stopping";
    case SourcePhase::kSending: return "sending the state";
    case SourcePhase::kCommitting: return "committing";
    case SourcePhase::kResuming: return "resuming";
    case SourcePhase::kClaiming: return "claiming";
    case SourcePhase::kDone: return "done";
    case SourcePhase::kFailed: return "failed";
    case SourcePhase::kCancelled: return "cancelled";
  }
  return "?";
}

model::MigrationPhase PublicPhase(SourcePhase phase) {
  using model::MigrationPhase;
  switch (phase) {
    case SourcePhase::kPending: return MigrationPhase::kPending;
    case SourcePhase::kIntent:
    case SourcePhase::kPreparing: return MigrationPhase::kPreparing;
    case SourcePhase::kCopying: return MigrationPhase::kCopying;
    case SourcePhase::kStopping: return MigrationPhase::kStopping;
    case SourcePhase::kSending:
    case SourcePhase::kCommitting:
    case SourcePhase::kClaiming: return MigrationPhase::kCommitting;
    case SourcePhase::kResuming: return MigrationPhase::kResuming;
    case SourcePhase::kDone: return MigrationPhase::kDone;
    case SourcePhase::kFailed: return MigrationPhase::kFailed;
    case SourcePhase::kCancelled: return MigrationPhase::kCancelled;
  }
  return MigrationPhase::kFailed;
}

namespace {

Error Unexpected(std::string_view event, SourcePhase phase) {
  return FailedPrecondition("handoff source: " + std::string(event) + " while " + std::string(ToString(phase)));
}

}  // namespace

Source::Source(Options options) : options_(std::move(options)) {}

Result<std::vector<Action>> Source::Step(const Event& event) {
  if (std::holds_alternative<Start>(event)) {
    if (phase_ != SourcePhase::kPending) return Unexpected("Start", phase_);
    phase_ = SourcePhase::kIntent;
    return Actions{SendPrepare{}, WriteIntent{}};  // Nothing that depends on the intent happens before the copy.
  }
  if (std::holds_alternative<IntentWritten>(event)) {
    if (final()) return Actions{};  // Cancelled meanwhile.
    if (phase_ != SourcePhase::kIntent) return Unexpected("IntentWritten", phase_);
    phase_ = SourcePhase::kPreparing;
    return prepared_ ? On(*prepared_) : Actions{};
  }
  if (const auto* refused = std::get_if<IntentRefused>(&event)) {
    if (final()) return Actions{};
    if (phase_ != SourcePhase::kIntent) return Unexpected("IntentRefused", phase_);
    return GiveUp(SourcePhase::kFailed, refused->reason);
  }
  if (std::holds_alternative<Copied>(event)) {
    if (final()) return Actions{};
    if (phase_ != SourcePhase::kCopying) return Unexpected("Copied", phase_);
    phase_ = SourcePhase::kStopping;
    return Actions{StopInstance{}};
  }
  if (const auto* failed = std::get_if<CopyFailed>(&event)) {
    if (final()) return Actions{};
    if (phase_ != SourcePhase::kCopying) return Unexpected("CopyFailed", phase_);
    return GiveUp(SourcePhase::kFailed, failed->reason);
  }
  if (std::holds_alternative<Captured>(event)) {
    if (phase_ != SourcePhase::kStopping) return Unexpected("Captured", phase_);
    if (end_after_stop_) return GoOn(*end_after_stop_, error_, options_.epoch);
    phase_ = SourcePhase::kSending;
    return Actions{SendState{}};
  }
  if (const auto* failed = std::get_if<CaptureFailed>(&event)) {
    if (phase_ != SourcePhase::kStopping) return Unexpected("CaptureFailed", phase_);
    if (end_after_stop_) return GoOn(*end_after_stop_, error_, options_.epoch);
    return GoOn(SourcePhase::kFailed, failed->reason, options_.epoch);
  }
  if (std::holds_alternative<StateSent>(event)) {
    if (final()) return Actions{};
    if (phase_ != SourcePhase::kSending) return Unexpected("StateSent", phase_);
    phase_ = SourcePhase::kCommitting;
    return Actions{SendToken{*token_}};
  }
  if (const auto* cancel = std::get_if<CancelRequested>(&event)) return OnCancel(*cancel);
  if (const auto* passed = std::get_if<DeadlinePassed>(&event)) {
    return passed->phase == phase_ ? OnDeadline() : Actions{};
  }
  if (const auto* due = std::get_if<RetryDue>(&event)) return due->phase == phase_ ? OnRetry() : Actions{};
  if (const auto* reply = std::get_if<PrepareReplied>(&event)) return On(*reply);
  if (const auto* reply = std::get_if<CommitReplied>(&event)) {
    if (phase_ != SourcePhase::kCommitting || !Mine(reply->token)) return Actions{};
    if (!reply->accepted) return GoOn(SourcePhase::kFailed, reply->reason, options_.epoch);
    phase_ = SourcePhase::kResuming;
    return Actions{};
  }
  if (const auto* answer = std::get_if<OwnerAnswered>(&event)) return On(*answer);
  if (const auto* confirmed = std::get_if<Confirmed>(&event)) {
    return TokenSent() && Mine(confirmed->token) ? Finish() : Actions{};
  }
  if (const auto* lost = std::get_if<TargetLost>(&event)) return OnTargetLost(lost->reason);
  if (const auto* rebooted = std::get_if<TargetRebooted>(&event)) {
    if (token_ && rebooted->boot == token_->target_boot) return Actions{};
    return OnTargetDead("the target's agent restarted");
  }
  if (std::holds_alternative<TargetLeaseExpired>(event)) return OnTargetDead("the target's lease expired");
  if (const auto* shows = std::get_if<StoreShows>(&event)) return On(*shows);
  if (std::holds_alternative<ClaimWon>(event)) {
    if (phase_ != SourcePhase::kClaiming) return Actions{};
    return GoOn(SourcePhase::kFailed, error_, token_->epoch);
  }
  return On(std::get<ClaimLost>(event));
}

Source::Actions Source::On(const PrepareReplied& event) {
  if (event.migration != options_.migration) return {};
  if (phase_ == SourcePhase::kIntent) prepared_ = event;
  if (phase_ != SourcePhase::kPreparing) return {};
  if (!event.accepted) return GiveUp(SourcePhase::kFailed, event.reason);
  token_ = Token{options_.migration, options_.instance, options_.epoch.Next(), event.target_boot};
  phase_ = SourcePhase::kCopying;
  return {CopyMemory{}};
}

Source::Actions Source::On(const OwnerAnswered& event) {
  if (!TokenSent() || !Mine(event.token)) return {};
  if (event.target_boot != token_->target_boot) return OnTargetDead("the target's agent restarted");
  switch (event.ownership) {
    case Ownership::kUndecided: return {};
    case Ownership::kNotAccepted:
      // On an unbroken channel the token may still be under way.
      if (phase_ != SourcePhase::kCommitting || !(channel_lost_ || demand_promise_)) return {};
      demand_promise_ = true;
      return {AskTarget{*token_, true}};
    case Ownership::kPromised:
      // Once a claim is under way its outcome decides: it may already have moved the epoch.
      if (phase_ != SourcePhase::kCommitting) return {};
      return GoOn(SourcePhase::kFailed, "the target did not accept the instance in time", options_.epoch);
    case Ownership::kAccepted:
      if (phase_ == SourcePhase::kCommitting) phase_ = SourcePhase::kResuming;
      return {};
    case Ownership::kConfirmed: return Finish();
    case Ownership::kDestroyed:
      if (phase_ == SourcePhase::kClaiming) return {};
      target_destroyed_ = true;
      return {AskStore{}};
  }
  return {};
}

Source::Actions Source::On(const StoreShows& event) {
  if (!TokenSent()) return {};
  if (event.owner.empty()) return Lose("the instance was deleted");
  if (event.epoch < token_->epoch) {
    if (!target_destroyed_ || event.owner != options_.self || phase_ == SourcePhase::kClaiming) return {};
    return GoOn(SourcePhase::kFailed, "the store did not confirm the target", options_.epoch);
  }
  if (event.epoch > token_->epoch || event.owner == options_.target) return Finish();
  if (event.owner != options_.self) return Lose("the store gave the instance to " + event.owner.value);
  // This device's own claim, whose answer was lost.
  if (phase_ != SourcePhase::kClaiming) return {};
  return GoOn(SourcePhase::kFailed, error_, token_->epoch);
}

Source::Actions Source::On(const ClaimLost& event) {
  if (phase_ != SourcePhase::kClaiming) return {};
  if (event.owner == options_.target) return Finish();
  if (event.owner == options_.self) return GoOn(SourcePhase::kFailed, error_, options_.epoch);
  return Lose(event.owner.empty() ? "the instance was deleted" : "the store gave the instance to " + event.owner.value);
}

Result<Source::Actions> Source::OnCancel(const CancelRequested& event) {
  if (TokenSent() || final()) {
    return FailedPrecondition("migration " + options_.migration.value + " cannot be cancelled while " +
                              std::string(ToString(phase_)) + ": it is past its point of no return");
  }
  return GiveUp(SourcePhase::kCancelled, event.reason);
}

Source::Actions Source::OnDeadline() {
  if (final() || phase_ == SourcePhase::kPending) return {};
  if (!TokenSent()) {
    return GiveUp(SourcePhase::kFailed, "timed out while " + std::string(ToString(phase_)));
  }
  if (phase_ == SourcePhase::kCommitting) demand_promise_ = true;
  return OnRetry();
}

Source::Actions Source::OnRetry() {
  switch (phase_) {
    case SourcePhase::kPreparing: return {SendPrepare{}};
    case SourcePhase::kCommitting:
    case SourcePhase::kResuming: return Ask();
    case SourcePhase::kClaiming: return {ClaimInStore{token_->epoch}};
    default: return {};
  }
}

Source::Actions Source::OnTargetLost(const std::string& reason) {
  if (final() || phase_ == SourcePhase::kPending) return {};
  if (!TokenSent()) return GiveUp(SourcePhase::kFailed, reason);
  if (phase_ == SourcePhase::kClaiming) return {};
  channel_lost_ = true;
  return Ask();
}

Source::Actions Source::OnTargetDead(const std::string& reason) {
  if (final() || phase_ == SourcePhase::kPending || phase_ == SourcePhase::kClaiming) return {};
  if (!TokenSent()) return GiveUp(SourcePhase::kFailed, reason);
  error_ = reason;
  phase_ = SourcePhase::kClaiming;
  return {ClaimInStore{token_->epoch}};
}

Source::Actions Source::Ask() {
  return {AskTarget{*token_, phase_ == SourcePhase::kCommitting && demand_promise_}, AskStore{}};
}

Source::Actions Source::GiveUp(SourcePhase end, std::string reason) {
  switch (phase_) {
    case SourcePhase::kStopping:
      if (!end_after_stop_) {
        end_after_stop_ = end;
        error_ = std::move(reason);
      }
      return {};
    case SourcePhase::kSending: return GoOn(end, std::move(reason), options_.epoch);
    default: break;
  }
  const bool tell_target = phase_ == SourcePhase::kIntent || phase_ == SourcePhase::kPreparing, copying = phase_ == SourcePhase::kCopying;
  phase_ = end;
  error_ = std::move(reason);
  if (copying) return {EndCopy{}, SendAbort{error_}};
  if (tell_target) return {SendAbort{error_}};
  return {};
}

Source::Actions Source::GoOn(SourcePhase end, std::string reason, model::Epoch epoch) {
  phase_ = end;
  error_ = std::move(reason);
  return {ResumeLocally{epoch}, SendAbort{error_}};
}

Source::Actions Source::Finish() {
  phase_ = SourcePhase::kDone;
  error_.clear();
  return {ReleaseInstance{}};
}

Source::Actions Source::Lose(std::string reason) {
  phase_ = SourcePhase::kFailed;
  error_ = std::move(reason);
  lost_ = true;
  return {DestroyInstance{error_}};
}

}  // namespace godwit::migration
