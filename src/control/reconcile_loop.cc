#include "control/reconcile_loop.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "control/api.h"
#include "control/view.h"

namespace godwit::control {
namespace {

using namespace model;
using std::chrono::milliseconds;
using std::chrono::seconds;
using std::chrono::steady_clock;
using store::Compare;
using store::Delete;
using store::Keys;
using store::Put;
using store::Transaction;

constexpr seconds kRestartDelay{5};         // Before a failed stateless instance is started again.
constexpr seconds kRefusedDelay{10};        // Before a target is tried again for an instance that it could not take.
constexpr seconds kPendingMax{30};          // For a source's agent to begin a migration.
constexpr seconds kNoProgressMax{300};      // For a migration to reach its next phase or report anything.
constexpr seconds kConfirmMax{10};          // For a live target to confirm what a lost source may have sent it.
constexpr std::size_t kMigrationsKept = 500;  // Records of migrations that are over; the oldest go first.
constexpr milliseconds kPause{20};          // Between two rounds, so that bursts of changes are one.

class Loop final : public ReconcileLoop {
 public:
  Loop(store::Metadata& metadata, milliseconds lease_ttl)
      : metadata_(metadata), leases_count_(steady_clock::now() + lease_ttl), thread_([this] { Run(); }) {}
  ~Loop() override {
    {
      std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }

 private:
  void Run() {
    std::unique_ptr<store::Watch> watch;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        changed_.wait_for(lock, kPause, [&] { return stopping_; });
        changed_.wait_for(lock, seconds(1), [&] { return stopping_ || dirty_; });
        if (stopping_) return;
        dirty_ = false;
        if (watch_ended_) {
          lock.unlock();
          watch.reset();
          lock.lock();
          watch_ended_ = false;
        }
      }
      if (!watch) {
        auto started = metadata_.StartWatch(Keys::Prefix("/"), {}, [this](const Result<std::vector<store::Event>>& events) {
          std::lock_guard lock(mutex_);
          dirty_ = true;
          watch_ended_ = watch_ended_ || !events.ok();
          changed_.notify_all();
        });
        if (started.ok()) watch = std::move(*started);
      }
      const Status done = Round();
      if (!done.ok() && done.error().message != last_error_) spdlog::warn("reconcile: {}", done.error().message);
      last_error_ = done.ok() ? "" : done.error().message;
    }
  }

  Status Round() {
    GODWIT_ASSIGN(StoredView stored, LoadView(metadata_));
    Observe(stored);
    for (const Decision& decision : Reconcile(stored.view, [](const std::string& prefix) { return RandomId(prefix); })) {
      const Transaction transaction = std::visit([&](const auto& d) { return Carry(stored, d); }, decision);
      if (!transaction.then.empty()) GODWIT_TRY(metadata_.Commit(transaction));
    }
    return Tidy(stored);
  }

  // What of the clock Reconcile needs.
  void Observe(StoredView& stored) {
    const auto now = steady_clock::now();
    for (const DeviceRecord& device : stored.view.devices) {
      if (now < leases_count_ && device.state != DeviceState::kOffline) stored.view.alive.emplace(device.name, device.boot_id);
    }
    std::map<InstanceId, steady_clock::time_point> failed;
    for (const InstanceRecord& instance : stored.view.instances) {
      if (instance.state != InstanceState::kFailed) continue;
      const auto known = failed_since_.find(instance.id);
      failed[instance.id] = known == failed_since_.end() ? now : known->second;
      if (now - failed[instance.id] < kRestartDelay) stored.view.failed_lately.insert(instance.id);
    }
    failed_since_ = std::move(failed);

    std::map<MigrationId, steady_clock::time_point> refused;
    for (const MigrationRecord& migration : stored.view.migrations) {
      if (migration.phase != MigrationPhase::kFailed || migration.reason != kDrainReason) continue;
      const auto known = refused_since_.find(migration.id);
      refused[migration.id] = known == refused_since_.end() ? now : known->second;
      if (now - refused[migration.id] < kRefusedDelay) stored.view.refused_lately.emplace(migration.instance, migration.target);
    }
    refused_since_ = std::move(refused);

    std::map<MigrationId, std::pair<store::Revision, steady_clock::time_point>> progress;
    std::map<MigrationId, steady_clock::time_point> source_lost;
    for (const MigrationRecord& migration : stored.view.migrations) {
      if (IsFinal(migration.phase)) continue;
      const store::Revision modified = stored.modified.at(KeyOf("migrations", migration.id.value));
      const auto known = progress_.find(migration.id);
      progress[migration.id] = known == progress_.end() || known->second.first != modified ? std::pair(modified, now) : known->second;
      const auto limit = migration.phase == MigrationPhase::kPending ? kPendingMax : kNoProgressMax;
      if (now - progress[migration.id].second >= limit) stored.view.stalled.insert(migration.id);
      if (stored.view.alive.count(migration.source) != 0) continue;
      const auto lost = source_lost_.find(migration.id);
      source_lost[migration.id] = lost == source_lost_.end() ? now : lost->second;
      if (now - source_lost[migration.id] >= kConfirmMax) stored.view.stalled.insert(migration.id);
    }
    progress_ = std::move(progress);
    source_lost_ = std::move(source_lost);
  }

