// Both sides of a hand-over, a store and a network that loses, repeats and reorders, from a seed: the guest never
// runs twice, and once the faults stop it runs where the store says, unless the one process that held it died.
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <random>
#include <set>

#include "migration/handoff.h"

namespace godwit::migration {
namespace {

const model::MigrationId kMigration("m-1");
const model::InstanceId kInstance("i-1");
const model::DeviceName kSourceName("source"), kTargetName("target");
constexpr model::Epoch kFirst{3};

enum class Copy { kNone, kRunning, kStopped };

// How often the interesting states were reached over all seeds.
std::map<std::string, int> coverage;

struct Plan {
  std::optional<TargetPhase> kill_target_in;  // Kill the target as soon as it is in this phase.
  bool random_faults = true;
};

class World {
 public:
  World(std::uint64_t seed, Plan plan) : random_(seed), plan_(plan) {
    lossy_ = Chance(70);
    crashes_ = Chance(50);
    closes_ = Chance(20);
    if (!plan.random_faults) lossy_ = crashes_ = closes_ = false;
    reorder_ = plan.random_faults && Chance(50);
  }

  void Run() {
    Source1(source::Start{});
    for (step_ = 0; step_ < 400 && !::testing::Test::HasFailure(); ++step_) Step(/*faults=*/true);
    for (step_ = 0; step_ < 400 && !::testing::Test::HasFailure(); ++step_) Step(/*faults=*/false);
    if (!::testing::Test::HasFailure()) CheckEnd();
  }

 private:
  using Work = std::function<void()>;

  bool Chance(int percent) { return static_cast<int>(random_() % 100) < percent; }

