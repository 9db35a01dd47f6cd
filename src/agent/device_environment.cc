#include "agent/device_environment.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "agent/outcome.h"

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
using transport::Channel;
using transport::Frame;

constexpr auto kDataTimeout = 30s;

// A connection that is closed if it comes after it was cancelled.
class PendingConnection final : public Pending {
 public:
  PendingConnection(std::weak_ptr<DeviceEnvironment> environment, Asker asker)
      : environment_(std::move(environment)), asker_(std::move(asker)) {}
  void Cancel() override {
    std::optional<ConnectionName> made;
    {
      const std::lock_guard lock(mutex_);
      cancelled_ = true;
      made = std::exchange(made_, std::nullopt);
    }
    if (made) Close(*made);
  }
  void Made(const ConnectionName& name) {
    {
      const std::lock_guard lock(mutex_);
      if (!cancelled_) {
        made_ = name;
        return;
      }
    }
    Close(name);
  }

 private:
  void Close(const ConnectionName& name) {
    if (const auto environment = environment_.lock()) environment->ConnectionClose(asker_, name);
  }
  const std::weak_ptr<DeviceEnvironment> environment_;
  const Asker asker_;
  std::mutex mutex_;
  bool cancelled_ = false;
  std::optional<ConnectionName> made_;
};

}  // namespace

Result<std::string> DeviceEnvironment::ChannelOf(const model::DatasetName& dataset) const {
  const std::lock_guard lock(mutex_);
  const auto record = records_.find(dataset);
  if (record == records_.end()) return NotFound("no dataset '" + dataset.value + "' in this cluster");
  return ChannelOfDevice(record->second.device);
}

Result<std::string> DeviceEnvironment::ChannelOfDevice(const model::DeviceName& device) const {
  const auto record = devices_.find(device);
  if (record == devices_.end()) return Unavailable("device '" + device.value + "' is not known (yet)");
  return record->second.channel;
}

void DeviceEnvironment::Ask(const model::DatasetName& dataset, std::function<void(Result<std::shared_ptr<Channel>>)> then) {
  AskAddress(ChannelOf(dataset), std::move(then));
}

void DeviceEnvironment::AskAddress(Result<std::string> address, std::function<void(Result<std::shared_ptr<Channel>>)> then) {
  if (!address.ok()) return then(address.error());
  loop_.Post([self = shared_from_this(), address = std::move(address).value(), then = std::move(then)] {
    if (self->pool_ == nullptr) return then(Unavailable("the agent is ending"));
    self->pool_->Get(address, then);
  });
}

void DeviceEnvironment::DataSize(const Asker& asker, const model::DatasetName& dataset, std::function<void(Result<std::uint64_t>)> done) {
  const auto local = datasets_.Open(dataset);
  if (local.ok()) return done((*local)->size());
  if (local.error().code != ErrorCode::kNotFound) return done(local.error());
  Ask(dataset, [asker, dataset, done = std::move(done)](Result<std::shared_ptr<Channel>> channel) {
    if (!channel.ok()) return done(channel.error());
    flatbuffers::FlatBufferBuilder builder(256);
    const auto stat = wire::CreateDataStatDirect(builder, dataset.value.c_str(), nullptr, asker.service.value.c_str(),
                                                 asker.instance.value.c_str(), asker.epoch.value);
    (*channel)->Ask<wire::DataStat>(builder, stat, kDataTimeout, [done](Result<Frame> frame) {
      if (!frame.ok()) return done(frame.error());
      const auto* reply = frame->as<wire::DataReply>();
      if (reply == nullptr) return done(Corrupt("another answer than a DataReply"));
      const Status status = GetOutcome(reply->outcome());
      return status.ok() ? done(reply->object_bytes()) : done(status.error());
    });
  });
}