  template <typename R, typename Id>
  static R Find(const std::vector<R>& records, const Id& id, Id R::*member) {
    return *std::find_if(records.begin(), records.end(), [&](const R& r) { return r.*member == id; });
  }

  Transaction Carry(const StoredView& stored, const SetDeviceState& decision) {
    DeviceRecord device = Find(stored.view.devices, decision.device, &DeviceRecord::name);
    device.state = decision.state;
    const std::string key = KeyOf("devices", device.name.value);
    spdlog::info("device {} is {}", device.name.value, ToString(decision.state));
    return {{Compare::ModifiedAt(key, stored.modified.at(key)), Compare::Absent(std::string(kAlivePrefix) + device.name.value)},
            {Put{key, device.ToJson(), {}}}, {}};
  }
  Transaction Carry(const StoredView& stored, const CreateInstance& decision) {
    const std::string key = KeyOf("instances", decision.instance.id.value);
    const std::string service_key = KeyOf("services", decision.instance.service.value);
    spdlog::info("instance {} goes to {}", decision.instance.id.value, decision.instance.device.value);
    return {{Compare::Absent(key), Compare::ModifiedAt(service_key, stored.modified.at(service_key))},
            {Put{key, decision.instance.ToJson(), {}}}, {}};
  }
  Transaction Carry(const StoredView& stored, const DeleteInstance& decision) {
    const std::string key = KeyOf("instances", decision.instance.value);
    spdlog::info("instance {} is deleted", decision.instance.value);
    return {{Compare::ModifiedAt(key, stored.modified.at(key))}, {Delete{Keys::One(key)}}, {}};
  }
  Transaction Carry(const StoredView& stored, const SetInstanceState& decision) {
    InstanceRecord instance = Find(stored.view.instances, decision.instance, &InstanceRecord::id);
    instance.state = decision.state;
    instance.reason = decision.reason;
    const std::string key = KeyOf("instances", instance.id.value);
    spdlog::info("instance {} is {}: {}", instance.id.value, ToString(instance.state), instance.reason);
    return {{Compare::ModifiedAt(key, stored.modified.at(key))}, {Put{key, instance.ToJson(), {}}}, {}};
  }
  Transaction Carry(const StoredView& stored, const EndMigration& decision) {
    MigrationRecord migration = Find(stored.view.migrations, decision.migration, &MigrationRecord::id);
    migration.phase = decision.phase;
    migration.error = decision.error;
    const std::string key = KeyOf("migrations", migration.id.value);
    spdlog::info("migration {} is {}{}", migration.id.value, ToString(migration.phase), migration.error.empty() ? "" : ": " + migration.error);
    return {{Compare::ModifiedAt(key, stored.modified.at(key))},
            {Put{key, migration.ToJson(), {}}, Delete{Keys::One(std::string(kMovingPrefix) + migration.instance.value)}}, {}};
  }

  Transaction Carry(const StoredView& stored, const StartMigration& decision) {
    const MigrationRecord& migration = decision.migration;
    spdlog::info("instance {} is moved from {} to {}: {}", migration.instance.value, migration.source.value, migration.target.value, migration.reason);
    return StartOf(stored, migration);
  }

  // Locks of migrations that are over, and the oldest records of those.
  Status Tidy(const StoredView& stored) {
    for (const auto& [instance, id] : stored.moving) {
      const bool under_way = std::any_of(stored.view.migrations.begin(), stored.view.migrations.end(),
                                         [&, id = id](const MigrationRecord& m) { return m.id == id && !IsFinal(m.phase); });
      const std::string key = std::string(kMovingPrefix) + instance.value;
      if (!under_way) GODWIT_TRY(metadata_.Commit({{Compare::ModifiedAt(key, stored.modified.at(key))}, {Delete{Keys::One(key)}}, {}}));
    }
    std::vector<std::pair<store::Revision, std::string>> over;
    for (const MigrationRecord& migration : stored.view.migrations) {
      const std::string key = KeyOf("migrations", migration.id.value);
      if (IsFinal(migration.phase)) over.emplace_back(stored.modified.at(key), key);
    }
    std::sort(over.begin(), over.end());
    for (std::size_t i = 0; i + kMigrationsKept < over.size(); ++i) GODWIT_TRY(metadata_.DeleteKeys(Keys::One(over[i].second)));
    return {};
  }

  store::Metadata& metadata_;
  const steady_clock::time_point leases_count_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false, dirty_ = true, watch_ended_ = false;  // Guarded by mutex_; the rest is the thread's.
  std::map<InstanceId, steady_clock::time_point> failed_since_;
  std::map<MigrationId, steady_clock::time_point> refused_since_;
  std::map<MigrationId, std::pair<store::Revision, steady_clock::time_point>> progress_;
  std::map<MigrationId, steady_clock::time_point> source_lost_;
  std::string last_error_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<ReconcileLoop> ReconcileLoop::Start(store::Metadata& metadata, milliseconds lease_ttl) {
  return std::make_unique<Loop>(metadata, lease_ttl);
}

}  // namespace godwit::control
