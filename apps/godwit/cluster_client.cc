#include "cluster_client.h"

#include <charconv>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "cluster_record.h"

namespace godwit::cli {
namespace {

using nlohmann::json;
using transport::HttpAnswer;
using transport::HttpCall;

std::string Trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) text.pop_back();
  return text;
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

struct Context {
  std::string server, token;
};

Result<Context> ReadContext(const std::string& file) {
  GODWIT_ASSIGN(const std::string text, ReadWholeFile(file));
  const json document = json::parse(text, nullptr, false);
  if (!document.is_object() || !document.contains("server") || !document["server"].is_string()) {
    return InvalidArgument(file + ": is no context: it must be JSON with \"server\" and \"token\"");
  }
  Context context{document["server"].get<std::string>(), ""};
  if (document.contains("token") && document["token"].is_string()) context.token = document["token"].get<std::string>();
  return context;
}

Result<Context> FindContext(const Session& session) {
  Context context;
  context.token = Environment("GODWIT_TOKEN");
  if (const std::string file = Environment("GODWIT_TOKEN_FILE"); context.token.empty() && !file.empty()) {
    GODWIT_ASSIGN(context.token, ReadWholeFile(file));
    context.token = Trimmed(context.token);
  }
  context.server = session.context.starts_with("http://") ? session.context : session.context.empty() ? Environment("GODWIT_SERVER") : "";
  if (!context.server.empty()) return context;
  const std::string file = session.context.empty() ? ContextFile() : session.context;
  Result<Context> found = ReadContext(file);
  if (!found.ok() && found.error().code == ErrorCode::kNotFound && session.context.empty()) {
    return NotFound("no cluster is known: start one with 'godwit up --detach', or name its controller with "
                    "--context http://HOST:PORT or GODWIT_SERVER (and GODWIT_TOKEN)");
  }
  return found;
}

}  // namespace

Result<std::unique_ptr<ClusterClient>> ClusterClient::Connect(const Session& session) {
  GODWIT_ASSIGN(const Context context, FindContext(session));
  std::unique_ptr<ClusterClient> client(new ClusterClient(context.server, context.token));
  GODWIT_ASSIGN(client->http_, client->ClientOf(context.server));
  return client;
}

Result<std::unique_ptr<transport::HttpClient>> ClusterClient::ClientOf(const std::string& url) const {
  transport::HttpClient::Options options;
  options.token = token_;
  return transport::HttpClient::Create(url, options);
}

Error ErrorOfAnswer(const HttpAnswer& answer) {
  const json body = json::parse(answer.body, nullptr, false);
  std::string detail = "HTTP " + std::to_string(answer.status);
  std::string code;
  if (body.is_object()) {
    if (body.contains("detail") && body["detail"].is_string()) detail = body["detail"].get<std::string>();
    if (body.contains("code") && body["code"].is_string()) code = body["code"].get<std::string>();
  }
  for (int i = 1; i <= static_cast<int>(ErrorCode::kAborted); ++i) {
    if (ErrorCodeName(static_cast<ErrorCode>(i)) == code) return {static_cast<ErrorCode>(i), detail};
  }
  if (answer.status == 404) return NotFound(detail);
  if (answer.status == 401 || answer.status == 403) return PermissionDenied(detail);
  if (answer.status >= 500) return Unavailable(detail);
  return InvalidArgument(detail);
}

Result<json> ClusterClient::Send(const std::string& method, const std::string& target, const json& body) {
  HttpCall call;
  call.method = method;
  call.target = target;
  if (!body.is_null()) {
    call.body = body.dump();
    call.headers = {{"Content-Type", "application/json"}};
  }
  Result<HttpAnswer> answer = http_->Call(call);
  if (!answer.ok()) {
    return answer.error().code == ErrorCode::kUnavailable
               ? answer.error().Within("the controller at " + server_ + " does not answer; is the cluster up? ('godwit up')")
               : answer.error();
  }
  if (answer->status >= 400) return ErrorOfAnswer(*answer);
  json document = json::parse(answer->body, nullptr, false);
  return document.is_discarded() ? json() : document;
}

Result<json> ClusterClient::Get(const std::string& target) { return Send("GET", target, json()); }

Status ClusterClient::Delete(const std::string& target) {
  GODWIT_ASSIGN([[maybe_unused]] const json done, Send("DELETE", target, json()));
  return {};
}

Status ClusterClient::Watch(const std::string& target, const std::function<bool(const transport::ServerEvent&)>& on_event) {
  std::string last;
  int failures = 0;
  while (true) {
    HttpCall call;
    call.target = target;
    call.timeout = std::chrono::seconds(45);  // The server sends something every 15 s.
    call.headers = {{"Accept", "text/event-stream"}};
    if (!last.empty()) call.headers.push_back({"Last-Event-ID", last});
    bool ended = false;
    Result<HttpAnswer> answer = http_->Watch(call, [&](const transport::ServerEvent& event) {
      failures = 0;
      if (!event.id.empty()) last = event.id;
      ended = !on_event(event);
      return !ended;
    });
    if (ended) return {};
    if (answer.ok() && answer->status == 410) {
      last.clear();
    } else if (answer.ok() && answer->status >= 400) {
      return ErrorOfAnswer(*answer);
    } else if (++failures > 10) {
      return answer.ok() ? Unavailable("the controller keeps ending the stream") : answer.error();
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

Result<bool> WaitUntil(double timeout_s, const std::function<Result<bool>()>& ready) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (true) {
    GODWIT_ASSIGN(const bool done, ready());
    if (done) return true;
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
}

Result<std::string> ReadWholeFile(const std::string& path) {
  std::ostringstream text;
  if (path == "-") {
    text << std::cin.rdbuf();
    return text.str();
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoError(path);
  text << file.rdbuf();
  if (file.bad()) return Internal(path + ": cannot be read");
  return text.str();
}

Result<std::pair<std::string, unsigned>> ServiceAndShard(const std::string& text) {
  const std::size_t slash = text.find('/');
  unsigned shard = 0;
  if (slash != text.npos) {
    const char* end = text.data() + text.size();
    const auto parsed = std::from_chars(text.data() + slash + 1, end, shard);
    if (parsed.ec != std::errc() || parsed.ptr != end) return InvalidArgument("'" + text + "': the shard must be a number");
  }
  return std::pair(text.substr(0, slash), shard);
}

Result<std::string> KindOf(std::string_view word) {
  struct Kind {
    std::string_view kind, one, brief;
  };
  for (const Kind& kind : {Kind{"services", "service", "svc"}, {"devices", "device", "dev"}, {"instances", "instance", "inst"},
                           {"migrations", "migration", "mig"}, {"datasets", "dataset", "data"}, {"packages", "package", "pkg"}}) {
    if (word == kind.kind || word == kind.one || word == kind.brief) return std::string(kind.kind);
  }
  return InvalidArgument("'" + std::string(word) + "' is not one of services, devices, instances, migrations, datasets, packages");
}

}  // namespace godwit::cli
