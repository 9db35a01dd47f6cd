#include "migration/handoff.h"

#include <gtest/gtest.h>

namespace godwit::migration {
namespace {

const model::MigrationId kMigration("m-1");
const model::InstanceId kInstance("store-0-a");
const model::DeviceName kSelf("host0"), kPeer("csd1");
constexpr model::BootId kBoot{7}, kOtherBoot{8};
const Token kToken{kMigration, kInstance, model::Epoch{4}, kBoot};

Source MakeSource() { return Source({kMigration, kInstance, kSelf, kPeer, model::Epoch{3}}); }

std::vector<source::Action> MustStep(Source& s, const source::Event& event) {
  auto actions = s.Step(event);
  EXPECT_TRUE(actions.ok()) << (actions.ok() ? "" : actions.error().message);
  return actions.ok() ? *actions : std::vector<source::Action>{};
}
std::vector<target::Action> MustStep(Target& t, const target::Event& event) {
  auto actions = t.Step(event);
  EXPECT_TRUE(actions.ok()) << (actions.ok() ? "" : actions.error().message);
  return actions.ok() ? *actions : std::vector<target::Action>{};
}

template <typename T, typename Actions>
const T* Find(const Actions& actions) {
  for (const auto& action : actions) {
    if (const auto* found = std::get_if<T>(&action)) return found;
  }
  return nullptr;
}

Source SourceIn(SourcePhase phase) {
  Source s = MakeSource();
  const source::Event path[] = {source::Start{}, source::IntentWritten{},
                                source::PrepareReplied{kMigration, true, kBoot, ""}, source::Copied{}, source::Captured{},
                                source::StateSent{}, source::CommitReplied{kToken, true, ""}};
  for (const auto& event : path) {
    if (s.phase() == phase) return s;
    MustStep(s, event);
  }
  if (phase == SourcePhase::kClaiming) MustStep(s, source::TargetRebooted{kOtherBoot});
  EXPECT_EQ(s.phase(), phase);
  return s;
}

Target TargetIn(TargetPhase phase) {
  Target t(kToken);
  const target::Event path[] = {target::PrepareReceived{}, target::Prepared{}, target::StateReceived{},
                                target::Restored{}, target::TokenReceived{kToken}, target::ConfirmWon{}};
  for (const auto& event : path) {
    if (t.phase() == phase) return t;
    MustStep(t, event);
  }
  EXPECT_EQ(t.phase(), phase);
  return t;
}

constexpr SourcePhase kBeforeToken[] = {SourcePhase::kIntent, SourcePhase::kPreparing, SourcePhase::kCopying,
                                        SourcePhase::kStopping, SourcePhase::kSending};

TEST(SourceTest, AnAnswerThatComesBeforeTheIntentIsWrittenWaitsForIt) {
  Source s = MakeSource();
  MustStep(s, source::Start{});
  EXPECT_TRUE(MustStep(s, source::PrepareReplied{kMigration, true, kBoot, ""}).empty());
  EXPECT_EQ(s.phase(), SourcePhase::kIntent);
  EXPECT_TRUE(Find<source::CopyMemory>(MustStep(s, source::IntentWritten{})));
  EXPECT_EQ(s.phase(), SourcePhase::kCopying);

  Source refused = MakeSource();
  MustStep(refused, source::Start{});
  EXPECT_TRUE(MustStep(refused, source::PrepareReplied{kMigration, false, {}, "full"}).empty());
  EXPECT_TRUE(Find<source::SendAbort>(MustStep(refused, source::IntentWritten{})));
  EXPECT_EQ(refused.phase(), SourcePhase::kFailed);

  Source unwritten = MakeSource();
  MustStep(unwritten, source::Start{});
  MustStep(unwritten, source::PrepareReplied{kMigration, true, kBoot, ""});
  EXPECT_TRUE(Find<source::SendAbort>(MustStep(unwritten, source::IntentRefused{"no store"}))) << "the target was asked already";
}

TEST(SourceTest, GoesThroughAllStepsToDone) {
  Source s = MakeSource();
  const auto begun = MustStep(s, source::Start{});
  EXPECT_TRUE(Find<source::WriteIntent>(begun));
  EXPECT_TRUE(Find<source::SendPrepare>(begun)) << "both at once";
  EXPECT_TRUE(MustStep(s, source::IntentWritten{}).empty());
  EXPECT_TRUE(Find<source::CopyMemory>(MustStep(s, source::PrepareReplied{kMigration, true, kBoot, ""})));
  EXPECT_EQ(PublicPhase(s.phase()), model::MigrationPhase::kCopying);
  EXPECT_TRUE(Find<source::StopInstance>(MustStep(s, source::Copied{})));
  EXPECT_TRUE(Find<source::SendState>(MustStep(s, source::Captured{})));
  const auto token = MustStep(s, source::StateSent{});
  ASSERT_TRUE(Find<source::SendToken>(token));
  EXPECT_EQ(Find<source::SendToken>(token)->token, kToken);
  EXPECT_TRUE(MustStep(s, source::CommitReplied{kToken, true, ""}).empty());
  EXPECT_TRUE(Find<source::ReleaseInstance>(MustStep(s, source::Confirmed{kToken})));
  EXPECT_EQ(s.phase(), SourcePhase::kDone);
  EXPECT_TRUE(s.error().empty());
}

TEST(SourceTest, CanAlwaysGoOnBeforeTheTokenWasSent) {
  for (const SourcePhase phase : kBeforeToken) {
    for (const source::Event& trouble : std::initializer_list<source::Event>{
             source::TargetLost{"x"}, source::DeadlinePassed{phase}, source::CancelRequested{"x"},
             source::TargetRebooted{kOtherBoot}, source::TargetLeaseExpired{}}) {
      Source s = SourceIn(phase);
      auto actions = MustStep(s, trouble);
      if (phase == SourcePhase::kStopping) {
        EXPECT_TRUE(actions.empty()) << "the stop that is under way ends first";
        actions = MustStep(s, source::Captured{});
      }
      EXPECT_TRUE(s.final());
      EXPECT_FALSE(s.error().empty());
      const bool stopped = phase == SourcePhase::kStopping || phase == SourcePhase::kSending;
      ASSERT_EQ(Find<source::ResumeLocally>(actions) != nullptr, stopped);
      EXPECT_TRUE(!stopped || Find<source::ResumeLocally>(actions)->epoch == model::Epoch{3});
      EXPECT_EQ(Find<source::EndCopy>(actions) != nullptr, phase == SourcePhase::kCopying);
      EXPECT_EQ(s.phase() == SourcePhase::kCancelled, std::holds_alternative<source::CancelRequested>(trouble));
    }
  }
}

TEST(SourceTest, ARefusalEndsItWithTheReasonAndNothingWasStopped) {
  Source s = SourceIn(SourcePhase::kPreparing);
  const auto actions = MustStep(s, source::PrepareReplied{kMigration, false, kBoot, "csd1 has 3 MiB free, 64 MiB needed"});
  EXPECT_FALSE(Find<source::ResumeLocally>(actions));
  EXPECT_EQ(s.phase(), SourcePhase::kFailed);
  EXPECT_EQ(s.error(), "csd1 has 3 MiB free, 64 MiB needed");
}

TEST(SourceTest, ACopyThatDoesNotConvergeEndsItAndTheInstanceNeverStopped) {
  Source s = SourceIn(SourcePhase::kCopying);
  const auto actions = MustStep(s, source::CopyFailed{"96 MB are left, 20 ms are allowed"});
  EXPECT_TRUE(Find<source::EndCopy>(actions));
  EXPECT_TRUE(Find<source::SendAbort>(actions)) << "the target frees what it prepared";
  EXPECT_FALSE(Find<source::ResumeLocally>(actions));
  EXPECT_EQ(s.phase(), SourcePhase::kFailed);
  EXPECT_EQ(s.error(), "96 MB are left, 20 ms are allowed");
  EXPECT_TRUE(MustStep(s, source::Copied{}).empty()) << "what was under way means nothing more";
}

TEST(SourceTest, ACaptureThatFailsResumesTheInstance) {
  Source s = SourceIn(SourcePhase::kStopping);
  EXPECT_TRUE(Find<source::ResumeLocally>(MustStep(s, source::CaptureFailed{"an open socket cannot move"})));
  EXPECT_EQ(s.error(), "an open socket cannot move");
}

TEST(SourceTest, NeverResumesLocallyOnceTheTokenWasSent) {
  for (const SourcePhase phase : {SourcePhase::kCommitting, SourcePhase::kResuming}) {
    for (const source::Event& loss : std::initializer_list<source::Event>{
             source::TargetLost{"x"}, source::DeadlinePassed{phase}, source::RetryDue{phase}}) {
      Source s = SourceIn(phase);
      const auto actions = MustStep(s, loss);
      EXPECT_TRUE(Find<source::AskTarget>(actions));
      EXPECT_TRUE(Find<source::AskStore>(actions));
      EXPECT_FALSE(Find<source::ResumeLocally>(actions));
      EXPECT_EQ(s.phase(), phase);
    }
  }
}

TEST(SourceTest, ResumesOnAPromise) {
  Source s = SourceIn(SourcePhase::kCommitting);
  EXPECT_FALSE(Find<source::AskTarget>(MustStep(s, source::TargetLost{"x"}))->demand_promise);
  const auto demand = MustStep(s, source::OwnerAnswered{kToken, Ownership::kNotAccepted, kBoot});
  ASSERT_TRUE(Find<source::AskTarget>(demand));
  EXPECT_TRUE(Find<source::AskTarget>(demand)->demand_promise);
  const auto actions = MustStep(s, source::OwnerAnswered{kToken, Ownership::kPromised, kBoot});
  ASSERT_TRUE(Find<source::ResumeLocally>(actions));
  EXPECT_EQ(Find<source::ResumeLocally>(actions)->epoch, model::Epoch{3});
}

TEST(SourceTest, DoesNotDemandAPromiseWhileTheTokenMayStillArrive) {
  Source s = SourceIn(SourcePhase::kCommitting);
  EXPECT_TRUE(MustStep(s, source::OwnerAnswered{kToken, Ownership::kNotAccepted, kBoot}).empty());
}

TEST(SourceTest, AcceptsNoPromiseForAnotherToken) {
  Token older = kToken;
  older.epoch = model::Epoch{3};
  Source s = SourceIn(SourcePhase::kCommitting);
  EXPECT_TRUE(MustStep(s, source::OwnerAnswered{older, Ownership::kPromised, kBoot}).empty());
  EXPECT_TRUE(MustStep(s, source::CommitReplied{older, false, "x"}).empty());
  EXPECT_TRUE(MustStep(s, source::Confirmed{older}).empty());
  EXPECT_EQ(s.phase(), SourcePhase::kCommitting);
}

TEST(SourceTest, ADeadTargetIsNoPromiseTheStoreDecides) {
  for (const SourcePhase phase : {SourcePhase::kCommitting, SourcePhase::kResuming}) {
    for (const source::Event& death : std::initializer_list<source::Event>{
             source::TargetRebooted{kOtherBoot}, source::TargetLeaseExpired{},
             source::OwnerAnswered{kToken, Ownership::kNotAccepted, kOtherBoot}}) {
      Source s = SourceIn(phase);
      auto actions = MustStep(s, death);
      ASSERT_TRUE(Find<source::ClaimInStore>(actions));
      EXPECT_EQ(Find<source::ClaimInStore>(actions)->epoch, model::Epoch{4});
      EXPECT_FALSE(Find<source::ResumeLocally>(actions));

      Source winner = s;
      actions = MustStep(winner, source::ClaimWon{});
      ASSERT_TRUE(Find<source::ResumeLocally>(actions));
      EXPECT_EQ(Find<source::ResumeLocally>(actions)->epoch, model::Epoch{4});
      EXPECT_EQ(winner.phase(), SourcePhase::kFailed);
      EXPECT_FALSE(winner.lost());

      Source loser = s;
      EXPECT_TRUE(Find<source::ReleaseInstance>(MustStep(loser, source::ClaimLost{kPeer})));
      EXPECT_EQ(loser.phase(), SourcePhase::kDone);

      Source deleted = s;
      EXPECT_TRUE(Find<source::DestroyInstance>(MustStep(deleted, source::ClaimLost{model::DeviceName()})));
      EXPECT_TRUE(deleted.lost());
    }
  }
}

TEST(SourceTest, IgnoresALatePromiseWhileClaiming) {
  Source s = SourceIn(SourcePhase::kClaiming);
  EXPECT_TRUE(MustStep(s, source::OwnerAnswered{kToken, Ownership::kPromised, kBoot}).empty());
  EXPECT_TRUE(MustStep(s, source::CommitReplied{kToken, false, "x"}).empty());
  EXPECT_EQ(s.phase(), SourcePhase::kClaiming);
}

TEST(SourceTest, LearnsFromTheStoreThatTheTargetOwns) {
  for (const SourcePhase phase : {SourcePhase::kCommitting, SourcePhase::kResuming, SourcePhase::kClaiming}) {
    Source s = SourceIn(phase);
    EXPECT_TRUE(MustStep(s, source::StoreShows{kSelf, model::Epoch{3}}).empty()) << "undecided";
    EXPECT_TRUE(Find<source::ReleaseInstance>(MustStep(s, source::StoreShows{kPeer, model::Epoch{4}})));
  }
}

TEST(SourceTest, GoesOnWhenTheStoreConfirmsNobodyAndTheTargetHasDestroyedItsCopy) {
  Source s = SourceIn(SourcePhase::kResuming);
  EXPECT_TRUE(Find<source::AskStore>(MustStep(s, source::OwnerAnswered{kToken, Ownership::kDestroyed, kBoot})));
  EXPECT_TRUE(Find<source::ResumeLocally>(MustStep(s, source::StoreShows{kSelf, model::Epoch{3}})));
  Source claiming = SourceIn(SourcePhase::kClaiming);
  const auto actions = MustStep(claiming, source::ClaimLost{kSelf});
  ASSERT_TRUE(Find<source::ResumeLocally>(actions));
  EXPECT_EQ(Find<source::ResumeLocally>(actions)->epoch, model::Epoch{3});
}

TEST(SourceTest, CannotBeCancelledAfterTheToken) {
  for (const SourcePhase phase : {SourcePhase::kCommitting, SourcePhase::kResuming, SourcePhase::kClaiming}) {
    Source s = SourceIn(phase);
    const auto result = s.Step(source::CancelRequested{"x"});
    ASSERT_FALSE(result.ok());
    EXPECT_EQ(result.error().code, ErrorCode::kFailedPrecondition);
    EXPECT_EQ(s.phase(), phase);
  }
}

TEST(TargetTest, GoesThroughAllStepsToOwner) {
  Target t(kToken);
  EXPECT_TRUE(Find<target::PrepareLocally>(MustStep(t, target::PrepareReceived{})));
  EXPECT_TRUE(Find<target::SendPrepareReply>(MustStep(t, target::Prepared{}))->accepted);
  EXPECT_TRUE(Find<target::RestoreInstance>(MustStep(t, target::StateReceived{})));
  EXPECT_TRUE(MustStep(t, target::Restored{}).empty()) << "not allowed to run before the token";
  const auto accept = MustStep(t, target::TokenReceived{kToken});
  ASSERT_EQ(accept.size(), 3u);
  EXPECT_TRUE(std::holds_alternative<target::ResumeInstance>(accept[0]));
  EXPECT_TRUE(Find<target::SendCommitReply>(accept)->accepted);
  EXPECT_TRUE(Find<target::ConfirmInStore>(accept));
  EXPECT_FALSE(Find<target::OpenToRequests>(accept)) << "no reply leaves before the store knows";
  const auto won = MustStep(t, target::ConfirmWon{});
  EXPECT_TRUE(Find<target::OpenToRequests>(won));
  EXPECT_TRUE(Find<target::SendConfirmed>(won));
  EXPECT_FALSE(t.settled());
  MustStep(t, target::ReleaseAcknowledged{});
  EXPECT_TRUE(t.settled());
}

TEST(TargetTest, ATokenThatComesDuringTheRestoreIsAcceptedAtItsEnd) {
  Target t = TargetIn(TargetPhase::kRestoring);
  EXPECT_TRUE(MustStep(t, target::TokenReceived{kToken}).empty());
  EXPECT_TRUE(Find<target::ResumeInstance>(MustStep(t, target::Restored{})));
}

TEST(TargetTest, AcceptsATokenOnce) {
  Target t = TargetIn(TargetPhase::kConfirming);
  const auto again = MustStep(t, target::TokenReceived{kToken});
  EXPECT_FALSE(Find<target::ResumeInstance>(again));
  EXPECT_TRUE(Find<target::SendCommitReply>(again)->accepted);
}

TEST(TargetTest, RefusesATokenOfAnotherMigrationEpochOrBoot) {
  Token migration = kToken, epoch = kToken, boot = kToken, instance = kToken;
  migration.migration = model::MigrationId("m-2");
  epoch.epoch = model::Epoch{5};
  boot.target_boot = kOtherBoot;
  instance.instance = model::InstanceId("other");
  for (const Token& token : {migration, epoch, boot, instance}) {
    Target t = TargetIn(TargetPhase::kRestored);
    const auto actions = MustStep(t, target::TokenReceived{token});
    EXPECT_FALSE(Find<target::SendCommitReply>(actions)->accepted);
    EXPECT_FALSE(Find<target::ResumeInstance>(actions));
    EXPECT_EQ(t.phase(), TargetPhase::kRestored);
    EXPECT_TRUE(MustStep(t, target::AskReceived{token, true}).empty());
  }
}

TEST(TargetTest, KeepsItsPromise) {
  for (const TargetPhase phase : {TargetPhase::kIdle, TargetPhase::kPreparing, TargetPhase::kReady,
                                  TargetPhase::kRestoring, TargetPhase::kRestored}) {
    Target t = TargetIn(phase);
    const auto promise = MustStep(t, target::AskReceived{kToken, true});
    EXPECT_EQ(Find<target::SendOwnerReply>(promise)->ownership, Ownership::kPromised);
    if (phase == TargetPhase::kPreparing) MustStep(t, target::Prepared{});
    if (phase == TargetPhase::kRestoring) {
      EXPECT_TRUE(Find<target::DropReservation>(MustStep(t, target::Restored{})));
    }
    MustStep(t, target::PrepareReceived{});
    MustStep(t, target::StateReceived{});
    const auto late = MustStep(t, target::TokenReceived{kToken});
    EXPECT_FALSE(Find<target::ResumeInstance>(late));
    EXPECT_FALSE(Find<target::SendCommitReply>(late)->accepted);
    EXPECT_EQ(t.phase(), TargetPhase::kPromised);
  }
}

TEST(TargetTest, GivesNoPromiseAfterAcceptance) {
  Target confirming = TargetIn(TargetPhase::kConfirming);
  EXPECT_EQ(Find<target::SendOwnerReply>(MustStep(confirming, target::AskReceived{kToken, true}))->ownership,
            Ownership::kAccepted);
  Target owner = TargetIn(TargetPhase::kOwner);
  EXPECT_EQ(Find<target::SendOwnerReply>(MustStep(owner, target::AskReceived{kToken, true}))->ownership,
            Ownership::kConfirmed);
}

TEST(TargetTest, EveryTroubleBeforeTheTokenIsAPromise) {
  for (const TargetPhase phase : {TargetPhase::kPreparing, TargetPhase::kReady, TargetPhase::kRestoring,
                                  TargetPhase::kRestored}) {
    for (const target::Event& trouble : std::initializer_list<target::Event>{
             target::SourceLost{}, target::DeadlinePassed{phase}, target::LeaseLost{}, target::AbortReceived{"x"}}) {
      Target t = TargetIn(phase);
      MustStep(t, trouble);
      EXPECT_EQ(t.phase(), TargetPhase::kPromised);
      EXPECT_TRUE(t.settled());
    }
  }
}

TEST(TargetTest, ARestoreThatFailsRefusesTheToken) {
  Target t = TargetIn(TargetPhase::kRestoring);
  MustStep(t, target::TokenReceived{kToken});
  const auto actions = MustStep(t, target::RestoreFailed{"frames do not fit"});
  EXPECT_FALSE(Find<target::SendCommitReply>(actions)->accepted);
  EXPECT_TRUE(Find<target::DropReservation>(actions));
}

TEST(TargetTest, StandsStillWithoutALeaseUntilTheStoreAnswered) {
  Target t = TargetIn(TargetPhase::kConfirming);
  EXPECT_TRUE(Find<target::PauseInstance>(MustStep(t, target::LeaseLost{})));
  Target lost = t;
  EXPECT_TRUE(Find<target::UnpauseInstance>(MustStep(t, target::ConfirmWon{})));
  EXPECT_TRUE(Find<target::DestroyInstance>(MustStep(lost, target::ConfirmLost{"host0 claimed it"})));
  EXPECT_TRUE(lost.settled());
}

TEST(TargetTest, AsksTheStoreAgainUntilItAnswers) {
  Target t = TargetIn(TargetPhase::kConfirming);
  EXPECT_TRUE(Find<target::ConfirmInStore>(MustStep(t, target::RetryDue{TargetPhase::kConfirming})));
  MustStep(t, target::ConfirmWon{});
  EXPECT_TRUE(Find<target::SendConfirmed>(MustStep(t, target::RetryDue{TargetPhase::kOwner})));
  MustStep(t, target::ReleaseAcknowledged{});
  EXPECT_TRUE(MustStep(t, target::RetryDue{TargetPhase::kOwner}).empty());
}

}  // namespace
}  // namespace godwit::migration
