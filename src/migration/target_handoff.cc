#include "migration/handoff.h"

namespace godwit::migration {

using namespace target;

std::string_view ToString(TargetPhase phase) {
  switch (phase) {
    case TargetPhase::kIdle: return "idle";
    case TargetPhase::kPreparing: return "preparing";
    case TargetPhase::kReady: return "ready";
    case TargetPhase::kRestoring: return "restoring";
    case TargetPhase::kRestored: return "restored";
    case TargetPhase::kConfirming: return "confirming";
    case TargetPhase::kOwner: return "owner";
    case TargetPhase::kPromised: return "promised";
    case TargetPhase::kDestroyed: return "destroyed";
  }
  return "?";
}

namespace {

Error Unexpected(std::string_view event, TargetPhase phase) {
  return FailedPrecondition("handoff target: " + std::string(event) + " while " + std::string(ToString(phase)));
}

}  // namespace

Target::Target(Token token) : token_(std::move(token)) {}

Result<std::vector<Action>> Target::Step(const Event& event) {
  if (std::holds_alternative<PrepareReceived>(event)) {
    if (phase_ == TargetPhase::kIdle) {
      phase_ = TargetPhase::kPreparing;
      return Actions{PrepareLocally{}};
    }
    if (phase_ == TargetPhase::kReady) return Actions{SendPrepareReply{true, ""}};
    if (phase_ == TargetPhase::kPromised) return Actions{SendPrepareReply{false, error_}};
    return Actions{};
  }
  if (const auto* received = std::get_if<TokenReceived>(&event)) return On(*received);
  if (const auto* ask = std::get_if<AskReceived>(&event)) return On(*ask);
  if (const auto* abort = std::get_if<AbortReceived>(&event)) {
    // Sent only by a source that owns the instance, so that no token of it is valid any more.
    return Undecided() ? Promise("aborted by the source: " + abort->reason) : Actions{};
  }
  if (std::holds_alternative<ReleaseAcknowledged>(event)) {
    acknowledged_ = acknowledged_ || phase_ == TargetPhase::kOwner;
    return Actions{};
  }
  if (std::holds_alternative<Prepared>(event)) {
    if (phase_ == TargetPhase::kPromised) return Actions{DropReservation{error_}};
    if (phase_ != TargetPhase::kPreparing) return Unexpected("Prepared", phase_);
    phase_ = TargetPhase::kReady;
    return Actions{SendPrepareReply{true, ""}};
  }
  if (const auto* failed = std::get_if<PrepareFailed>(&event)) {
    if (phase_ == TargetPhase::kPromised) return Actions{};
    if (phase_ != TargetPhase::kPreparing) return Unexpected("PrepareFailed", phase_);
    Actions actions = Promise(failed->reason);
    actions.push_back(SendPrepareReply{false, error_});
    return actions;
  }
  if (std::holds_alternative<StateReceived>(event)) {
    if (phase_ != TargetPhase::kReady) return Actions{};
    phase_ = TargetPhase::kRestoring;
    return Actions{RestoreInstance{}};
  }
  if (std::holds_alternative<Restored>(event)) {
    if (phase_ == TargetPhase::kPromised) return Actions{DropReservation{error_}};
    if (phase_ != TargetPhase::kRestoring) return Unexpected("Restored", phase_);
    phase_ = TargetPhase::kRestored;
    return token_received_ ? Accept() : Actions{};
  }
  if (const auto* failed = std::get_if<RestoreFailed>(&event)) {
    if (phase_ == TargetPhase::kPromised) return Actions{DropReservation{error_}};
    if (phase_ != TargetPhase::kRestoring) return Unexpected("RestoreFailed", phase_);
    Actions actions = Promise(failed->reason);
    actions.push_back(DropReservation{error_});
    return actions;
  }
  if (std::holds_alternative<ConfirmWon>(event)) {
    if (phase_ != TargetPhase::kConfirming) return Actions{};
    phase_ = TargetPhase::kOwner;
    Actions actions;
    if (paused_) actions.push_back(UnpauseInstance{});
    paused_ = false;
    actions.push_back(OpenToRequests{});
    actions.push_back(SendConfirmed{});
    return actions;
  }
  if (const auto* lost = std::get_if<ConfirmLost>(&event)) {
    if (phase_ != TargetPhase::kConfirming) return Actions{};
    phase_ = TargetPhase::kDestroyed;
    error_ = lost->reason;
    return Actions{DestroyInstance{error_}};
  }
  if (std::holds_alternative<LeaseLost>(event)) {
    if (Undecided()) return Promise("the target's lease ended");
    if (phase_ != TargetPhase::kConfirming || paused_) return Actions{};
    paused_ = true;  // The source may now claim the epoch; only the store's answer makes this copy go on.
    return Actions{PauseInstance{}};
  }
  if (std::holds_alternative<SourceLost>(event)) {
    return Undecided() && !token_received_ ? Promise("the channel to the source broke") : Actions{};
  }
  if (const auto* passed = std::get_if<DeadlinePassed>(&event)) {
    if (passed->phase != phase_ || !Undecided() || token_received_) return Actions{};
    const std::string where(ToString(phase_));
    const bool unanswered = phase_ == TargetPhase::kPreparing;
    Actions actions = Promise("timed out while " + where);
    if (unanswered) actions.push_back(SendPrepareReply{false, error_});
    return actions;
  }
  const auto& due = std::get<RetryDue>(event);
  return due.phase == phase_ ? OnRetry() : Actions{};
}

Target::Actions Target::On(const TokenReceived& event) {
  if (event.token != token_) return {SendCommitReply{event.token, false, "the token is not for this preparation"}};
  switch (phase_) {
    case TargetPhase::kIdle:
    case TargetPhase::kPreparing:
    case TargetPhase::kReady: {
      token_received_ = true;
      return Promise("the token came without the state");
    }
    case TargetPhase::kRestoring: token_received_ = true; return {};
    case TargetPhase::kRestored: token_received_ = true; return Accept();
    case TargetPhase::kConfirming:
    case TargetPhase::kOwner: return {SendCommitReply{token_, true, ""}};
    case TargetPhase::kPromised: return {SendCommitReply{token_, false, error_}};
    case TargetPhase::kDestroyed: return {};
  }
  return {};
}

Target::Actions Target::On(const AskReceived& event) {
  if (event.token != token_) return {};
  Actions actions;
  Ownership ownership = Ownership::kUndecided;
  switch (phase_) {
    case TargetPhase::kConfirming: ownership = Ownership::kAccepted; break;
    case TargetPhase::kDestroyed: ownership = Ownership::kDestroyed; break;
    case TargetPhase::kOwner: ownership = Ownership::kConfirmed; break;
    case TargetPhase::kPromised: ownership = Ownership::kPromised; break;
    default:
      if (event.demand_promise) {
        token_received_ = false;  // The answer below replaces a commit reply.
        actions = Promise("the source asked for a promise");
        ownership = Ownership::kPromised;
      } else {
        ownership = token_received_ ? Ownership::kUndecided : Ownership::kNotAccepted;
      }
  }
  actions.push_back(SendOwnerReply{token_, ownership});
  return actions;
}

Target::Actions Target::Promise(std::string reason) {
  // What is under way is dropped when it is complete.
  const bool held = phase_ == TargetPhase::kReady || phase_ == TargetPhase::kRestored;
  phase_ = TargetPhase::kPromised;
  error_ = std::move(reason);
  Actions actions;
  if (held) actions.push_back(DropReservation{error_});
  if (token_received_) actions.push_back(SendCommitReply{token_, false, error_});
  return actions;
}

Target::Actions Target::Accept() {
  phase_ = TargetPhase::kConfirming;
  return {ResumeInstance{}, SendCommitReply{token_, true, ""}, ConfirmInStore{}};
}

Target::Actions Target::OnRetry() {
  if (phase_ == TargetPhase::kConfirming) return {ConfirmInStore{}};
  if (phase_ == TargetPhase::kOwner && !acknowledged_) return {SendConfirmed{}};
  return {};
}

}  // namespace godwit::migration
