#include "agent/site.h"

#include <algorithm>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

namespace godwit::agent {
namespace {

// Instances that left and are still asked for at this device: so many are remembered.
constexpr std::size_t kLeftMax = 1024;

// A snapshot's memory and what else an instance needs beside it.
constexpr ByteCount kInstanceOverhead{8ull << 20};

}  // namespace

Site::Site(Options options, std::shared_ptr<Environment> environment, PackageCache& packages, ControlClient& control)
    : options_(std::move(options)), environment_(std::move(environment)), packages_(packages), control_(control) {}

Site::~Site() {
  std::map<model::InstanceId, Entry> entries;
  const std::lock_guard lock(mutex_);
  entries.swap(entries_);
}

void Site::Dispose(std::shared_ptr<InstanceHost> host) {
  // Its end joins threads: not on the loop.
  if (!host) return;
  ends_.Post([host = std::move(host)]() mutable {
    host->EndWebSockets();
    host.reset();
  });
}

// --- Records

void Site::PutService(const model::ServiceRecord& service) {
  const std::lock_guard lock(mutex_);
  services_[service.name] = service;
  for (const auto& [id, instance] : assigned_) {
    if (instance.service == service.name) StartIfAssigned(instance);
  }
}

void Site::RemoveService(const model::ServiceName& service) {
  const std::lock_guard lock(mutex_);
  services_.erase(service);
}

void Site::PutInstance(const model::InstanceRecord& instance) {
  const std::lock_guard lock(mutex_);
  if (instance.device != options_.device) {
    assigned_.erase(instance.id);
    return;
  }
  assigned_[instance.id] = instance;
  StartIfAssigned(instance);
}

void Site::RemoveInstance(const model::InstanceId& instance) {
  const std::lock_guard lock(mutex_);
  assigned_.erase(instance);
  const auto found = entries_.find(instance);
  if (found == entries_.end()) return;
  for (auto& waiting : found->second.waiting) waiting(nullptr);
  Dispose(std::move(found->second.host));
  entries_.erase(found);
}

std::optional<model::ServiceRecord> Site::service(const model::ServiceName& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = services_.find(name);
  return found != services_.end() ? std::optional(found->second) : std::nullopt;
}

void Site::StartIfAssigned(const model::InstanceRecord& instance) {
  const bool wanted = instance.state == model::InstanceState::kPending || instance.state == model::InstanceState::kStarting;
  const auto entry = entries_.find(instance.id);
  const bool here = entry != entries_.end() && !entry->second.left;
  const auto service = services_.find(instance.service);
  if (!wanted || here || service == services_.end() || starting_.count(instance.id) != 0) return;
  starting_.insert(instance.id);
  starts_.Post([this, instance, service = service->second] { StartOne(instance, service); });
}

ByteCount Site::Reserved() const {
  ByteCount sum{0};
  for (const auto& [id, entry] : entries_) {
    if (!entry.left && reserved_.count(id) == 0) sum.value += entry.host->statistics().memory_bytes + kInstanceOverhead.value;
  }
  for (const auto& [id, bytes] : reserved_) sum.value += bytes.value;
  return sum;
}

void Site::ReportState(const model::InstanceId& id, model::InstanceState state, const std::string& reason) {
  control_.Report("PATCH", "/v1/instances/" + id.value,
                  nlohmann::json{{"state", std::string(model::ToString(state))}, {"reason", reason}}.dump());
}

void Site::StartOne(model::InstanceRecord instance, model::ServiceRecord service) {
  if (instance.state == model::InstanceState::kPending) ReportState(instance.id, model::InstanceState::kStarting, "");
  const auto start = [&]() -> Result<std::shared_ptr<InstanceHost>> {
    GODWIT_ASSIGN(auto module, packages_.Load(instance.package));
    InstanceHost::Options options{instance, service, std::move(module), environment_};
    options.record.state = model::InstanceState::kRunning;
    GODWIT_ASSIGN(auto host, InstanceHost::Create(std::move(options)));
    return std::shared_ptr<InstanceHost>(std::move(host));
  };
  auto host = start();
  {
    const std::lock_guard lock(mutex_);
    starting_.erase(instance.id);
    if (host.ok() && assigned_.count(instance.id) != 0) {
      Entry entry;
      entry.host = std::move(host).value();
      entry.epoch = instance.epoch;
      auto& slot = entries_[instance.id];
      Dispose(std::move(slot.host));
      slot = std::move(entry);
    } else if (host.ok()) {
      Dispose(std::move(host).value());
      return;
    }
  }
  if (host.ok()) {
    spdlog::info("instance {} runs", instance.id.value);
    ReportState(instance.id, model::InstanceState::kRunning, "");
  } else {
    spdlog::warn("instance {} did not start: {}", instance.id.value, host.error().message);
    environment_->Log({service.name, instance.id, instance.epoch}, LogLevel::kError, "did not start: " + host.error().message);
    ReportState(instance.id, model::InstanceState::kFailed, host.error().message);
  }
}

// --- Requests

void Site::Open(const wire::OpenRequest& open, const std::shared_ptr<ChannelSession>& session) {
  if (open.request() == nullptr) return;
  const RequestId id = GetRequestId(*open.request());
  const model::InstanceId instance(open.instance()->str());
  std::shared_ptr<InstanceHost> host;
  std::optional<Location> left;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(instance);
    if (found == entries_.end() || !found->second.arrived) {
      return session->Refuse(id, 503, ErrorCode::kUnavailable, "instance " + instance.value + " is not here (yet)", false);
    }
    host = found->second.host;
    left = found->second.left;
    // The gateway knows of a move that this device does not: it comes back here, or the gateway errs.
    if (!left && open.epoch() > found->second.epoch.value) {
      return session->Refuse(id, 503, ErrorCode::kUnavailable, "instance " + instance.value + " is on its way", false);
    }
  }
  if (host) return session->OnOpen(open, host);
  if (left) session->Redirect(id, instance.value, *left);
}

