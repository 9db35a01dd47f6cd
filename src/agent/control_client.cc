#include "agent/control_client.h"

#include <set>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <spdlog/spdlog.h>

namespace godwit::agent {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using nlohmann::json;

constexpr auto kRetryPause = 500ms;

Error ErrorOf(const transport::HttpAnswer& answer) {
  std::string detail = fmt::format("the controller answered {}", answer.status);
  const json problem = json::parse(answer.body, nullptr, false);
  if (problem.is_object() && problem.contains("detail") && problem["detail"].is_string()) detail = problem["detail"];
  switch (answer.status) {
    case 400: return InvalidArgument(detail);
    case 401: case 403: return PermissionDenied(detail);
    case 404: return NotFound(detail);
    case 409: return FailedPrecondition(detail);
    case 412: return Aborted(detail);
    default: return answer.status >= 500 ? Unavailable(detail) : InvalidArgument(detail);
  }
}

// The member that names a record; empty if there is none.
std::string NameOf(const std::string& kind, const json& record) {
  const char* member = kind == "packages" ? "digest" : kind == "instances" || kind == "migrations" ? "id" : "name";
  return record.is_object() && record.contains(member) && record[member].is_string() ? record[member].get<std::string>() : "";
}

}  // namespace

struct ControlClient::Follower {
  std::string kind;
  std::mutex mutex;
  std::unique_ptr<transport::HttpClient> client;
  bool stopped = false;
  std::set<std::string> known;
  std::thread thread;
};

ControlClient::ControlClient(std::string url, std::string token, Handlers handlers)
    : url_(std::move(url)), token_(std::move(token)), handlers_(std::move(handlers)) {}

ControlClient::~ControlClient() { Stop(); }

Result<std::unique_ptr<transport::HttpClient>> ControlClient::Connect() const {
  transport::HttpClient::Options options;
  options.token = token_;
  return transport::HttpClient::Create(url_, std::move(options));
}

void ControlClient::Start(const std::vector<std::string>& kinds) {
  lease_thread_ = std::thread([this] { LeaseMain(); });
  report_thread_ = std::thread([this] { ReportMain(); });
  for (const std::string& kind : kinds) {
    auto follower = std::make_unique<Follower>();
    follower->kind = kind;
    Follower& self = *follower;
    followers_.push_back(std::move(follower));
    self.thread = std::thread([this, &self] { Follow(self); });
  }
}

void ControlClient::Stop() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (const auto& follower : followers_) {
    {
      const std::lock_guard lock(follower->mutex);
      follower->stopped = true;
      if (follower->client) follower->client->Cancel();
    }
    if (follower->thread.joinable()) follower->thread.join();
  }
  followers_.clear();
  if (report_thread_.joinable()) report_thread_.join();
  if (lease_thread_.joinable()) lease_thread_.join();
}

bool ControlClient::Pause(std::chrono::milliseconds time) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, time, [this] { return stopping_; });
}

Result<std::string> ControlClient::Call(const std::string& method, const std::string& target, const std::string& body) {
  GODWIT_ASSIGN(const auto client, Connect());
  transport::HttpCall call;
  call.method = method;
  call.target = target;
  call.body = body;
  call.timeout = 10s;
  if (!body.empty()) call.headers.push_back({"Content-Type", method == "PATCH" ? "application/merge-patch+json" : "application/json"});
  GODWIT_ASSIGN(const transport::HttpAnswer answer, client->Call(call));
  if (answer.status < 200 || answer.status > 299) return ErrorOf(answer);
  return answer.body;
}

Status ControlClient::FetchBlob(const std::string& digest, const std::function<Status(ByteView)>& sink) {
  GODWIT_ASSIGN(const auto client, Connect());
  transport::HttpCall call;
  call.target = "/v1/blobs/" + digest;
  call.timeout = 60s;
  Status status;
  const auto answer = client->Stream(call, [&](std::string_view bytes) {
    status = sink(AsBytes(bytes));
    return status.ok();
  });
  if (!status.ok()) return status;
  if (!answer.ok()) return answer.error();
  if (answer->status != 200) return ErrorOf(*answer);
  return {};
}

void ControlClient::Report(std::string method, std::string target, std::string body, std::function<void(Status)> done) {
  std::function<void(Status)> dropped;
  {
    const std::lock_guard lock(mutex_);
    if (reports_.size() >= kReportsMax) {
      dropped = std::move(reports_.front().done);
      reports_.erase(reports_.begin());
    }
    reports_.push_back({std::move(method), std::move(target), std::move(body), std::move(done)});
  }
  changed_.notify_all();
  if (dropped) dropped(ResourceExhausted("too many reports wait for the controller"));
}

