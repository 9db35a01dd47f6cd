// Handoff: moving one instance from the device that owns it (Source) to another (Target).
//
//   source                                target
//   SendPrepare   ------------------->    PrepareLocally: code mapped, memory reserved
//   WriteIntent ... IntentWritten
//                 <-------------------    PrepareReply with the target's boot id
//   CopyMemory    ------------------->    pages, in rounds while the instance runs ... Copied
//   StopInstance ... Captured
//   SendState     ------------------->    RestoreInstance: ready to run, not yet allowed to
//   SendToken     ------------------->    accepted once: ResumeInstance, ConfirmInStore
//                 <-------------------    CommitReply
//                 <-------------------    Confirmed, once the store has the target as owner
//   ReleaseInstance: requests are answered with the new place
//
// Invariants, whatever is lost, repeated, reordered or restarted:
// - The guest never runs in two places. Until SendToken the source can always go on. Afterwards it goes on only if
//   the target promised never to accept the token, or if the target's process is known to be dead (new boot id,
//   lease expired) and the source then won the compare-and-swap for the epoch that the target would confirm.
// - No request or reply reaches the target's copy before the store has it as owner, so that a source that wins
//   that compare-and-swap goes on from a state that nobody has seen the future of.
// - The instance is lost only together with the process that held it alone.
//
// Both sides are pure: Step takes an event and returns the actions that the driver performs in order. They know
// no clock: the driver reports DeadlinePassed when a phase took too long and RetryDue when an unanswered question
// is to be asked again. Events that come twice, late or for another token do nothing. Loop-bound.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "base/result.h"
#include "model/ids.h"
#include "model/records.h"

namespace godwit::migration {

// The right to run `instance` under `epoch`, for one life of the target's process.
struct Token {
  model::MigrationId migration;
  model::InstanceId instance;
  model::Epoch epoch;
  model::BootId target_boot;
  friend bool operator==(const Token&, const Token&) = default;
};

// What the target says of a token.
enum class Ownership : std::uint8_t {
  kUndecided,    // It may still accept it; ask again.
  kNotAccepted,  // Not accepted, nothing promised yet.
  kPromised,     // Never accepted, and never will be.
  kAccepted,     // Accepted; its copy runs; the store does not have it yet.
  kConfirmed,    // The store has it as owner.
  kDestroyed,    // Accepted; the store refused to confirm; its copy is gone.
};
std::string_view ToString(Ownership value);

// --- Source -------------------------------------------------------------------------------------------------

enum class SourcePhase : std::uint8_t {
  kPending,
  kIntent,      // The store is asked to record the intent, and the target to prepare.
  kPreparing,   // The target prepares; the instance runs.
  kCopying,     // Its memory is copied; the instance runs.
  kStopping,    // The instance is being stopped.
  kSending,     // Stopped; the state goes to the target; the token was not sent.
  kCommitting,  // The token was sent; who owns is not known.
  kResuming,    // The target accepted; its confirmation in the store is awaited.
  kClaiming,    // The target is dead; the store decides whether the source owns.
  kDone,        // The target owns; released.
  kFailed,      // The source owns and runs, or (Source::lost) nobody does.
  kCancelled,   // As failed, because somebody wanted so.
};
std::string_view ToString(SourcePhase phase);
model::MigrationPhase PublicPhase(SourcePhase phase);

namespace source {

// Events from this device.
struct Start {};
struct IntentWritten {};
struct IntentRefused { std::string reason; };
struct Copied {};                              // What is left fits the downtime.
struct CopyFailed { std::string reason; };
struct Captured {};
struct CaptureFailed { std::string reason; };  // The instance runs on.
struct StateSent {};
struct CancelRequested { std::string reason; };
struct DeadlinePassed { SourcePhase phase; };  // `phase` took longer than its timeout.
struct RetryDue { SourcePhase phase; };
// Events from the target. A lost peer is a channel that broke: what was sent last may or may not have arrived.
struct PrepareReplied { model::MigrationId migration; bool accepted; model::BootId target_boot; std::string reason; };
struct CommitReplied { Token token; bool accepted; std::string reason; };
struct OwnerAnswered { Token token; Ownership ownership; model::BootId target_boot; };
struct Confirmed { Token token; };
struct TargetLost { std::string reason; };
// Events about the target from the store: the process that was prepared is dead.
struct TargetRebooted { model::BootId boot; };
struct TargetLeaseExpired {};
// Answers of the store. StoreShows is the instance record as read.
struct StoreShows { model::DeviceName owner; model::Epoch epoch; };
struct ClaimWon {};
// Refused for good. `owner` as the store has it: empty, the instance is no more; this device, the store has ended
// the migration and confirms nobody.
struct ClaimLost { model::DeviceName owner; };

using Event = std::variant<Start, IntentWritten, IntentRefused, Copied, CopyFailed, Captured, CaptureFailed, StateSent, CancelRequested,
                           DeadlinePassed, RetryDue, PrepareReplied, CommitReplied, OwnerAnswered, Confirmed,
                           TargetLost, TargetRebooted, TargetLeaseExpired, StoreShows, ClaimWon, ClaimLost>;

struct WriteIntent {};
struct SendPrepare {};
struct CopyMemory {};                           // Answered by Copied or CopyFailed.
struct EndCopy {};                              // The instance runs on; what is under way of CopyMemory means nothing more.
struct StopInstance {};                         // Answered by Captured or CaptureFailed.
struct SendState {};                            // Answered by StateSent or TargetLost.
struct SendToken { Token token; };              // Once.
struct SendAbort { std::string reason; };       // Best effort.
struct ResumeLocally { model::Epoch epoch; };   // The source owns the instance under `epoch`.
struct AskTarget { Token token; bool demand_promise; };
struct AskStore {};
struct ClaimInStore { model::Epoch epoch; };    // Compare-and-swap: this device, that epoch. Idempotent.
struct ReleaseInstance {};                      // The target owns: drop the copy, answer with the new place.
struct DestroyInstance { std::string reason; }; // Neither end owns it: drop the copy.

using Action = std::variant<WriteIntent, SendPrepare, CopyMemory, EndCopy, StopInstance, SendState, SendToken, SendAbort, ResumeLocally,
                            AskTarget, AskStore, ClaimInStore, ReleaseInstance, DestroyInstance>;

}  // namespace source

class Source {
 public:
  struct Options {
    model::MigrationId migration;
    model::InstanceId instance;
    model::DeviceName self, target;
    model::Epoch epoch;  // Under which this device owns the instance now; the token is for the next.
  };
  explicit Source(Options options);

