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
#include "agent/device_environment.h"
#include "agent/guest_pacer.h"
#include "agent/log_book.h"
#include "agent/migration_driver.h"
#include "agent/outbound.h"
#include "agent/outcome.h"
#include "agent/site.h"
#include "agent/user_function.h"
#include "device/remote.h"
#include "device/ring.h"
#include "transport/channel_pool.h"

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
using transport::Channel;
using transport::Frame;

constexpr int kDataOpenMax = 256;  // Reads by peers that are not answered yet; each holds up to kDataReadBytesMax.

wire::Body BodyOf(const Frame& frame) { return frame.type(); }

// The share of the device's cores that this process used since the last call.
class LoadMeter {
 public:
  explicit LoadMeter(std::uint32_t cores) : cores_(std::max(1u, cores)) {}
  double Measure() {
    const double used = Used();
    const auto now = std::chrono::steady_clock::now();
    const double elapsed = std::chrono::duration<double>(now - last_).count();
    if (elapsed < 0.05) return load_;
    load_ = std::clamp((used - used_) / elapsed / cores_, 0.0, 1.0);
    used_ = used;
    last_ = now;
    return load_;
  }

 private:
  static double Used() {
    timespec cpu{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    return static_cast<double>(cpu.tv_sec) + static_cast<double>(cpu.tv_nsec) / 1e9;
  }

  const double cores_;
  double used_ = Used(), load_ = 0;  // What the process used before is no load.
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

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
  Status MayUse(const std::string& service, const model::DatasetName& dataset, bool write);
  void ServeConnection(const std::shared_ptr<Channel>& channel, const Frame& frame);
  void RegisterDataset(const DatasetInfo& info, std::function<void(Status)> done);
  void MeasureLink(const std::shared_ptr<transport::HttpExchange>& exchange, const std::string& to);

  transport::EventLoop& loop_;
  const model::BootId boot_;
  const Options options_;
  Composition composition_;
  std::mutex load_mutex_;
  LoadMeter load_;
  std::uint16_t http_port_ = 0;
  const migration::TrackerKind tracker_ = migration::ProbeTracker();

  std::unique_ptr<ControlClient> control_;
  std::unique_ptr<LogBook> logs_;
  std::unique_ptr<Datasets> datasets_;
  std::shared_ptr<device::Foreground> foreground_;
  std::unique_ptr<PackageCache> packages_;
  std::shared_ptr<DeviceEnvironment> environment_;
  std::unique_ptr<Offloads> offloads_;
  std::unique_ptr<device::RingServer> rings_;
  std::unique_ptr<Site> site_;
  std::unique_ptr<GuestPacer> pacer_;
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
  foreground_ = std::make_shared<device::Foreground>(options_.foreground_p99);
  environment_ = std::make_shared<DeviceEnvironment>(loop_, info, *logs_, *datasets_, foreground_, composition_.call);
  Offloads::Options offloads;
  offloads.foreground = foreground_;
  offloads.copies_bytes_max = options_.data_cache.value;
  offloads.info = info;
  offloads.profile.name = info.name;
  offloads.profile.device_class = info.device_class;
  offloads.profile.cores = options_.cores;
  offloads.profile.speed = options_.speed;
  offloads.profile.core_watts = options_.core_watts;
  offloads.may = [this](const std::string& service, const model::DatasetName& dataset, bool write) { return MayUse(service, dataset, write); };
  offloads.read = [this](const Asker& asker, const model::DatasetName& dataset, std::uint64_t offset, std::uint32_t length,
                         std::function<void(Result<Bytes>)> done) { environment_->DataRead(asker, dataset, offset, length, std::move(done)); };
  offloads.connect = [this](const std::string& address, std::function<void(Result<std::shared_ptr<Channel>>)> then) {
    environment_->AskAddress(address, std::move(then));
  };
  offloads.programs = std::make_shared<UserPrograms>([this](const std::string& service) { return site_->service(model::ServiceName(service)); },
                                                     *packages_, environment_);
  offloads.package_of = [this](const std::string& service) {
    const auto record = site_->service(model::ServiceName(service));
    return record ? record->package : std::string();
  };
  offloads.made = [this](const DatasetInfo& made) { RegisterDataset(made, nullptr); };
  // An emulated link leaves no way past it.
  offloads.rings = options_.shape.bytes_per_second == 0 && options_.shape.latency.count() == 0;
  offloads.channel_security = options_.plaintext ? "none (plaintext)" : "TLS 1.3";
  const bool shaped = !offloads.rings;
  offloads_ = std::make_unique<Offloads>(std::move(offloads), *datasets_);
  if (!shaped) {
    auto listening = device::RingServer::Listen(RingAddress(boot_), offloads_->engine());
    if (listening.ok()) rings_ = std::move(listening).value();
    else spdlog::warn("no rings for agents on this machine: {}", listening.error().message);
  }
  if (!options_.trust_domain.empty()) {
    if (shaped) return InvalidArgument("a trust domain and an emulated link exclude each other: UCX would go past it");
    GODWIT_ASSIGN(auto ucx, device::Ucx::Start(options_.channel_address, &offloads_->engine()));
    offloads_->links().Trust(options_.trust_domain, std::move(ucx));
  }
  environment_->SetOffloads(offloads_.get());
  site_ = std::make_unique<Site>(Site::Options{options_.name, options_.memory}, environment_, *packages_, *control_);
  pacer_ = std::make_unique<GuestPacer>(*foreground_, [this](double share, device::Foreground::Clock::duration credit) { return site_->Pace(share, credit); });
  GODWIT_ASSIGN(store_, ConnectMigrationStore(options_.controller, options_.token));
  driver_ = std::make_unique<MigrationDriver>(loop_, *site_, *store_,
                                              MigrationDriver::Options{.channel = ChannelOptionsHere(),
                                                                       .isa = info.isa,
                                                                       .listen_address = options_.channel_address,
                                                                       .tracker = tracker_,
                                                                       .bytes_per_second = options_.migration_bytes_per_second});
  data_lane_ = std::make_unique<Lane>();
  data_http_ = std::make_unique<DataHttp>(*datasets_, *foreground_, offloads_->engine(), options_.token, DataHttp::Registrar{
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
  pacer_.reset();
  site_.reset();
  rings_.reset();
  offloads_.reset();
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
  record.speed = options_.speed;
  record.core_watts = options_.core_watts;
  record.power_cap_watts = options_.power_cap_watts;
  for (const Site::Resident& resident : site_->residents()) {
    const auto& recent = resident.statistics.recent;
    if (recent) record.uses.push_back({resident.instance, recent->requests_per_second, recent->cpu_ms, recent->p99_ms});
    if (resident.statistics.open_files > 0) record.open_files.push_back({resident.instance, resident.statistics.open_files});
  }
  const auto foreground = foreground_->figures();
  record.foreground = {foreground.per_second, foreground.p50_us, foreground.p99_us, foreground.share, offloads_->running()};
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
    case wire::Body::DeviceRequest: 
      return static_cast<void>(device::ServeDevice(channel, frame, offloads_->engine(), false, [this](const std::string& domain) { return offloads_->links().Invite(domain); }));
    case wire::Body::ConnectionRead:
    case wire::Body::ConnectionWrite:
    case wire::Body::ConnectionClose: return ServeConnection(channel, frame);
    default:
      if (driver_) driver_->OnFrame(channel, frame);  // Messages nobody knows are ignored: they are append only.
  }
}

Status DeviceAgent::MayUse(const std::string& service, const model::DatasetName& dataset, bool write) {
  const auto record = site_->service(model::ServiceName(service));
  if (record && (write ? record->manifest.MayWrite(dataset) : record->manifest.MayRead(dataset))) return {};
  return PermissionDenied(fmt::format("service '{}' may not {} dataset '{}'", service, write ? "write" : "read", dataset.value));
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
  data_lane_->Post([this, channel, call, name = model::DatasetName(dataset), service, offset, length, open, came = std::chrono::steady_clock::now()] {
    Bytes bytes;
    std::uint64_t size = 0;
    const Status status = [&]() -> Status {
      GODWIT_TRY(MayUse(service, name, false));
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
    foreground_->Note(std::chrono::steady_clock::now() - came);
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
  if (path == "/v1/offloads") {
    exchange->Respond(200, {{"Content-Type", "application/json"}}, offloads_->Describe());
    return true;
  }
  constexpr std::string_view kLinks = "/v1/links/";
  if (path.starts_with(kLinks)) {
    if (MustBear(exchange, options_.token)) MeasureLink(exchange, std::string(path.substr(kLinks.size())));
    return true;
  }
  return data_http_->Handle(exchange);
}

void DeviceAgent::MeasureLink(const std::shared_ptr<transport::HttpExchange>& exchange, const std::string& to) {
  if (exchange->request().method != "POST") return exchange->RespondProblem(405, "links are measured by POST");
  if (to == options_.name.value) return exchange->RespondProblem(400, "that is this device: there is no link");
  const auto record = environment_->FindDevice(model::DeviceName(to));
  if (!record) return exchange->RespondProblem(404, "no device '" + to + "' is known here (yet)");
  offloads_->links().Measure(record->channel, record->boot_id, [this, exchange](Result<std::string> measured) {
    loop_.Post([exchange, measured = std::move(measured)] {
      if (!measured.ok()) return Refuse(exchange, measured.error());
      exchange->Respond(200, {{"Content-Type", "application/json"}}, *measured);
    });
  });
}

std::string DeviceAgent::MetricsText() const {
  std::string text = "# TYPE godwit_instances gauge\n";
  std::map<std::string, std::size_t> instances;
  for (const Site::Resident& resident : site_->residents()) ++instances[resident.service.value];
  for (const auto& [service, count] : instances) {
    text += fmt::format("godwit_instances{{service=\"{}\",device=\"{}\",class=\"{}\",state=\"Running\"}} {}\n", service,
                        options_.name.value, model::ToString(options_.device_class), count);
  }
  const auto foreground = foreground_->figures();
  text += "# TYPE godwit_device_foreground_latency_seconds summary\n# UNIT godwit_device_foreground_latency_seconds seconds\n";
  for (const auto& [quantile, us] : {std::pair("0.5", foreground.p50_us), std::pair("0.99", foreground.p99_us)}) {
    text += fmt::format("godwit_device_foreground_latency_seconds{{quantile=\"{}\"}} {}\n", quantile, us / 1e6);
  }
  text += fmt::format("godwit_device_foreground_latency_seconds_count {}\ngodwit_device_foreground_latency_seconds_sum {}\n", foreground.count, foreground.sum_us / 1e6);
  text += fmt::format("# TYPE godwit_device_offload_share_ratio gauge\n# UNIT godwit_device_offload_share_ratio ratio\ngodwit_device_offload_share_ratio {}\n", foreground.share);
  text += fmt::format("# TYPE godwit_data_local_bytes counter\ngodwit_data_local_bytes_total {}\n", environment_->local_bytes());
  text += fmt::format("# TYPE godwit_data_remote_bytes counter\ngodwit_data_remote_bytes_total {}\n", environment_->remote_bytes());
  return text + offloads_->MetricsText();
}

}  // namespace

Result<std::unique_ptr<Agent>> Agent::Create(transport::EventLoop& loop, model::BootId boot, Options options, Composition composition) {
  auto agent = std::make_unique<DeviceAgent>(loop, boot, std::move(options), std::move(composition));
  GODWIT_TRY(agent->Start());
  return std::unique_ptr<Agent>(std::move(agent));
}

}  // namespace godwit::agent
