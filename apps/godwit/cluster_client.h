// The command line's view of a cluster: its controller's API, found by --context, GODWIT_SERVER or the context file that
// `godwit up` writes.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <utility>

#include "base/result.h"
#include "commands.h"
#include "transport/http_client.h"

namespace godwit::cli {

// Guarded by its user.
class ClusterClient {
 public:
  // --context is a controller's URL or a context file; else $GODWIT_SERVER (with $GODWIT_TOKEN or $GODWIT_TOKEN_FILE);
  // else the context file. kNotFound says how to get one.
  static Result<std::unique_ptr<ClusterClient>> Connect(const Session& session);

  // A problem becomes an Error of its code. A body that is no JSON is null.
  Result<nlohmann::json> Get(const std::string& target);
  Result<nlohmann::json> Send(const std::string& method, const std::string& target, const nlohmann::json& body);
  Status Delete(const std::string& target);
  // Streams events until `on_event` returns false; connects again and goes on where it was after a lost connection,
  // for as long as `deadline` has not passed.
  Status Watch(const std::string& target, const std::function<bool(const transport::ServerEvent&)>& on_event);

  // A client for another server of the cluster (a device's gateway), with the same token.
  Result<std::unique_ptr<transport::HttpClient>> ClientOf(const std::string& url) const;
  transport::HttpClient& http() { return *http_; }
  const std::string& server() const { return server_; }

 private:
  ClusterClient(std::string server, std::string token) : server_(std::move(server)), token_(std::move(token)) {}

  const std::string server_, token_;
  std::unique_ptr<transport::HttpClient> http_;
};

// The error that an answer with a status of 400 or more means.
Error ErrorOfAnswer(const transport::HttpAnswer& answer);

// Calls `ready` until it returns true, every tenth of a second. False: `timeout_s` passed.
Result<bool> WaitUntil(double timeout_s, const std::function<Result<bool>()>& ready);

// Reads a whole file, or standard input for "-".
Result<std::string> ReadWholeFile(const std::string& path);

// Of "SERVICE" or "SERVICE/SHARD"; kInvalidArgument.
Result<std::pair<std::string, unsigned>> ServiceAndShard(const std::string& text);

// "devices" for device, devices, dev; and so on. kInvalidArgument lists them.
Result<std::string> KindOf(std::string_view word);

}  // namespace godwit::cli