  // The actions, to be performed in order. kFailedPrecondition, nothing changed: a cancellation that comes too
  // late, or an event of this device that was not asked for.
  Result<std::vector<source::Action>> Step(const source::Event& event);

  const Options& options() const { return options_; }
  SourcePhase phase() const { return phase_; }
  bool final() const { return phase_ >= SourcePhase::kDone; }
  const std::string& error() const { return error_; }  // Why it failed or was cancelled.
  // Set once the target's boot id is known.
  const std::optional<Token>& token() const { return token_; }
  // The copy here was destroyed and the target does not own it either.
  bool lost() const { return lost_; }

 private:
  using Actions = std::vector<source::Action>;
  Actions On(const source::PrepareReplied& event);
  Actions On(const source::OwnerAnswered& event);
  Actions On(const source::StoreShows& event);
  Actions On(const source::ClaimLost& event);
  Result<Actions> OnCancel(const source::CancelRequested& event);
  Actions OnDeadline();
  Actions OnRetry();
  Actions OnTargetLost(const std::string& reason);
  Actions OnTargetDead(const std::string& reason);
  // Ends it before the token was sent: at once, or when the stop that is under way is complete.
  Actions GiveUp(SourcePhase end, std::string reason);
  // Ends it with this device as owner under `epoch`.
  Actions GoOn(SourcePhase end, std::string reason, model::Epoch epoch);
  Actions Finish();
  Actions Lose(std::string reason);
  Actions Ask();
  bool Mine(const Token& token) const { return token_ && token == *token_; }
  bool TokenSent() const { return phase_ >= SourcePhase::kCommitting && !final(); }

