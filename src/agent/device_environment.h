// DeviceEnvironment: the environment of all instances of one device.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "agent/datasets.h"
#include "agent/environment.h"
#include "agent/log_book.h"
#include "agent/offloads.h"
#include "agent/outbound.h"
#include "agent/outside_call.h"
#include "model/records.h"
#include "transport/channel_pool.h"

namespace godwit::agent {

// Self-synchronised.
class DeviceEnvironment final : public Environment, public std::enable_shared_from_this<DeviceEnvironment> {
 public:
  using CallService = std::function<std::shared_ptr<Pending>(OutgoingCall call, std::function<void(Result<CallAnswer>)> done)>;
  // `foreground` is told of reads of the datasets here. `call`: to other services; null: none. What is referred to outlives it.
  DeviceEnvironment(transport::EventLoop& loop, DeviceInfo info, LogBook& logs, Datasets& datasets, std::shared_ptr<device::Foreground> foreground,
                    CallService call)
      : loop_(loop), info_(std::move(info)), logs_(logs), datasets_(datasets), foreground_(std::move(foreground)), call_(std::move(call)) {}

  const DeviceInfo& device() const override { return info_; }
  void Log(const Asker& from, LogLevel level, std::string_view line) override { logs_.Append(from, info_.name, level, line); }
  std::shared_ptr<Pending> Call(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) override {
    if (OutsideHost(call.service.value)) return CallOutside(std::move(call), std::move(done));
    if (call_) return call_(std::move(call), std::move(done));
    done(Unsupported("this agent makes no calls"));
    return nullptr;
  }
  Result<std::string> DataFolder(const model::ServiceName& service, const std::set<model::DatasetName>& names) override {
    GODWIT_ASSIGN(const auto folder, datasets_.FolderOf(service, names));
    return folder.string();
  }
  void DataSize(const Asker& asker, const model::DatasetName& dataset, std::function<void(Result<std::uint64_t>)> done) override;
  void DataRead(const Asker& asker, const model::DatasetName& dataset, std::uint64_t offset, std::uint32_t length,
                std::function<void(Result<Bytes>)> done) override;
  std::shared_ptr<Pending> Connect(const Asker& asker, const std::string& address, std::chrono::milliseconds timeout,
                                   std::function<void(Result<ConnectionName>)> done) override;
  void ConnectionRead(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, std::uint32_t length,
                      std::function<void(Result<KeptConnection::Received>)> done) override;
  void ConnectionWrite(const Asker& asker, const ConnectionName& connection, std::uint64_t offset, Bytes bytes,
                       std::function<void(Result<std::uint64_t>)> done) override;
  void ConnectionClose(const Asker& asker, const ConnectionName& connection) override;
  std::shared_ptr<Pending> Keep(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name, device::Request request,
                                const model::DatasetName& result, std::function<void(Result<std::uint64_t>)> done) override;
  std::shared_ptr<Pending> Offload(const Asker& asker, const model::DatasetName& dataset, const std::string& export_name, device::Request request,
                                   std::function<void(Result<device::Completion>)> done) override;

  // --- For the agent
  void PutDataset(const model::DatasetRecord& record) {
    const std::lock_guard lock(mutex_);
    records_[record.name] = record;
  }
  void RemoveDataset(const model::DatasetName& name) {
    const std::lock_guard lock(mutex_);
    records_.erase(name);
  }
  void PutDevice(const model::DeviceRecord& record) {
    const std::lock_guard lock(mutex_);
    devices_[record.name] = record;
  }
  std::optional<model::DeviceRecord> FindDevice(const model::DeviceName& name) const {
    const std::lock_guard lock(mutex_);
    const auto found = devices_.find(name);
    return found != devices_.end() ? std::optional(found->second) : std::nullopt;
  }
  // On the loop; nulls end all use.
  void SetLinks(transport::ChannelPool* pool, Outbound* outbound) {
    pool_ = pool;
    outbound_ = outbound;
  }
  // Before anything runs here. `offloads` outlives all use.
  void SetOffloads(Offloads* offloads) { offloads_ = offloads; }
  // On the loop, or posted to it.
  void AskAddress(Result<std::string> address, std::function<void(Result<std::shared_ptr<transport::Channel>>)> then);
  std::uint64_t local_bytes() const { return local_bytes_.load(); }
  // Of data and results that came from other devices.
  std::uint64_t remote_bytes() const { return remote_bytes_.load() + (offloads_ != nullptr ? offloads_->moved_bytes() : 0); }

 private:
  Result<std::string> ChannelOf(const model::DatasetName& dataset) const;
  void Ask(const model::DatasetName& dataset, std::function<void(Result<std::shared_ptr<transport::Channel>>)> then);
  Result<std::string> ChannelOfDevice(const model::DeviceName& device) const;  // mutex_ is held.
  // Where it lies, if that is not here. kNotFound.
  Result<std::optional<Offloads::Holder>> HolderOf(const model::DatasetName& dataset);
  // With the connection's holder: this device's connections, or a channel to the one that has it. On the loop.
  void WithHolder(const ConnectionName& connection, std::function<void(Outbound&)> here,
                  std::function<void(Result<std::shared_ptr<transport::Channel>>)> there);

  transport::EventLoop& loop_;
  const DeviceInfo info_;
  LogBook& logs_;
  Datasets& datasets_;
  const std::shared_ptr<device::Foreground> foreground_;
  CallService call_;
  transport::ChannelPool* pool_ = nullptr;
  Outbound* outbound_ = nullptr;
  Offloads* offloads_ = nullptr;
  mutable std::mutex mutex_;
  std::map<model::DatasetName, model::DatasetRecord> records_;
  std::map<model::DeviceName, model::DeviceRecord> devices_;
  std::atomic<std::uint64_t> local_bytes_{0}, remote_bytes_{0};
};

}  // namespace godwit::agent
