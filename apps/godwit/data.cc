// godwit data: datasets, which live on devices.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>

#include "cluster_client.h"
#include "commands.h"
#include "model/ids.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;
using transport::HttpAnswer;
using transport::HttpCall;

struct DataOptions {
  std::string name, file, device, function, arguments;
  std::uint64_t offset = 0, bytes = 0;
};

// A client of the device's agent, and the resource's target there.
Result<std::unique_ptr<transport::HttpClient>> ClientOfDevice(ClusterClient& cluster, const std::string& device) {
  GODWIT_ASSIGN(const json record, cluster.Get("/v1/devices/" + device));
  if (record.value("state", "") == "offline") return Unavailable("device '" + device + "' is offline");
  return cluster.ClientOf(record.value("url", ""));
}

Result<std::unique_ptr<transport::HttpClient>> ClientOfHolder(ClusterClient& cluster, const std::string& name) {
  GODWIT_ASSIGN(const json record, cluster.Get("/v1/datasets/" + name));
  return ClientOfDevice(cluster, record.value("device", ""));
}

HttpCall CallFor(const char* method, const DataOptions& options) {
  HttpCall call;
  call.method = method;
  call.target = "/v1/data/" + options.name;
  call.timeout = std::chrono::seconds(120);
  return call;
}

Result<int> PutData(const DataOptions& options, const Session& session) {
  GODWIT_TRY(model::CheckDatasetName(options.name));
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  std::unique_ptr<transport::HttpClient> client;
  if (options.device.empty()) {
    Result<std::unique_ptr<transport::HttpClient>> holder = ClientOfHolder(*cluster, options.name);
    if (!holder.ok()) return InvalidArgument("dataset '" + options.name + "' is new: say where it is to live with --to DEVICE");
    client = std::move(*holder);
  } else {
    GODWIT_ASSIGN(client, ClientOfDevice(*cluster, options.device));
  }
  std::error_code error;
  std::ifstream file(options.file, std::ios::binary);
  if (!file) return ErrnoError(options.file);
  HttpCall call = CallFor("PUT", options);
  const auto size = std::filesystem::file_size(options.file, error);
  if (!error) call.body_bytes = size;
  call.body_source = [&file]() -> Result<std::string> {
    std::string piece(256 << 10, '\0');
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    piece.resize(static_cast<std::size_t>(file.gcount()));
    if (file.bad()) return Internal("the file cannot be read");
    return piece;
  };
  GODWIT_ASSIGN(const HttpAnswer answer, client->Call(call));
  if (answer.status >= 400) return ErrorOfAnswer(answer);
  // The record comes by way of the agent and the controller.
  const auto there = [&]() -> Result<bool> {
    const auto record = cluster->Get("/v1/datasets/" + options.name);
    if (!record.ok() && record.error().code != ErrorCode::kNotFound) return record.error();
    return record.ok() && (error || record->value("bytes", std::uint64_t{0}) == size);
  };
  if (session.wait) {
    GODWIT_ASSIGN(const bool done, WaitUntil(session.timeout_s, there));
    if (!done) {
      std::fprintf(stderr, "godwit: the device has the data, but the controller does not know of it yet\n");
      return kExitNotConverged;
    }
  }
  if (!session.quiet) std::printf("dataset/%s stored\n", options.name.c_str());
  return kExitDone;
}

Result<int> GetData(const DataOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const auto client, ClientOfHolder(*cluster, options.name));
  FILE* to = options.file == "-" ? stdout : std::fopen(options.file.c_str(), "wb");
  if (!to) return ErrnoError(options.file);
  Result<HttpAnswer> answer = client->Stream(CallFor("GET", options), [&](std::string_view piece) {
    return std::fwrite(piece.data(), 1, piece.size(), to) == piece.size();
  });
  const bool written = to == stdout ? std::fflush(to) == 0 : std::fclose(to) == 0;
  if (!answer.ok()) return answer.error();
  if (answer->status >= 400) return ErrorOfAnswer(*answer);
  if (!written) return ErrnoError(options.file);
  return kExitDone;
}