  const Options options_;
  SourcePhase phase_ = SourcePhase::kPending;
  std::optional<source::PrepareReplied> prepared_;  // Before the intent was written.
  std::optional<Token> token_;
  std::optional<SourcePhase> end_after_stop_;  // Ends so when the stop that is under way is complete.
  bool channel_lost_ = false;    // After the token was sent.
  bool demand_promise_ = false;
  bool target_destroyed_ = false;
  bool lost_ = false;
  std::string error_;
};

// --- Target -------------------------------------------------------------------------------------------------

enum class TargetPhase : std::uint8_t {
  kIdle,
  kPreparing,   // Loading code, reserving memory.
  kReady,       // Prepared; pages come, and the state is awaited.
  kRestoring,   // The state is being restored.
  kRestored,    // Ready to run; the token is awaited.
  kConfirming,  // Accepted and running; the store is being asked to confirm.
  kOwner,       // Confirmed.
  kPromised,    // Never accepted, never will be. Kept so that late messages find it.
  kDestroyed,   // Accepted, but the store decided for another owner: the copy is gone.
};
std::string_view ToString(TargetPhase phase);

namespace target {

struct PrepareReceived {};
struct TokenReceived { Token token; };
struct AskReceived { Token token; bool demand_promise; };
struct AbortReceived { std::string reason; };
struct ReleaseAcknowledged {};  // The source knows that the target owns.
struct Prepared {};
struct PrepareFailed { std::string reason; };
struct StateReceived {};
struct Restored {};
struct RestoreFailed { std::string reason; };
struct ConfirmWon {};
struct ConfirmLost { std::string reason; };
struct LeaseLost {};            // This device's lease ended: unconfirmed guests must stand still.
struct SourceLost {};           // The channel broke.
struct DeadlinePassed { TargetPhase phase; };
struct RetryDue { TargetPhase phase; };

using Event = std::variant<PrepareReceived, TokenReceived, AskReceived, AbortReceived, ReleaseAcknowledged, Prepared,
                           PrepareFailed, StateReceived, Restored, RestoreFailed, ConfirmWon, ConfirmLost, LeaseLost,
                           SourceLost, DeadlinePassed, RetryDue>;

struct PrepareLocally {};     // Answered by Prepared or PrepareFailed.
struct SendPrepareReply { bool accepted; std::string reason; };
struct RestoreInstance {};    // Answered by Restored or RestoreFailed. The guest must not run yet.
struct ResumeInstance {};
struct SendCommitReply { Token token; bool accepted; std::string reason; };
struct SendOwnerReply { Token token; Ownership ownership; };
struct ConfirmInStore {};     // Answered by ConfirmWon or ConfirmLost; if the outcome is unknown, by nothing.
struct SendConfirmed {};      // Until ReleaseAcknowledged.
struct OpenToRequests {};     // Requests and replies may pass from now on.
struct PauseInstance {};
struct UnpauseInstance {};
struct DropReservation { std::string reason; };  // With all that was restored; it never ran.
struct DestroyInstance { std::string reason; };  // It ran, unseen, and the store decided for another owner.

using Action = std::variant<PrepareLocally, SendPrepareReply, RestoreInstance, ResumeInstance, SendCommitReply,
                            SendOwnerReply, ConfirmInStore, SendConfirmed, OpenToRequests, PauseInstance,
                            UnpauseInstance, DropReservation, DestroyInstance>;

}  // namespace target

// One token's life at the target. It must be kept while settled() is false: forgetting an accepted token and then
// denying it would let the guest run twice.
class Target {
 public:
  // `token` is the only one that can be accepted; its boot id is this process's own.
  explicit Target(Token token);

  // As Source::Step.
  Result<std::vector<target::Action>> Step(const target::Event& event);

  const Token& token() const { return token_; }
  TargetPhase phase() const { return phase_; }
  const std::string& error() const { return error_; }
  // Nobody can ask about the token in a way that matters any more: confirmed and the source knows, or promised.
  // A promise may be forgotten only where a Prepare of the same migration cannot come again.
  bool settled() const {
    return phase_ == TargetPhase::kPromised || phase_ == TargetPhase::kDestroyed ||
           (phase_ == TargetPhase::kOwner && acknowledged_);
  }

 private:
  using Actions = std::vector<target::Action>;
  Actions On(const target::TokenReceived& event);
  Actions On(const target::AskReceived& event);
  Actions Promise(std::string reason);  // Never to accept; drops what was prepared. Only before acceptance.
  Actions Accept();
  Actions OnRetry();
  bool Undecided() const { return phase_ < TargetPhase::kConfirming; }

  const Token token_;
  TargetPhase phase_ = TargetPhase::kIdle;
  bool token_received_ = false;
  bool acknowledged_ = false;
  bool paused_ = false;
  std::string error_;
};

}  // namespace godwit::migration