  void Step(bool faults) {
    faults = faults && plan_.random_faults;
    if (plan_.kill_target_in && target_ && target_->phase() == *plan_.kill_target_in && !killed_) {
      killed_ = true;
      CrashTarget();
    }
    if (faults && crashes_ && Chance(1)) CrashTarget();
    if (faults && crashes_ && Chance(1) && step_ > 10 && Chance(15)) CrashSource();
    if (!target_alive_ && Chance(faults ? 10 : 30)) {
      if (Chance(60)) RestartTarget();
      else ExpireTargetLease();
    }
    if (faults && Chance(1)) LoseTargetLease();
    if (faults && Chance(1) && source_alive_ && Chance(30)) {
      const auto actions = source_.Step(source::CancelRequested{"cancelled"});
      if (actions.ok()) {
        coverage["cancelled"]++;
        for (const auto& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
      }
    }
    if (faults && lossy_ && Chance(3)) BreakChannel();
    if (faults && closes_ && Chance(2)) store_closed_ = true;
    if (Chance(5)) Timers(faults);

    const bool network = !network_.empty() && (local_.empty() || Chance(60));
    if (network) {
      const std::size_t at = reorder_ ? random_() % network_.size() : 0;
      Work work = network_[at];
      const bool repeat = faults && lossy_ && Chance(15);
      if (repeat) coverage["repeated message"]++;
      if (!repeat) network_.erase(network_.begin() + static_cast<std::ptrdiff_t>(at));
      if (faults && lossy_ && Chance(12)) coverage["lost message"]++;
      else work();
    } else if (!local_.empty()) {
      const std::size_t at = random_() % local_.size();
      Work work = std::move(local_[at]);
      local_.erase(local_.begin() + static_cast<std::ptrdiff_t>(at));
      work();
    }
    CheckAlways();
  }

  void Timers(bool faults) {
    if (source_alive_ && !source_.final()) {
      const bool late = faults ? Chance(5) : Chance(20);
      if (late) Source1(source::DeadlinePassed{source_.phase()});
      else Source1(source::RetryDue{source_.phase()});
    }
    if (target_alive_ && target_) {
      const bool late = faults ? Chance(5) : Chance(20);
      if (late) Target1(target::DeadlinePassed{target_->phase()});
      else Target1(target::RetryDue{target_->phase()});
    }
  }

  // --- Faults
  void CrashTarget() {
    if (!target_alive_) return;
    coverage["target crashed while " + (target_ ? std::string(ToString(target_->phase())) : "unknown")]++;
    if (target_copy_ != Copy::kNone && store_owner_ == kTargetName) confirmed_copy_died_ = true;
    target_alive_ = false;
    target_copy_ = Copy::kNone;
    target_.reset();
    ++target_process_;
  }
  void RestartTarget() {
    target_alive_ = true;
    boot_.value++;
    // The source's watch of the device record.
    const model::BootId boot = boot_;
    network_.push_back([this, boot] { Source1(source::TargetRebooted{boot}); });
  }
  void ExpireTargetLease() {
    network_.push_back([this] {
      if (source_.token()) Source1(source::TargetLeaseExpired{});
    });
  }
  void LoseTargetLease() {
    if (!target_alive_ || !target_) return;
    coverage["lease lost while " + std::string(ToString(target_->phase()))]++;
    Target1(target::LeaseLost{});
    ExpireTargetLease();
  }
  void CrashSource() {
    if (!source_alive_) return;
    coverage["source crashed while " + std::string(ToString(source_.phase()))]++;
    source_alive_ = false;
    source_copy_ = Copy::kNone;
    network_.push_back([this] { Target1(target::SourceLost{}); });
  }
  void BreakChannel() {
    coverage["channel broke while " + std::string(ToString(source_.phase()))]++;
    Source1(source::TargetLost{"the channel broke"});
    Target1(target::SourceLost{});
  }

  // --- The two drivers
  void ToTarget(std::function<void()> work) {
    network_.push_back([this, work = std::move(work)] {
      if (target_alive_) work();
    });
  }
  void ToSource(const source::Event& event) {
    network_.push_back([this, event] { Source1(event); });
  }
  void SourceLocal(const std::function<void()>& work) {
    local_.push_back([this, work] {
      if (source_alive_) work();
    });
  }
  void TargetLocal(const std::function<void()>& work) {
    local_.push_back([this, work, process = target_process_] {
      if (target_alive_ && process == target_process_) work();
    });
  }

  void Source1(const source::Event& event) {
    if (!source_alive_) return;
    auto actions = source_.Step(event);
    ASSERT_TRUE(actions.ok()) << actions.error().message;
    for (const auto& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
  }
  void Target1(const target::Event& event) {
    if (!target_alive_ || !target_) return;
    auto actions = target_->Step(event);
    ASSERT_TRUE(actions.ok()) << actions.error().message;
    for (const auto& action : *actions) std::visit([this](const auto& a) { Do(a); }, action);
  }
  // The table of tokens that the target's driver keeps: one token here, made when first heard of.
  bool Knows(const Token& token) {
    if (token.target_boot != boot_) return false;
    if (!target_) target_.emplace(token);
    return true;
  }

  void Do(const source::WriteIntent&) {
    SourceLocal([this] { Source1(source::IntentWritten{}); });
  }
  void Do(const source::SendPrepare&) {
    ToTarget([this] {
      Knows(Token{kMigration, kInstance, kFirst.Next(), boot_});
      Target1(target::PrepareReceived{});
    });
  }
  void Do(const source::CopyMemory&) {
    coverage["copied while running"]++;
    SourceLocal([this] {
      if (plan_.random_faults && Chance(5)) Source1(source::CopyFailed{"does not converge"});
      else Source1(source::Copied{});
    });
  }
  void Do(const source::EndCopy&) {
    coverage["copy ended early"]++;
    EXPECT_EQ(source_copy_, Copy::kRunning) << "nothing was stopped yet";
  }
  void Do(const source::StopInstance&) {
    SourceLocal([this] {
      if (plan_.random_faults && Chance(5)) return Source1(source::CaptureFailed{"cannot move"});
      source_copy_ = Copy::kStopped;
      Source1(source::Captured{});
    });
  }
  void Do(const source::SendState&) {
    ToTarget([this, token = *source_.token()] {
      if (Knows(token)) Target1(target::StateReceived{});
    });
    SourceLocal([this] { Source1(source::StateSent{}); });
  }
  void Do(const source::SendToken& a) {
    ASSERT_EQ(++tokens_sent_, 1);
    ToTarget([this, token = a.token] {
      if (Knows(token)) return Target1(target::TokenReceived{token});
      coverage["token for an older boot"]++;
      ToSource(source::TargetRebooted{boot_});
    });
  }
  void Do(const source::SendAbort& a) {
    ToTarget([this, a] { Target1(target::AbortReceived{a.reason}); });
  }
  void Do(const source::ResumeLocally& a) {
    coverage["source went on"]++;
    if (a.epoch != kFirst) coverage["source claimed and went on"]++;
    EXPECT_EQ(store_owner_, kSourceName);
    EXPECT_EQ(store_epoch_, a.epoch);
    EXPECT_FALSE(target_was_open_) << "a future of this state was seen outside";
    source_copy_ = Copy::kRunning;
  }
  void Do(const source::AskTarget& a) {
    ToTarget([this, a] {
      if (Knows(a.token)) return Target1(target::AskReceived{a.token, a.demand_promise});
      ToSource(source::OwnerAnswered{a.token, Ownership::kNotAccepted, boot_});
    });
  }
  void Do(const source::AskStore&) {
    network_.push_back([this] { ToSource(source::StoreShows{store_owner_, store_epoch_}); });
  }
  void Do(const source::ClaimInStore& a) {
    network_.push_back([this, a] {
      if (CompareAndSwap(kSourceName, a.epoch)) ToSource(source::ClaimWon{});
      else ToSource(source::ClaimLost{store_owner_});
    });
  }
  void Do(const source::ReleaseInstance&) {
    coverage["done"]++;
    EXPECT_EQ(store_owner_, kTargetName);
    source_copy_ = Copy::kNone;
  }
  void Do(const source::DestroyInstance&) { ADD_FAILURE() << "nobody else may own it here"; }

  void Do(const target::PrepareLocally&) {
    TargetLocal([this] {
      if (plan_.random_faults && Chance(5)) Target1(target::PrepareFailed{"no memory"});
      else Target1(target::Prepared{});
    });
  }
  void Do(const target::SendPrepareReply& a) {
    ToSource(source::PrepareReplied{kMigration, a.accepted, target_->token().target_boot, a.reason});
  }
  void Do(const target::RestoreInstance&) {
    TargetLocal([this] {
      if (plan_.random_faults && Chance(5)) return Target1(target::RestoreFailed{"damaged"});
      target_copy_ = Copy::kStopped;
      Target1(target::Restored{});
    });
  }
  void Do(const target::ResumeInstance&) {
    EXPECT_EQ(target_copy_, Copy::kStopped);
    target_copy_ = Copy::kRunning;
    EXPECT_EQ(++accepted_, 1);
  }
  void Do(const target::SendCommitReply& a) { ToSource(source::CommitReplied{a.token, a.accepted, a.reason}); }
  void Do(const target::SendOwnerReply& a) {
    coverage["answered: " + std::string(ToString(a.ownership))]++;
    ToSource(source::OwnerAnswered{a.token, a.ownership, a.token.target_boot});
  }
  void Do(const target::ConfirmInStore&) {
    network_.push_back([this, process = target_process_, epoch = target_->token().epoch] {
      const bool won = CompareAndSwap(kTargetName, epoch);
      network_.push_back([this, process, won] {
        if (process != target_process_) return;
        if (won) Target1(target::ConfirmWon{});
        else Target1(target::ConfirmLost{"claimed by the source"});
      });
    });
  }
  void Do(const target::SendConfirmed&) {
    network_.push_back([this, token = target_->token()] {
      if (!source_alive_) return;
      Source1(source::Confirmed{token});
      ToTarget([this] { Target1(target::ReleaseAcknowledged{}); });
    });
  }
  void Do(const target::OpenToRequests&) {
    EXPECT_EQ(target_copy_, Copy::kRunning);
    EXPECT_EQ(store_owner_, kTargetName);
    target_was_open_ = true;
  }
  void Do(const target::PauseInstance&) {
    coverage["paused"]++;
    target_copy_ = Copy::kStopped;
  }
  void Do(const target::UnpauseInstance&) { target_copy_ = Copy::kRunning; }
  void Do(const target::DropReservation&) {
    EXPECT_NE(target_copy_, Copy::kRunning);
    target_copy_ = Copy::kNone;
  }
  void Do(const target::DestroyInstance&) {
    coverage["loser destroyed its copy"]++;
    EXPECT_NE(store_owner_, kTargetName);
    if (store_closed_) coverage["store confirmed nobody"]++;
    target_copy_ = Copy::kNone;
  }

  // POST /v1/instances/ID/confirm: idempotent.
  bool CompareAndSwap(const model::DeviceName& device, model::Epoch epoch) {
    if (store_epoch_.Next() == epoch && !store_closed_) {
      store_epoch_ = epoch;
      store_owner_ = device;
      // A confirmation that was under way when its process died: the instance died with it.
      if (device == kTargetName && target_copy_ == Copy::kNone) confirmed_copy_died_ = true;
      return true;
    }
    return store_epoch_ == epoch && store_owner_ == device;
  }

  // --- Properties
  void CheckAlways() {
    ASSERT_FALSE(source_copy_ == Copy::kRunning && target_copy_ == Copy::kRunning) << "the guest runs twice";
    ASSERT_FALSE(target_was_open_ && store_owner_ != kTargetName);
  }
  void CheckEnd() {
    if (source_alive_) {
      EXPECT_TRUE(source_.final()) << "did not converge: " << ToString(source_.phase());
      EXPECT_FALSE(source_.lost());
    }
    const bool at_source = source_copy_ == Copy::kRunning, at_target = target_copy_ == Copy::kRunning;
    if (store_owner_ == kTargetName) {
      EXPECT_TRUE(at_target || confirmed_copy_died_) << "lost at the target";
      EXPECT_FALSE(at_source);
      EXPECT_TRUE(!at_target || !source_alive_ || target_->settled());
    } else {
      EXPECT_TRUE(at_source || !source_alive_) << "lost at the source";
      EXPECT_FALSE(at_target);
    }
  }

  std::mt19937_64 random_;
  const Plan plan_;
  bool lossy_, crashes_, closes_, reorder_;
  bool killed_ = false;
  int step_ = 0;
  std::vector<Work> network_;  // May be lost, repeated, reordered.
  std::vector<Work> local_;    // Dies only with its process.

  model::DeviceName store_owner_ = kSourceName;
  model::Epoch store_epoch_ = kFirst;
  bool store_closed_ = false;  // The controller gave the migration up: nobody is confirmed any more.

  Source source_{{kMigration, kInstance, kSourceName, kTargetName, kFirst}};
  bool source_alive_ = true;
  Copy source_copy_ = Copy::kRunning;
  int tokens_sent_ = 0;

  std::optional<Target> target_;
  bool target_alive_ = true;
  model::BootId boot_{100};
  int target_process_ = 0;
  Copy target_copy_ = Copy::kNone;
  int accepted_ = 0;
  bool target_was_open_ = false;
  bool confirmed_copy_died_ = false;
};

TEST(HandoffSimulation, NeverRunsTwiceAndLosesNothingUnderRandomFaults) {
  coverage.clear();
  constexpr std::uint64_t kSeeds = 5'000;
  for (std::uint64_t seed = 1; seed <= kSeeds; ++seed) {
    World(seed, Plan{}).Run();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  for (const char* interesting :
       {"done", "copied while running", "copy ended early", "channel broke while copying", "source went on", "source claimed and went on", "loser destroyed its copy", "cancelled", "paused",
        "lost message", "repeated message", "token for an older boot", "answered: undecided", "answered: not accepted",
        "answered: promised", "answered: accepted", "answered: confirmed", "answered: destroyed",
        "store confirmed nobody", "target crashed while preparing",
        "target crashed while ready", "target crashed while restoring", "target crashed while restored",
        "target crashed while confirming", "target crashed while owner", "lease lost while confirming",
        "channel broke while committing", "channel broke while resuming", "source crashed while committing"}) {
    EXPECT_GE(coverage[interesting], 2) << interesting;
  }
}

TEST(HandoffSimulation, KillingTheTargetAtAnyStepLosesNothing) {
  for (const TargetPhase phase : {TargetPhase::kIdle, TargetPhase::kPreparing, TargetPhase::kReady,
                                  TargetPhase::kRestoring, TargetPhase::kRestored, TargetPhase::kConfirming,
                                  TargetPhase::kPromised}) {
    for (std::uint64_t seed = 1; seed <= 300; ++seed) {
      World(seed, Plan{phase, false}).Run();
      ASSERT_FALSE(HasFailure()) << "killed while " << ToString(phase) << ", seed " << seed;
    }
  }
}

TEST(HandoffSimulation, WithoutFaultsTheInstanceMoves) {
  coverage.clear();
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    World(seed, Plan{std::nullopt, false}).Run();
    ASSERT_FALSE(HasFailure()) << "seed " << seed;
  }
  EXPECT_GE(coverage["done"], 150) << "the rest timed out: deadlines are random here";
}

}  // namespace
}  // namespace godwit::migration