Result<int> ListData(const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const json list, cluster->Get("/v1/datasets"));
  std::fputs(FormatRecords("datasets", list.value("items", json::array()), session.output).c_str(), stdout);
  return kExitDone;
}

Result<int> RemoveData(const DataOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const auto client, ClientOfHolder(*cluster, options.name));
  GODWIT_ASSIGN(const HttpAnswer answer, client->Call(CallFor("DELETE", options)));
  if (answer.status >= 400) return ErrorOfAnswer(answer);
  if (!session.quiet) std::printf("dataset/%s deleted\n", options.name.c_str());
  return kExitDone;
}

Result<int> RunFunction(const DataOptions& options, const Session& session) {
  std::string arguments = options.arguments;
  if (!arguments.empty() && arguments.front() == '@') {
    std::ifstream file(arguments.substr(1), std::ios::binary);
    if (!file) return ErrnoError(arguments.substr(1));
    arguments.assign(std::istreambuf_iterator<char>(file), {});
  }
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const auto client, ClientOfHolder(*cluster, options.name));
  HttpCall call = CallFor("POST", options);
  call.target += "?run=" + transport::PercentEncode(options.function) + "&offset=" + std::to_string(options.offset) + "&bytes=" + std::to_string(options.bytes);
  call.body = arguments;
  const Result<HttpAnswer> answer = client->Stream(call, [](std::string_view piece) { return std::fwrite(piece.data(), 1, piece.size(), stdout) == piece.size(); });
  if (!answer.ok()) return answer.error();
  if (answer->status >= 400) return ErrorOfAnswer(*answer);
  return std::fflush(stdout) == 0 ? Result<int>(kExitDone) : ErrnoError("standard output");
}

}  // namespace

void AddDataCommand(CLI::App& app, Session& session) {
  auto options = std::make_shared<DataOptions>();
  CLI::App* data = app.add_subcommand("data", "Put, get, list and remove datasets");
  data->require_subcommand(1);
  CLI::App* put = data->add_subcommand("put", "Store a file as a dataset on a device");
  put->add_option("name", options->name, "The dataset's name")->required();
  put->add_option("file", options->file, "The file")->required();
  put->add_option("--to,--device", options->device, "The device; not needed to replace one that exists");
  put->footer("Example:\n  godwit data put words /usr/share/dict/words --to csd0");
  put->callback([options, &session] { session.action = [options, &session] { return PutData(*options, session); }; });
  CLI::App* get = data->add_subcommand("get", "Read a dataset");
  get->add_option("name", options->name, "Its name")->required();
  get->add_option("file", options->file, "Where to; - is standard output")->default_val("-");
  get->callback([options, &session] { session.action = [options, &session] { return GetData(*options, session); }; });
  CLI::App* run = data->add_subcommand("run", "Run a function over a dataset on the device that holds it: scan, match, checksum, gather, chase");
  run->add_option("name", options->name, "The dataset's name")->required();
  run->add_option("function", options->function, "The function")->required();
  run->add_option("arguments", options->arguments, "Its arguments, JSON, or @file");
  run->add_option("--offset", options->offset, "First byte; a line belongs to the part in which it begins");
  run->add_option("--bytes", options->bytes, "Of the part; default: to the end");
  run->footer("Examples:\n"
              "  godwit data run logs match '{\"pattern\": \"ERROR.*disk\"}'\n"
              "  godwit data run orders scan '{\"columns\": [\"id int\", \"price decimal(2)\"], \"where\": \"price > 9.5\", \"aggregates\": [\"count\", \"sum(price)\"]}'");
  run->callback([options, &session] { session.action = [options, &session] { return RunFunction(*options, session); }; });
  CLI::App* list = data->add_subcommand("ls", "List datasets");
  list->callback([&session] { session.action = [&session] { return ListData(session); }; });
  CLI::App* remove = data->add_subcommand("rm", "Delete a dataset");
  remove->add_option("name", options->name, "Its name")->required();
  remove->callback([options, &session] { session.action = [options, &session] { return RemoveData(*options, session); }; });
}

}  // namespace godwit::cli
