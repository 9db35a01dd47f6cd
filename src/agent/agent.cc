#include "agent/agent.h"

#include <time.h>

#include <algorithm>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

#include "agent/channel_session.h"
#include "agent/control_client.h"
#include "agent/data_http.h"
#include "agent/datasets.h"
#include "agent/log_book.h"
#include "agent/migration_driver.h"
#include "agent/outbound.h"
#include "agent/outside_call.h"
#include "agent/site.h"
#include "transport/channel_pool.h"

namespace godwit::agent {
namespace {

// With mprotect the kernel would refuse to write where a guest's host call wants it to, and our host functions do not
// touch their buffers first: such devices move instances by stop and copy.
migration::TrackerKind TrackerForGuests() {
  const migration::TrackerKind kind = migration::ProbeTracker();
  return kind == migration::TrackerKind::kWriteProtect ? kind : migration::TrackerKind::kNone;
}

using namespace std::chrono_literals;
using transport::Channel;
using transport::Frame;

constexpr auto kDataTimeout = 30s;
constexpr int kDataOpenMax = 256;  // Reads by peers that are not answered yet; each holds up to kDataReadBytesMax.

wire::Body BodyOf(const Frame& frame) { return frame.type(); }

flatbuffers::Offset<wire::Outcome> PutOutcome(flatbuffers::FlatBufferBuilder& builder, const Status& status) {
  return status.ok() ? wire::CreateOutcomeDirect(builder, 0)
                     : wire::CreateOutcomeDirect(builder, static_cast<std::uint8_t>(status.error().code), status.error().message.c_str());
}

Status GetOutcome(const wire::Outcome* outcome) {
  if (outcome == nullptr || outcome->code() == 0) return {};
  return Error{static_cast<ErrorCode>(outcome->code()), outcome->message() != nullptr ? outcome->message()->str() : "no reason given"};
}

// The share of the device's cores that this process used since the last call.
class LoadMeter {
 public:
  explicit LoadMeter(std::uint32_t cores) : cores_(std::max(1u, cores)) {}
  double Measure() {
    timespec cpu{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    const double used = static_cast<double>(cpu.tv_sec) + static_cast<double>(cpu.tv_nsec) / 1e9;
    const auto now = std::chrono::steady_clock::now();
    const double elapsed = std::chrono::duration<double>(now - last_).count();
    if (elapsed < 0.05) return load_;
    load_ = std::clamp((used - used_) / elapsed / cores_, 0.0, 1.0);
    used_ = used;
    last_ = now;
    return load_;
  }

 private:
  const double cores_;
  double used_ = 0, load_ = 0;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

// The environment of all instances here.
class DeviceEnvironment final : public Environment, public std::enable_shared_from_this<DeviceEnvironment> {
 public:
  DeviceEnvironment(transport::EventLoop& loop, DeviceInfo info, LogBook& logs, Datasets& datasets, Agent::Composition& composition)
      : loop_(loop), info_(std::move(info)), logs_(logs), datasets_(datasets), composition_(composition) {}

  const DeviceInfo& device() const override { return info_; }
  void Log(const Asker& from, LogLevel level, std::string_view line) override { logs_.Append(from, info_.name, level, line); }
  std::shared_ptr<Pending> Call(OutgoingCall call, std::function<void(Result<CallAnswer>)> done) override {
    if (OutsideHost(call.service.value)) return CallOutside(std::move(call), std::move(done));
    if (composition_.call) return composition_.call(std::move(call), std::move(done));
    done(Unsupported("this agent makes no calls"));
    return nullptr;
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
    channels_[record.name] = record.channel;
  }
  // On the loop; nulls end all use.
  void SetLinks(transport::ChannelPool* pool, Outbound* outbound) {
    pool_ = pool;
    outbound_ = outbound;
  }
  std::uint64_t local_bytes() const { return local_bytes_.load(); }
  std::uint64_t remote_bytes() const { return remote_bytes_.load(); }

 private:
  Result<std::string> ChannelOf(const model::DatasetName& dataset) const;
  void Ask(const model::DatasetName& dataset, std::function<void(Result<std::shared_ptr<Channel>>)> then);
  Result<std::string> ChannelOfDevice(const model::DeviceName& device) const;  // mutex_ is held.
  void AskAddress(Result<std::string> address, std::function<void(Result<std::shared_ptr<Channel>>)> then);
  // With the connection's holder: this device's connections, or a channel to the one that has it. On the loop.
  void WithHolder(const ConnectionName& connection, std::function<void(Outbound&)> here,
                  std::function<void(Result<std::shared_ptr<Channel>>)> there);

  transport::EventLoop& loop_;
  const DeviceInfo info_;
  LogBook& logs_;
  Datasets& datasets_;
  Agent::Composition& composition_;
  transport::ChannelPool* pool_ = nullptr;
  Outbound* outbound_ = nullptr;
  mutable std::mutex mutex_;
  std::map<model::DatasetName, model::DatasetRecord> records_;
  std::map<model::DeviceName, std::string> channels_;
  std::atomic<std::uint64_t> local_bytes_{0}, remote_bytes_{0};
};

Result<std::string> DeviceEnvironment::ChannelOf(const model::DatasetName& dataset) const {
  const std::lock_guard lock(mutex_);
  const auto record = records_.find(dataset);
  if (record == records_.end()) return NotFound("no dataset '" + dataset.value + "' in this cluster");
  return ChannelOfDevice(record->second.device);
}

Result<std::string> DeviceEnvironment::ChannelOfDevice(const model::DeviceName& device) const {
  const auto channel = channels_.find(device);
  if (channel == channels_.end()) return Unavailable("device '" + device.value + "' is not known (yet)");
  return channel->second;
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
  if (const auto local = datasets_.Open(dataset); local.ok()) return done((*local)->size());
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
  if (const auto local = datasets_.Open(dataset); local.ok()) {
    Bytes bytes(length);
    const auto got = (*local)->Read(offset, bytes);
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

class DeviceAgent final : public Agent {
 public:
  DeviceAgent(transport::EventLoop& loop, model::BootId boot, Options options, Composition composition)
      : loop_(loop), boot_(boot), options_(std::move(options)), composition_(std::move(composition)), load_(options_.cores) {}
  ~DeviceAgent() override;
  Status Start();

  void Join(std::uint16_t http_port) override;
  bool Leave(std::chrono::milliseconds within, const std::function<bool()>& hurry) override;
  bool HandleHttp(const std::shared_ptr<transport::HttpExchange>& exchange) override;
  std::uint16_t channel_port() const override { return server_->port(); }
  std::string MetricsText() const override;

 private:
  transport::ChannelOptions ChannelOptionsHere() const {
    transport::ChannelOptions options;
    options.self = {options_.name, boot_};
    options.token = options_.token;
    options.plaintext = options_.plaintext;
    options.shape = options_.shape;
    return options;
  }
  std::string advertised() const { return options_.advertise.empty() ? options_.channel_address : options_.advertise; }
  model::DeviceRecord Record();
  void OnRecord(const std::string& kind, const std::string& name, const std::string& json);
  void OnRegistered();
  transport::ChannelHandlers OnAccept(const std::shared_ptr<Channel>& channel);
  void OnFrame(const std::shared_ptr<ChannelSession>& session, const std::shared_ptr<Channel>& channel, const Frame& frame);
  void ServeData(const std::shared_ptr<Channel>& channel, std::uint64_t call, const std::string& dataset, const std::string& service,
                 std::uint64_t offset, std::optional<std::uint32_t> length);
  void ServeConnection(const std::shared_ptr<Channel>& channel, const Frame& frame);
  void RegisterDataset(const DatasetInfo& info, std::function<void(Status)> done);

  transport::EventLoop& loop_;
  const model::BootId boot_;
  const Options options_;
  Composition composition_;
  std::mutex load_mutex_;
  LoadMeter load_;
  std::uint16_t http_port_ = 0;
  const migration::TrackerKind tracker_ = TrackerForGuests();

  std::unique_ptr<ControlClient> control_;
  std::unique_ptr<LogBook> logs_;
  std::unique_ptr<Datasets> datasets_;
  std::unique_ptr<PackageCache> packages_;
  std::shared_ptr<DeviceEnvironment> environment_;
  std::unique_ptr<Site> site_;
  std::unique_ptr<MigrationStore> store_;
  std::unique_ptr<MigrationDriver> driver_;
  std::unique_ptr<transport::ChannelPool> pool_;
  std::unique_ptr<Outbound> outbound_;  // On the loop.
  std::unique_ptr<DataHttp> data_http_;
  std::atomic<int> data_open_{0};
  std::unique_ptr<Lane> data_lane_;
  std::unique_ptr<transport::ChannelServer> server_;
  std::atomic<bool> joined_{false};
};

Status DeviceAgent::Start() {
  ControlClient::Handlers handlers;
  handlers.on_record = [this](const std::string& kind, const std::string& name, const std::string& json) { OnRecord(kind, name, json); };
  handlers.device = [this] { return Record(); };
  handlers.on_registered = [this] { OnRegistered(); };
  handlers.on_lease_lost = [this] { loop_.Post([this] { if (driver_) driver_->OnLeaseLost(); }); };
  control_ = std::make_unique<ControlClient>(options_.controller, options_.token, std::move(handlers));
  logs_ = std::make_unique<LogBook>(*control_);
  GODWIT_ASSIGN(datasets_, Datasets::Create(options_.data / "datasets", options_.device_class == model::DeviceClass::kCpm));
  GODWIT_ASSIGN(packages_, PackageCache::Create(options_.data / "packages",
                                                [this](const std::string& digest, const std::function<Status(ByteView)>& sink) {
                                                  return control_->FetchBlob(digest, sink);
                                                },
                                                options_.trusted));
  const DeviceInfo info{options_.name.value, std::string(model::ToString(options_.device_class)),
                        std::string(package::IsaName(package::HostIsa()))};
  environment_ = std::make_shared<DeviceEnvironment>(loop_, info, *logs_, *datasets_, composition_);
  site_ = std::make_unique<Site>(Site::Options{options_.name, options_.memory}, environment_, *packages_, *control_);
  GODWIT_ASSIGN(store_, ConnectMigrationStore(options_.controller, options_.token));
  driver_ = std::make_unique<MigrationDriver>(loop_, *site_, *store_,
                                              MigrationDriver::Options{.channel = ChannelOptionsHere(),
                                                                       .isa = info.isa,
                                                                       .listen_address = options_.channel_address,
                                                                       .tracker = tracker_,
                                                                       .bytes_per_second = options_.migration_bytes_per_second});
  data_lane_ = std::make_unique<Lane>();
  data_http_ = std::make_unique<DataHttp>(*datasets_, options_.token, DataHttp::Registrar{
      [this](const DatasetInfo& dataset, std::function<void(Status)> done) { RegisterDataset(dataset, std::move(done)); },
      [this](const model::DatasetName& name, std::function<void(Status)> done) {
        control_->Report("DELETE", "/v1/datasets/" + name.value, "", std::move(done));
      }});
  loop_.Run([this] {
    pool_ = std::make_unique<transport::ChannelPool>(loop_, ChannelOptionsHere(), transport::ChannelHandlers{});
    outbound_ = std::make_unique<Outbound>(loop_, boot_.value);
    environment_->SetLinks(pool_.get(), outbound_.get());
  });
  transport::ChannelServer::Options server;
  server.address = options_.channel_address;
  server.port = options_.channel_port;
  server.channel = ChannelOptionsHere();
  GODWIT_ASSIGN(server_, transport::ChannelServer::Listen(loop_, std::move(server),
                                                          [this](const std::shared_ptr<Channel>& channel) { return OnAccept(channel); }));
  return {};
}

DeviceAgent::~DeviceAgent() {
  if (control_) control_->Stop();
  server_.reset();
  driver_.reset();
  if (pool_) {
    loop_.Run([this] {
      environment_->SetLinks(nullptr, nullptr);
      outbound_.reset();
      pool_.reset();
    });
  }
  data_lane_.reset();
  site_.reset();
}

model::DeviceRecord DeviceAgent::Record() {
  const std::lock_guard lock(load_mutex_);
  model::DeviceRecord record;
  record.name = options_.name;
  record.device_class = options_.device_class;
  record.isa = package::IsaName(package::HostIsa());
  record.cores = options_.cores;
  record.memory = options_.memory;
  record.load = load_.Measure();
  record.boot_id = boot_;
  record.channel = fmt::format("{}:{}", advertised(), server_->port());
  record.url = fmt::format("http://{}:{}", advertised(), http_port_);
  record.emulated = options_.emulated;
  record.page_tracker = migration::ToString(tracker_);
  return record;
}

bool DeviceAgent::Leave(std::chrono::milliseconds within, const std::function<bool()>& hurry) {
  const auto end = std::chrono::steady_clock::now() + within;
  const auto asked = control_->Call("PATCH", "/v1/devices/" + options_.name.value, R"({"maintenance":"leave"})");
  if (!asked.ok()) spdlog::warn("the controller does not drain this device: {}", asked.error().message);
  while (asked.ok() && !site_->residents().empty() && std::chrono::steady_clock::now() < end) {
    if (hurry()) break;
  }
  return site_->residents().empty();
}

void DeviceAgent::Join(std::uint16_t http_port) {
  http_port_ = http_port;
  control_->Start({"devices", "services", "instances", "migrations", "datasets"});
}

void DeviceAgent::RegisterDataset(const DatasetInfo& info, std::function<void(Status)> done) {
  model::DatasetRecord record;
  record.name = info.name;
  record.device = options_.name;
  record.bytes = {info.bytes};
  record.digest = info.digest;
  environment_->PutDataset(record);
  control_->Report("PUT", "/v1/datasets/" + info.name.value, record.ToJson(), std::move(done));
}

void DeviceAgent::OnRegistered() {
  joined_.store(true);
  for (const DatasetInfo& info : datasets_->List()) RegisterDataset(info, nullptr);
}

// Any record that does not parse was written by something newer or broken: it is left alone.
void DeviceAgent::OnRecord(const std::string& kind, const std::string& name, const std::string& json) {
  const bool put = !json.empty();
  const auto bad = [&](const Error& error) { spdlog::warn("{} {}: {}", kind, name, error.message); };
  if (kind == "services") {
    if (!put) site_->RemoveService(model::ServiceName(name));
    else if (const auto record = model::ServiceRecord::FromJson(json); record.ok()) site_->PutService(*record);
    else bad(record.error());
  } else if (kind == "instances") {
    if (!put) {
      site_->RemoveInstance(model::InstanceId(name));
      loop_.Post([this, id = model::InstanceId(name)] {
        if (outbound_) outbound_->CloseOf(id);
      });
    }
    else if (const auto record = model::InstanceRecord::FromJson(json); record.ok()) site_->PutInstance(*record);
    else bad(record.error());
  } else if (kind == "devices") {
    const auto record = put ? model::DeviceRecord::FromJson(json) : Result<model::DeviceRecord>(NotFound(""));
    if (record.ok()) environment_->PutDevice(*record);
  } else if (kind == "datasets") {
    if (!put) environment_->RemoveDataset(model::DatasetName(name));
    else if (const auto record = model::DatasetRecord::FromJson(json); record.ok()) environment_->PutDataset(*record);
    else bad(record.error());
  } else if (kind == "migrations") {
    if (!put) return;
    const auto record = model::MigrationRecord::FromJson(json);
    if (!record.ok()) return bad(record.error());
    loop_.Post([this, record = *record] {
      if (driver_) driver_->OnRecord(record);
    });
  }
  if (composition_.on_record) composition_.on_record(kind, name, json);
}

// --- Channels

transport::ChannelHandlers DeviceAgent::OnAccept(const std::shared_ptr<Channel>& channel) {
  auto session = std::make_shared<ChannelSession>(channel);
  transport::ChannelHandlers handlers;
  handlers.on_frame = [this, session](const std::shared_ptr<Channel>& from, Frame frame) { OnFrame(session, from, frame); };
  handlers.on_closed = [this, session](const std::shared_ptr<Channel>& from, const Error&) {
    session->OnClosed();
    if (driver_) driver_->OnChannelClosed(from);
  };
  return handlers;
}

void DeviceAgent::OnFrame(const std::shared_ptr<ChannelSession>& session, const std::shared_ptr<Channel>& channel, const Frame& frame) {
  if (session->OnFrame(frame)) return;
  switch (BodyOf(frame)) {
    case wire::Body::OpenRequest: return site_->Open(*frame.as<wire::OpenRequest>(), session);
    case wire::Body::AttachRequest: return site_->Attach(*frame.as<wire::AttachRequest>(), session);
    case wire::Body::DataRead: {
      const auto& read = *frame.as<wire::DataRead>();
      return ServeData(channel, frame.call(), read.dataset()->str(), read.service() != nullptr ? read.service()->str() : "",
                       read.offset(), std::min<std::uint32_t>(read.length(), kDataReadBytesMax));
    }
    case wire::Body::DataStat: {
      const auto& stat = *frame.as<wire::DataStat>();
      return ServeData(channel, frame.call(), stat.dataset()->str(), stat.service() != nullptr ? stat.service()->str() : "", 0, std::nullopt);
    }
    case wire::Body::ConnectionRead:
    case wire::Body::ConnectionWrite:
    case wire::Body::ConnectionClose: return ServeConnection(channel, frame);
    default:
      if (driver_) driver_->OnFrame(channel, frame);  // Messages nobody knows are ignored: they are append only.
  }
}

// For an instance of another device that made its connection here.
void DeviceAgent::ServeConnection(const std::shared_ptr<Channel>& channel, const Frame& frame) {
  const auto asker = [](const auto& body) {
    return Asker{model::ServiceName(body.service() != nullptr ? body.service()->str() : ""), model::InstanceId(body.instance()->str()),
                 model::Epoch{body.epoch()}};
  };
  const std::uint64_t call = frame.call();
  // Unsent, the asker's time-out says so, and it asks again.
  if (const auto* read = frame.as<wire::ConnectionRead>()) {
    outbound_->Read(asker(*read), read->number(), read->offset(), read->length(),
                    [channel, call](Result<KeptConnection::Received> received) {
      flatbuffers::FlatBufferBuilder builder(256);
      const auto outcome = PutOutcome(builder, received.ok() ? Status() : Status(received.error()));
      const auto reply = wire::CreateConnectionReadReply(builder, outcome, received.ok() && received->ended);
      static_cast<void>(channel->Reply(call, builder, reply, received.ok() ? ByteView(received->bytes) : ByteView()).ok());
    });
  } else if (const auto* write = frame.as<wire::ConnectionWrite>()) {
    outbound_->Write(asker(*write), write->number(), write->offset(), frame.payload(), [channel, call](Result<std::uint64_t> offset) {
      flatbuffers::FlatBufferBuilder builder(256);
      const auto outcome = PutOutcome(builder, offset.ok() ? Status() : Status(offset.error()));
      static_cast<void>(channel->Reply(call, builder, wire::CreateConnectionWriteReply(builder, outcome, offset.ok() ? *offset : 0)).ok());
    });
  } else if (const auto* close = frame.as<wire::ConnectionClose>()) {
    outbound_->Close(asker(*close), close->number());
  }
}

void DeviceAgent::ServeData(const std::shared_ptr<Channel>& channel, std::uint64_t call, const std::string& dataset,
                            const std::string& service, std::uint64_t offset, std::optional<std::uint32_t> length) {
  // One more that is not answered yet, until the last copy of `open` goes.
  const std::shared_ptr<void> open(&data_open_, [](std::atomic<int>* count) { --*count; });
  if (++data_open_ > kDataOpenMax) {
    flatbuffers::FlatBufferBuilder builder(256);
    const auto outcome = PutOutcome(builder, ResourceExhausted(fmt::format("{} reads of data wait on {} already", kDataOpenMax, options_.name.value)));
    static_cast<void>(channel->Reply(call, builder, wire::CreateDataReply(builder, outcome)).ok());  // Unsent: the peer's time-out says so.
    return;
  }
  data_lane_->Post([this, channel, call, name = model::DatasetName(dataset), service, offset, length, open] {
    Bytes bytes;
    std::uint64_t size = 0;
    const Status status = [&]() -> Status {
      const auto record = site_->service(model::ServiceName(service));
      if (!record || !record->manifest.MayRead(name)) {
        return PermissionDenied(fmt::format("service '{}' may not read dataset '{}'", service, name.value));
      }
      GODWIT_ASSIGN(const auto data, datasets_->Open(name));
      size = data->size();
      if (!length) return {};
      bytes.resize(*length);
      GODWIT_ASSIGN(const std::size_t got, data->Read(offset, bytes));
      bytes.resize(got);
      return {};
    }();
    auto builder = std::make_shared<flatbuffers::FlatBufferBuilder>(256);
    const auto outcome = PutOutcome(*builder, status);
    transport::FinishMessage(*builder, wire::CreateDataReply(*builder, outcome, size), 0, call);
    const Status sent = channel->Send(*builder, bytes);
    if (!sent.ok() && sent.error().code == ErrorCode::kResourceExhausted) {
      // The queue is full of answers: this one waits its turn, once; a peer that reads nothing loses it by timeout.
      channel->WhenWritable([channel, builder, bytes = std::move(bytes), open] { static_cast<void>(channel->Send(*builder, bytes).ok()); });
    }
  });
}

// --- HTTP

bool DeviceAgent::HandleHttp(const std::shared_ptr<transport::HttpExchange>& exchange) {
  const std::string_view path = exchange->request().path();
  if (path == "/healthz") {
    exchange->Respond(200, {{"Content-Type", "text/plain"}}, "ok\n");
    return true;
  }
  if (path == "/readyz") {
    if (joined_.load() && control_->registered()) exchange->Respond(200, {{"Content-Type", "text/plain"}}, "ready\n");
    else exchange->RespondProblem(503, "the device is not registered with the controller");
    return true;
  }
  return data_http_->Handle(exchange);
}

std::string DeviceAgent::MetricsText() const {
  std::string text = "# TYPE godwit_instances gauge\n";
  std::map<std::string, std::size_t> instances;
  for (const Site::Resident& resident : site_->residents()) ++instances[resident.service.value];
  for (const auto& [service, count] : instances) {
    text += fmt::format("godwit_instances{{service=\"{}\",device=\"{}\",class=\"{}\",state=\"Running\"}} {}\n", service,
                        options_.name.value, model::ToString(options_.device_class), count);
  }
  text += fmt::format("# TYPE godwit_data_local_bytes counter\ngodwit_data_local_bytes_total {}\n", environment_->local_bytes());
  text += fmt::format("# TYPE godwit_data_remote_bytes counter\ngodwit_data_remote_bytes_total {}\n", environment_->remote_bytes());
  return text;
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::Create(transport::EventLoop& loop, model::BootId boot, Options options, Composition composition) {
  auto agent = std::make_unique<DeviceAgent>(loop, boot, std::move(options), std::move(composition));
  GODWIT_TRY(agent->Start());
  return std::unique_ptr<Agent>(std::move(agent));
}

}  // namespace godwit::agent