void Site::Attach(const wire::AttachRequest& attach, const std::shared_ptr<ChannelSession>& session) {
  if (attach.request() == nullptr) return;
  const RequestId id = GetRequestId(*attach.request());
  const model::InstanceId instance(attach.instance()->str());
  std::shared_ptr<InstanceHost> host;
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(instance);
    if (found == entries_.end()) {
      return session->Refuse(id, 502, ErrorCode::kNotFound, "instance " + instance.value + " is not here", true);
    }
    if (!found->second.arrived) {
      if (found->second.waiting.size() >= kWaitingRequestsMax) {
        return session->Refuse(id, 503, ErrorCode::kResourceExhausted, "too many requests wait for the instance to arrive", true);
      }
      // Copied: the frame goes before the instance is confirmed.
      auto copy = std::make_shared<flatbuffers::FlatBufferBuilder>(256);
      const auto wire_id = *attach.request();
      copy->Finish(wire::CreateAttachRequestDirect(*copy, &wire_id, instance.value.c_str(), attach.epoch(), attach.response_offset(),
                                                   attach.head_received(), attach.deadline_ms()));
      found->second.waiting.push_back([copy, session, id](std::shared_ptr<InstanceHost> arrived) {
        if (!arrived) return session->Refuse(id, 502, ErrorCode::kNotFound, "the instance did not come here", true);
        session->OnAttach(*flatbuffers::GetRoot<wire::AttachRequest>(copy->GetBufferPointer()), arrived);
      });
      return;
    }
    host = found->second.host;
    if (!host && found->second.left) {
      return session->Refuse(id, 502, ErrorCode::kNotFound, "the request is no longer remembered here", true);
    }
  }
  session->OnAttach(attach, host);
}

// --- Migrations

std::shared_ptr<InstanceHost> Site::Find(const model::InstanceId& id) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  return found != entries_.end() && !found->second.left && found->second.arrived ? found->second.host : nullptr;
}

void Site::OnLeft(const model::InstanceId& id, const Location& to) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  found->second.left = to;  // The host stays for the requests it redirects; its memory is free already.
  spdlog::info("instance {} left to {}", id.value, to.device.value);
  std::size_t left = 0;
  for (const auto& [other, entry] : entries_) left += entry.left ? 1 : 0;
  for (auto it = entries_.begin(); it != entries_.end() && left > kLeftMax;) {
    if (it->second.left && it->first != id) {
      Dispose(std::move(it->second.host));
      it = entries_.erase(it);
      --left;
    } else {
      ++it;
    }
  }
}

