// godwit invoke: one HTTP request to a service.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"

namespace godwit::cli {
namespace {

using nlohmann::json;

struct InvokeOptions {
  std::string service, data, path, method;
  std::vector<std::string> headers;
  bool has_data = false;
  bool include = false;
};

Result<int> Invoke(const InvokeOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json service, cluster->Get("/v1/services/" + options.service));
  const std::string url = service.value("url", "");
  if (url.empty()) return FailedPrecondition("service '" + options.service + "' has no HTTP route, or no gateway is up");
  GODWIT_ASSIGN(const transport::Url parsed, transport::ParseUrl(url));
  transport::HttpCall call;
  call.target = options.path.empty() ? parsed.target : options.path;
  if (call.target[0] != '/') call.target = parsed.target + (call.target[0] == '?' ? "" : "/") + call.target;
  call.method = !options.method.empty() ? options.method : options.has_data ? "POST" : "GET";
  call.timeout = std::chrono::milliseconds(static_cast<std::int64_t>(session.timeout_s * 1000));
  for (const std::string& header : options.headers) {
    const std::size_t colon = header.find(':');
    if (colon == header.npos) return InvalidArgument("-H " + header + ": must be NAME: VALUE");
    const std::size_t value = header.find_first_not_of(' ', colon + 1);
    call.headers.push_back({header.substr(0, colon), value == header.npos ? "" : header.substr(value)});
  }
  if (options.data.starts_with("@")) {
    GODWIT_ASSIGN(call.body, ReadWholeFile(options.data.substr(1)));
  } else {
    call.body = options.data;
  }
  // Without the cluster's token: it is for the controller, not for services.
  transport::HttpClient::Options client_options;
  GODWIT_ASSIGN(const auto client, transport::HttpClient::Create("http://" + url.substr(7, url.find('/', 7) - 7), client_options));
  GODWIT_ASSIGN(const transport::HttpAnswer answer, client->Stream(call, [](std::string_view piece) {
    return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size();
  }));
  std::fwrite(answer.body.data(), 1, answer.body.size(), stdout);
  if (options.include || answer.status >= 400) std::fprintf(stderr, "HTTP %d\n", answer.status);
  if (options.include) {
    for (const auto& header : answer.headers) std::fprintf(stderr, "%s: %s\n", header.name.c_str(), header.value.c_str());
  }
  return answer.status < 400 ? kExitDone : kExitFailed;
}

}  // namespace

void AddInvokeCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<InvokeOptions>();
  CLI::App* command = app.add_subcommand("invoke", "Send one request to a service");
  command->add_option("service", options->service, "Its name")->required();
  CLI::Option* data = command->add_option("-d,--data", options->data, "Body; @FILE reads it from a file, @- from standard input");
  command->add_option("--path", options->path, "Path and query; relative to the service's route unless it begins with /");
  command->add_option("-X,--method", options->method, "Default: GET, or POST with -d");
  command->add_option("-H,--header", options->headers, "NAME: VALUE")->expected(1)->take_all();
  command->add_flag("-i,--include", options->include, "Status and headers on standard error");
  command->footer("Examples:\n  godwit invoke hello\n  godwit invoke orders --path /orders/7 -X PUT -d @order.json");
  command->callback([options, data, &session] {
    options->has_data = data->count() != 0;
    session.action = [options, &session] { return Invoke(*options, session); };
  });
}

}  // namespace godwit::cli