void DeviceEnvironment::DataRead(const Asker& asker, const model::DatasetName& dataset, std::uint64_t offset, std::uint32_t length,
                                 std::function<void(Result<Bytes>)> done) {
  length = std::min<std::uint32_t>(length, kDataReadBytesMax);
  const auto local = datasets_.Open(dataset);
  if (!local.ok() && local.error().code != ErrorCode::kNotFound) return done(local.error());
  if (local.ok()) {
    Bytes bytes(length);
    const auto begun = std::chrono::steady_clock::now();
    const auto got = (*local)->Read(offset, bytes);
    foreground_->Note(std::chrono::steady_clock::now() - begun);
    if (!got.ok()) return done(got.error());
    bytes.resize(*got);
    local_bytes_ += *got;
    return done(std::move(bytes));
  }
  Ask(dataset, [self = shared_from_this(), asker, dataset, offset, length, done = std::move(done)](Result<std::shared_ptr<Channel>> channel) {
    if (!channel.ok()) return done(channel.error());
    flatbuffers::FlatBufferBuilder builder(256);
    const auto read = wire::CreateDataReadDirect(builder, dataset.value.c_str(), nullptr, offset, length, asker.service.value.c_str(),
                                                 asker.instance.value.c_str(), asker.epoch.value);
    (*channel)->Ask<wire::DataRead>(builder, read, kDataTimeout, [self, length, done](Result<Frame> frame) {
      if (!frame.ok()) return done(frame.error());
      const auto* reply = frame->as<wire::DataReply>();
      if (reply == nullptr || frame->payload().size() > length) return done(Corrupt("not the answer to a DataRead"));
      const Status status = GetOutcome(reply->outcome());
      if (!status.ok()) return done(status.error());
      self->remote_bytes_ += frame->payload().size();
      done(Bytes(frame->payload().begin(), frame->payload().end()));
    });
  });
}

std::shared_ptr<Pending> DeviceEnvironment::Connect(const Asker& asker, const std::string& address, std::chrono::milliseconds timeout,
                                                    std::function<void(Result<ConnectionName>)> done) {
  auto pending = std::make_shared<PendingConnection>(weak_from_this(), asker);
  loop_.Post([self = shared_from_this(), pending, asker, address, timeout, done = std::move(done)] {
    if (self->outbound_ == nullptr) return done(Unavailable("the agent is ending"));
    self->outbound_->Connect(asker, address, timeout, [self, pending, done](Result<std::uint64_t> number) {
      if (!number.ok()) return done(number.error());
      const ConnectionName name{self->info_.name, *number};
      pending->Made(name);
      done(name);
    });
  });
  return pending;
}

void DeviceEnvironment::WithHolder(const ConnectionName& connection, std::function<void(Outbound&)> here,
                                   std::function<void(Result<std::shared_ptr<Channel>>)> there) {
  if (connection.device == info_.name) {
    return loop_.Post([self = shared_from_this(), here = std::move(here), there = std::move(there)] {
      if (self->outbound_ == nullptr) return there(Unavailable("the agent is ending"));
      here(*self->outbound_);
    });
  }
  Result<std::string> address = [&] {
    const std::lock_guard lock(mutex_);
    return ChannelOfDevice(model::DeviceName(connection.device));
  }();
  AskAddress(std::move(address), std::move(there));
}

void DeviceEnvironment::ConnectionRead(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, std::uint32_t length,
                                       std::function<void(Result<KeptConnection::Received>)> done) {
  const std::uint64_t number = connection.number;
  const auto here = [=](Outbound& outbound) { outbound.Read(asker, number, offset, length, done); };
  WithHolder(connection, here, [=](Result<std::shared_ptr<Channel>> channel) {
    if (!channel.ok()) return done(channel.error());
    flatbuffers::FlatBufferBuilder builder(256);
    const auto read = wire::CreateConnectionReadDirect(builder, number, offset, length, asker.service.value.c_str(),
                                                       asker.instance.value.c_str(), asker.epoch.value);
    (*channel)->Ask<wire::ConnectionRead>(builder, read, kDataTimeout, [length, done](Result<Frame> frame) {
      if (!frame.ok()) return done(frame.error());
      const auto* reply = frame->as<wire::ConnectionReadReply>();
      if (reply == nullptr || frame->payload().size() > length) return done(Corrupt("not the answer to a ConnectionRead"));
      const Status status = GetOutcome(reply->outcome());
      if (!status.ok()) return done(status.error());
      done(KeptConnection::Received{Bytes(frame->payload().begin(), frame->payload().end()), reply->ended()});
    });
  });
}