void Site::OnKept(const model::InstanceId& id, model::Epoch epoch) {
  const std::lock_guard lock(mutex_);
  const auto found = entries_.find(id);
  if (found != entries_.end()) found->second.epoch = epoch;
}

void Site::OnLost(const model::InstanceId& id, const std::string& reason) {
  spdlog::error("instance {} is lost: {}", id.value, reason);
  RemoveInstance(id);
}

Result<InstanceHost::Options> Site::Prepare(const model::InstanceRecord& record, const model::ServiceRecord& service,
                                            std::uint64_t memory_bytes) {
  {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(record.id);
    if (found != entries_.end() && !found->second.left) {
      return FailedPrecondition("instance " + record.id.value + " is on this device already");
    }
    if (entries_.size() + reserved_.size() >= options_.instances_max + kLeftMax) {
      return ResourceExhausted("this device has as many instances as it may have");
    }
    const ByteCount used = Reserved();
    const std::uint64_t left = options_.memory.value - std::min(options_.memory.value, used.value);
    if (left < kInstanceOverhead.value || memory_bytes > left - kInstanceOverhead.value) {
      return ResourceExhausted(fmt::format("{} has {} bytes of memory for instances, of which {} are used; the instance needs {} and {} around it",
                                           options_.device.value, options_.memory.value, used.value, memory_bytes, kInstanceOverhead.value));
    }
    reserved_[record.id] = {memory_bytes + kInstanceOverhead.value};
  }
  auto module = packages_.Load(record.package);
  if (!module.ok()) {
    Abandon(record.id);
    return module.error();
  }
  InstanceHost::Options options{record, service, std::move(module).value(), environment_};
  InstanceHost::Rehearse(options);
  return options;
}

void Site::Abandon(const model::InstanceId& id) {
  const std::lock_guard lock(mutex_);
  reserved_.erase(id);
  const auto found = entries_.find(id);
  if (found == entries_.end() || found->second.arrived) return;
  for (auto& waiting : found->second.waiting) waiting(nullptr);
  Dispose(std::move(found->second.host));
  entries_.erase(found);
}

void Site::Adopt(std::shared_ptr<InstanceHost> host) {
  const std::lock_guard lock(mutex_);
  const model::InstanceRecord& record = host->record();
  services_.emplace(host->service().name, host->service());
  Entry& entry = entries_[record.id];
  Dispose(std::move(entry.host));
  entry = {};
  entry.host = std::move(host);
  entry.arrived = false;
  entry.epoch = entry.host->record().epoch;
}

void Site::OnArrived(const model::InstanceId& id) {
  std::vector<std::function<void(std::shared_ptr<InstanceHost>)>> waiting;
  std::shared_ptr<InstanceHost> host;
  {
    const std::lock_guard lock(mutex_);
    reserved_.erase(id);
    const auto found = entries_.find(id);
    if (found == entries_.end()) return;
    found->second.arrived = true;
    waiting.swap(found->second.waiting);
    host = found->second.host;
  }
  spdlog::info("instance {} arrived", id.value);
  for (auto& attach : waiting) attach(host);
}

std::vector<std::shared_ptr<InstanceHost>> Site::Hosts() const {
  std::vector<std::shared_ptr<InstanceHost>> hosts;
  const std::lock_guard lock(mutex_);
  for (const auto& [id, entry] : entries_) {
    if (!entry.left && entry.host) hosts.push_back(entry.host);
  }
  return hosts;
}

std::vector<Site::Resident> Site::residents() const {
  std::vector<Resident> list;
  for (const auto& host : Hosts()) list.push_back({host->record().id, host->service().name, host->statistics()});
  return list;
}

InstanceHost::Computed Site::Pace(double share, std::chrono::steady_clock::duration credit) {
  InstanceHost::Computed all;
  for (const auto& host : Hosts()) {
    const auto computed = host->Pace(share, credit);
    all.time += computed.time;
    all.running += computed.running;
  }
  return all;
}

}  // namespace godwit::agent