void ControlClient::ReportMain() {
  std::unique_ptr<transport::HttpClient> client;
  for (;;) {
    PendingReport report;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return stopping_ || !reports_.empty(); });
      if (reports_.empty()) return;  // Stopping, and all is sent.
      report = std::move(reports_.front());
      reports_.erase(reports_.begin());
    }
    Status status;
    do {
      if (!client) {
        auto connected = Connect();
        if (connected.ok()) client = std::move(connected).value();
      }
      transport::HttpCall call;
      call.method = report.method;
      call.target = report.target;
      call.body = report.body;
      call.timeout = 10s;
      if (!report.body.empty()) {
        call.headers.push_back({"Content-Type", report.method == "PATCH" ? "application/merge-patch+json" : "application/json"});
      }
      const auto answer = client ? client->Call(call) : Result<transport::HttpAnswer>(Unavailable("no controller"));
      if (!answer.ok()) {
        status = answer.error();
        client.reset();
      } else {
        status = answer->status >= 200 && answer->status < 300 ? Status() : Status(ErrorOf(*answer));
      }
    } while (!status.ok() && status.error().code == ErrorCode::kUnavailable && !Pause(kRetryPause));
    if (!status.ok() && !report.done) spdlog::warn("{} {}: {}", report.method, report.target, status.error().message);
    if (report.done) report.done(std::move(status));
  }
}

void ControlClient::LeaseMain() {
  std::string lease;
  auto ttl = std::chrono::milliseconds(10'000);
  auto renewed = Clock::now();
  bool told = false;
  while (true) {
    const auto asked = Clock::now();  // Leases count from before the renewal was sent.
    const model::DeviceRecord device = handlers_.device();
    Result<std::string> answer = lease.empty() ? Call("POST", "/v1/devices/" + device.name.value + "/lease", device.ToJson())
                                               : Call("POST", "/v1/leases/" + lease, "{}");
    if (answer.ok()) {
      const json body = json::parse(*answer, nullptr, false);
      const bool fresh = lease.empty();
      if (body.is_object()) {
        if (fresh && body.contains("lease") && body["lease"].is_string()) lease = body["lease"];
        if (body.contains("ttl_s") && body["ttl_s"].is_number_unsigned()) {
          ttl = std::chrono::seconds(std::min<std::uint64_t>(body["ttl_s"].get<std::uint64_t>(), 3600));
        }
      }
      renewed = asked;
      told = false;
      registered_.store(true);
      if (fresh) {
        spdlog::info("registered as device {}", device.name.value);
        handlers_.on_registered();
      } else {
        // Load is news, not worth a retry.
        const json all = json::parse(device.ToJson());
        static_cast<void>(Call("PATCH", "/v1/devices/" + device.name.value, json{{"load", all["load"]}, {"uses", all["uses"]}, {"open_files", all["open_files"]}, {"foreground", all["foreground"]}}.dump()).ok());
      }
    } else {
      if (answer.error().code == ErrorCode::kNotFound && !lease.empty()) {
        lease.clear();
        continue;
      }
      spdlog::warn("the controller at {} does not {} this device: {}", url_, lease.empty() ? "register" : "renew", answer.error().message);
      if (!told && Clock::now() - renewed > ttl) {
        told = true;
        registered_.store(false);
        handlers_.on_lease_lost();
      }
    }
    if (Pause(answer.ok() ? ttl / 3 : std::chrono::milliseconds(kRetryPause))) break;
  }
  if (!lease.empty()) static_cast<void>(Call("DELETE", "/v1/leases/" + lease, "").ok());
}

void ControlClient::Follow(Follower& follower) {
  std::string last_id;
  while (true) {
    auto connected = Connect();
    if (connected.ok()) {
      {
        const std::lock_guard lock(follower.mutex);
        if (follower.stopped) return;
        follower.client = std::move(connected).value();
      }
      if (last_id.empty() && !follower.known.empty()) {
        // Changes were missed: what is no longer listed was deleted meanwhile.
        transport::HttpCall list;
        list.target = "/v1/" + follower.kind;
        const auto answer = follower.client->Call(list);
        const json body = answer.ok() && answer->status == 200 ? json::parse(answer->body, nullptr, false) : json();
        if (body.is_object() && body.contains("items") && body["items"].is_array()) {
          std::set<std::string> now;
          for (const json& item : body["items"]) now.insert(NameOf(follower.kind, item));
          for (const std::string& name : std::exchange(follower.known, now)) {
            if (now.count(name) == 0) handlers_.on_record(follower.kind, name, "");
          }
        }
      }
      transport::HttpCall call;
      call.target = "/v1/" + follower.kind + "?watch=true";
      call.timeout = 45s;  // The controller says something every 15 s.
      if (!last_id.empty()) call.headers.push_back({"Last-Event-ID", last_id});
      const auto answer = follower.client->Watch(call, [&](const transport::ServerEvent& event) {
        if (!event.id.empty()) last_id = event.id;
        const json record = json::parse(event.data, nullptr, false);
        const std::string name = NameOf(follower.kind, record);
        if (name.empty()) return true;
        if (event.event == "put") {
          follower.known.insert(name);
          handlers_.on_record(follower.kind, name, event.data);
        } else if (event.event == "delete") {
          follower.known.erase(name);
          handlers_.on_record(follower.kind, name, "");
        }
        return true;
      });
      if (answer.ok() && answer->status == 410) last_id.clear();
      const std::lock_guard lock(follower.mutex);
      follower.client.reset();
      if (follower.stopped) return;
    }
    if (Pause(kRetryPause)) return;
  }
}

}  // namespace godwit::agent