void DeviceEnvironment::ConnectionWrite(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, Bytes bytes,
                                        std::function<void(Result<std::uint64_t>)> done) {
  const std::uint64_t number = connection.number;
  const auto shared = std::make_shared<const Bytes>(std::move(bytes));
  const auto here = [=](Outbound& outbound) { outbound.Write(asker, number, offset, *shared, done); };
  WithHolder(connection, here, [=](Result<std::shared_ptr<Channel>> channel) {
    if (!channel.ok()) return done(channel.error());
    flatbuffers::FlatBufferBuilder builder(256);
    const auto write = wire::CreateConnectionWriteDirect(builder, number, offset, asker.service.value.c_str(),
                                                         asker.instance.value.c_str(), asker.epoch.value);
    const auto on_reply = [done](Result<Frame> frame) {
      if (!frame.ok()) return done(frame.error());
      const auto* reply = frame->as<wire::ConnectionWriteReply>();
      if (reply == nullptr) return done(Corrupt("not the answer to a ConnectionWrite"));
      const Status status = GetOutcome(reply->outcome());
      return status.ok() ? done(reply->offset()) : done(status.error());
    };
    (*channel)->Ask<wire::ConnectionWrite>(builder, write, kDataTimeout, on_reply, *shared);
  });
}

void DeviceEnvironment::ConnectionClose(const Asker& asker, const ConnectionName& connection) {
  const std::uint64_t number = connection.number;
  const auto here = [=](Outbound& outbound) { outbound.Close(asker, number); };
  WithHolder(connection, here, [=](Result<std::shared_ptr<Channel>> channel) {
    if (!channel.ok()) return;  // It is closed when it was idle for long.
    flatbuffers::FlatBufferBuilder builder(256);
    const auto close = wire::CreateConnectionCloseDirect(builder, number, asker.service.value.c_str(), asker.instance.value.c_str(),
                                                         asker.epoch.value);
    static_cast<void>((*channel)->Tell<wire::ConnectionClose>(builder, close).ok());
  });
}

Result<std::optional<Offloads::Holder>> DeviceEnvironment::HolderOf(const model::DatasetName& dataset) {
  const auto local = datasets_.Open(dataset);
  if (local.ok()) return std::optional<Offloads::Holder>();
  if (local.error().code != ErrorCode::kNotFound) return local.error();
  const std::lock_guard lock(mutex_);
  const auto record = records_.find(dataset);
  const auto device = record != records_.end() ? devices_.find(record->second.device) : devices_.end();
  if (device == devices_.end()) return NotFound("no dataset '" + dataset.value + "' in this cluster, or its device is not known (yet)");
  return std::optional(Offloads::Holder{{device->second.name.value, std::string(model::ToString(device->second.device_class)), device->second.isa},
                                        device->second.channel, device->second.boot_id, record->second.bytes.value, record->second.digest});
}

std::shared_ptr<Pending> DeviceEnvironment::Keep(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name, device::Request request,
                                                 const model::DatasetName& result, std::function<void(Result<std::uint64_t>)> done) {
  const auto holder = HolderOf(dataset);
  if (holder.ok()) return offloads_->Keep(asker, dataset, *holder, export_name, std::move(request), result, std::move(done));
  done(holder.error());
  return nullptr;
}

std::shared_ptr<Pending> DeviceEnvironment::Offload(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name, device::Request request,
                                                    std::function<void(Result<device::Completion>)> done) {
  const auto holder = HolderOf(dataset);
  if (!holder.ok()) {
    done(holder.error());
    return nullptr;
  }
  return offloads_->Run(asker, dataset, *holder, export_name, std::move(request), std::move(done));
}

}  // namespace godwit::agent
