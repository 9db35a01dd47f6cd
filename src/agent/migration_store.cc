#include "agent/migration_store.h"

#include <mutex>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "transport/http_client.h"

namespace godwit::agent {
namespace {

using nlohmann::json;

// A problem's text, or what there is of the answer.
std::string DetailOf(const transport::HttpAnswer& answer) {
  const json problem = json::parse(answer.body, nullptr, false);
  if (problem.is_object() && problem.contains("detail") && problem["detail"].is_string()) {
    return problem["detail"].get<std::string>();
  }
  return fmt::format("the controller answered {}", answer.status);
}

Status StatusOf(const transport::HttpAnswer& answer) {
  if (answer.status >= 200 && answer.status < 300) return {};
  const std::string detail = DetailOf(answer);
  switch (answer.status) {
    case 400: return InvalidArgument(detail);
    case 401:
    case 403: return PermissionDenied(detail);
    case 404: return NotFound(detail);
    case 409: return FailedPrecondition(detail);
    default: return Unavailable(detail);  // 412 too: a concurrent change won, ask again.
  }
}

class HttpMigrationStore final : public MigrationStore {
 public:
  explicit HttpMigrationStore(std::unique_ptr<transport::HttpClient> client) : client_(std::move(client)) {}

  Status Patch(const model::MigrationId& id, const std::string& patch) override {
    return Ask("PATCH", "/v1/migrations/" + transport::PercentEncode(id.value), patch, "application/merge-patch+json").second;
  }
  Status Confirm(const model::InstanceId& instance, const model::DeviceName& device, model::Epoch epoch,
                 const model::MigrationId& migration) override {
    const json body{{"device", device.value}, {"epoch", epoch.value}, {"migration", migration.value}};
    return Ask("POST", "/v1/instances/" + transport::PercentEncode(instance.value) + "/confirm", body.dump()).second;
  }
  Result<model::InstanceRecord> Instance(const model::InstanceId& id) override {
    const auto [body, status] = Ask("GET", "/v1/instances/" + transport::PercentEncode(id.value), "");
    if (!status.ok()) return status.error();
    return model::InstanceRecord::FromJson(body);
  }
  Result<model::DeviceRecord> Device(const model::DeviceName& name) override {
    const auto [body, status] = Ask("GET", "/v1/devices/" + transport::PercentEncode(name.value), "");
    if (!status.ok()) return status.error();
    return model::DeviceRecord::FromJson(body);
  }

 private:
  std::pair<std::string, Status> Ask(const std::string& method, const std::string& target, std::string body,
                                     const std::string& type = "application/json") {
    transport::HttpCall call;
    call.method = method;
    call.target = target;
    if (!body.empty()) call.headers.push_back({"Content-Type", type});
    call.body = std::move(body);
    call.timeout = std::chrono::milliseconds(5'000);
    const std::lock_guard lock(mutex_);
    auto answer = client_->Call(call);
    if (!answer.ok()) return {"", answer.error().Within(method + " " + target)};
    const Status status = StatusOf(*answer);
    if (!status.ok()) return {"", status.error().Within(method + " " + target)};
    return {std::move(answer->body), Status()};
  }

  std::mutex mutex_;
  const std::unique_ptr<transport::HttpClient> client_;
};

}  // namespace

Result<std::unique_ptr<MigrationStore>> ConnectMigrationStore(const std::string& url, const std::string& token) {
  transport::HttpClient::Options options;
  options.token = token;
  GODWIT_ASSIGN(auto client, transport::HttpClient::Create(url, std::move(options)));
  return std::unique_ptr<MigrationStore>(std::make_unique<HttpMigrationStore>(std::move(client)));
}

}  // namespace godwit::agent
