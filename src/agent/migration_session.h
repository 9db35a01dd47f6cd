// What the two kinds of migration session share: the driver's surroundings, an event queue, and tokens on the wire.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "agent/migration_driver.h"
#include "agent/migration_lane.h"
#include "migration/handoff.h"
#include "transport/channel_pool.h"

namespace godwit::agent {

// Outlives every session.
struct MigrationContext {
  transport::EventLoop& loop;
  MigrationSite& site;
  MigrationStore& store;
  const MigrationDriver::Options options;
  Lane control;  // Questions to the store that somebody waits for.
  Lane reports;  // Progress.

  // --- The loop's.
  // To targets; they stay open for a while, so that the next move there need not open one.
  std::unique_ptr<transport::ChannelPool> channels;
  std::map<model::DeviceName, model::DeviceRecord> targets;  // As the store had them when the channel was opened.

  MigrationContext(transport::EventLoop& l, MigrationSite& s, MigrationStore& st, MigrationDriver::Options o)
      : loop(l), site(s), store(st), options(std::move(o)) {}
};

inline flatbuffers::Offset<wire::Token> PutToken(flatbuffers::FlatBufferBuilder& builder,
                                                            const migration::Token& token) {
  return wire::CreateToken(builder, builder.CreateString(token.migration.value),
                                      builder.CreateString(token.instance.value), token.epoch.value, token.target_boot.value);
}
inline migration::Token GetToken(const wire::Token& token) {
  return {model::MigrationId(token.migration()->str()), model::InstanceId(token.instance()->str()),
          model::Epoch{token.epoch()},
          model::BootId{token.target_boot()}};
}
inline flatbuffers::Offset<wire::Outcome> PutOutcome(flatbuffers::FlatBufferBuilder& builder, bool ok,
                                                                const std::string& reason) {
  return wire::CreateOutcome(builder, ok ? 0 : static_cast<std::uint8_t>(ErrorCode::kFailedPrecondition),
                                        builder.CreateString(reason));
}
inline std::string ReasonOf(const wire::Outcome& outcome) {
  return outcome.message() ? outcome.message()->str() : "no reason given";
}

// Source side of one migration. Its functions are called on the loop; destroyed after Shut, on any thread but its own lane.
class LeavingSession {
 public:
  static std::shared_ptr<LeavingSession> Start(MigrationContext& context, model::MigrationRecord record,
                                               std::function<void()> on_over);
  virtual ~LeavingSession() = default;
  virtual void Cancel(const std::string& reason) = 0;
  // Of a channel to a target.
  // running_since: when the instance could run at the target, if that is known by a clock of this machine.
  virtual void OnConfirmed(const migration::Token& token, std::optional<std::chrono::steady_clock::time_point> running_since) = 0;
  virtual void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel, const Error& reason) = 0;
  virtual void Shut() = 0;  // Ends timers; nothing is called afterwards.
};

// Target side of one migration. As above.
class ArrivingSession {
 public:
  // `token` has this process's boot id.
  static std::shared_ptr<ArrivingSession> Create(MigrationContext& context, migration::Token token);
  virtual ~ArrivingSession() = default;
  virtual void OnFrame(const std::shared_ptr<transport::Channel>& channel, const transport::Frame& frame) = 0;
  virtual void OnChannelClosed(const std::shared_ptr<transport::Channel>& channel) = 0;
  virtual void OnLeaseLost() = 0;
  virtual bool settled() const = 0;  // May be forgotten.
  virtual bool active() const = 0;   // Not settled, or something of it is still being cleaned up.
  virtual void Shut() = 0;
};

}  // namespace godwit::agent
