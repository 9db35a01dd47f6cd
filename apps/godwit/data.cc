// godwit data: datasets, which live on devices.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "cluster_client.h"
#include "base/fresh_file.h"
#include "commands.h"
#include "model/ids.h"
#include "pairs_file.h"
#include "print.h"

namespace godwit::cli {
namespace {

using nlohmann::json;
using transport::HttpAnswer;
using transport::HttpCall;

struct DataOptions {
  std::string name, file, function, arguments, key, value;
  std::vector<std::string> devices;
  std::uint64_t offset = 0, bytes = 0, parts = 0;
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

HttpCall CallFor(const char* method, const std::string& name) {
  HttpCall call;
  call.method = method;
  call.target = "/v1/data/" + name;
  call.timeout = std::chrono::seconds(120);
  return call;
}

constexpr const char* kPartsCount = ".parts";
std::string PartName(const std::string& name, std::size_t part) { return name + "." + std::to_string(part); }

Status Delete(ClusterClient& cluster, const std::string& name) {
  GODWIT_ASSIGN(const auto client, ClientOfHolder(cluster, name));
  GODWIT_ASSIGN(const HttpAnswer answer, client->Call(CallFor("DELETE", name)));
  return answer.status >= 400 ? Status(ErrorOfAnswer(answer)) : Status();
}

// The datasets NAME.0, NAME.1, ... that there are now, by their numbers; and whether there is NAME.parts, which says how many there are to be.
struct Parts {
  std::map<std::uint64_t, std::string> names;
  bool counted = false;
};
Result<Parts> PartsOf(ClusterClient& cluster, const std::string& name) {
  GODWIT_ASSIGN(const json list, cluster.Get("/v1/datasets"));
  Parts parts;
  for (const json& item : list.value("items", json::array())) {
    const std::string found = item.value("name", "");
    if (model::WholeOf(model::DatasetName(found)).value != name || found == name) continue;
    if (found == name + kPartsCount) parts.counted = true;
    else parts.names.emplace(std::strtoull(found.c_str() + name.size() + 1, nullptr, 10), found);
  }
  return parts;
}

struct FileRange {
  std::uint64_t begin = 0, end = 0;
};

// Stores these bytes of the file, all where `end` is 0, as a dataset, and waits until the cluster knows.
Result<bool> PutRange(ClusterClient& cluster, transport::HttpClient& client, const std::string& name, const std::string& path, FileRange range, const Session& session) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoError(path);
  if (range.begin != 0) file.seekg(static_cast<std::streamoff>(range.begin));  // A pipe cannot.
  HttpCall call = CallFor("PUT", name);
  if (range.end != 0) call.body_bytes = range.end - range.begin;
  std::uint64_t left = range.end != 0 ? range.end - range.begin : ~0ull;
  call.body_source = [&]() -> Result<std::string> {
    std::string piece(std::min<std::uint64_t>(256 << 10, left), '\0');
    file.read(piece.data(), static_cast<std::streamsize>(piece.size()));
    piece.resize(static_cast<std::size_t>(file.gcount()));
    if (file.bad()) return Internal("the file cannot be read");
    left -= piece.size();
    return piece;
  };
  GODWIT_ASSIGN(const HttpAnswer answer, client.Call(call));
  if (answer.status >= 400) return ErrorOfAnswer(answer);
  if (!session.wait) return true;
  // The record comes by way of the agent and the controller.
  return WaitUntil(session.timeout_s, [&]() -> Result<bool> {
    const auto record = cluster.Get("/v1/datasets/" + name);
    if (!record.ok() && record.error().code != ErrorCode::kNotFound) return record.error();
    return record.ok() && (range.end == 0 || record->value("bytes", std::uint64_t{0}) == range.end - range.begin);
  });
}

// Where the file is cut so that each part has whole lines, and about as many bytes as the others.
Result<std::vector<FileRange>> Cut(const std::string& path, std::uint64_t size, std::uint64_t parts) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return ErrnoError(path);
  std::string magic(6, '\0');
  file.read(magic.data(), 6);
  if (magic == "ARROW1") return InvalidArgument(path + ": Arrow files are not cut by lines: put each part under its own name, NAME.0 and so on");
  std::vector<FileRange> ranges;
  std::uint64_t begin = 0;
  for (std::uint64_t i = 1; i <= parts; ++i) {
    std::uint64_t end = size;
    if (i < parts) {
      file.clear();
      file.seekg(static_cast<std::streamoff>(std::max(begin, size / parts * i)));
      file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
      end = file.eof() || !file ? size : static_cast<std::uint64_t>(file.tellg());
    }
    if (end <= begin) return InvalidArgument(fmt::format("{} has too few lines for {} parts", path, parts));
    ranges.push_back({begin, end});
    begin = end;
  }
  return ranges;
}

Result<int> PutParts(const DataOptions& options, const Session& session, ClusterClient& cluster, std::uint64_t size) {
  if (options.devices.empty()) return InvalidArgument("say where the parts are to live with --to DEVICE,DEVICE,...");
  if (cluster.Get("/v1/datasets/" + options.name).ok()) return FailedPrecondition("dataset '" + options.name + "' exists as a whole: remove it first");
  GODWIT_ASSIGN(const std::vector<FileRange> ranges, Cut(options.file, size, options.parts));
  GODWIT_ASSIGN(const Parts before, PartsOf(cluster, options.name));
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    GODWIT_ASSIGN(const auto client, ClientOfDevice(cluster, options.devices[i % options.devices.size()]));
    GODWIT_ASSIGN(const bool known, PutRange(cluster, *client, PartName(options.name, i), options.file, ranges[i], session));
    if (!known) return kExitNotConverged;
    if (!session.quiet) std::printf("dataset/%s stored on %s\n", PartName(options.name, i).c_str(), options.devices[i % options.devices.size()].c_str());
  }
  // Last: who reads the number finds the parts.
  GODWIT_ASSIGN(const auto client, ClientOfDevice(cluster, options.devices[0]));
  HttpCall call = CallFor("PUT", options.name + kPartsCount);
  call.body = std::to_string(ranges.size()) + "\n";
  GODWIT_ASSIGN(const HttpAnswer answer, client->Call(call));
  if (answer.status >= 400) return ErrorOfAnswer(answer);
  for (const auto& [number, part] : before.names) {
    if (number >= ranges.size()) GODWIT_TRY(Delete(cluster, part));
  }
  return kExitDone;
}

Result<int> PutData(const DataOptions& options, const Session& session) {
  GODWIT_TRY(model::CheckDatasetName(options.name));
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  std::error_code error;
  const auto size = std::filesystem::file_size(options.file, error);
  if (options.parts != 0) {
    if (error) return InvalidArgument(options.file + ": " + error.message() + "; only a file can be cut into parts");
    return PutParts(options, session, *cluster, size);
  }
  if (options.devices.size() > 1) return InvalidArgument("a dataset lives on one device; with --parts its parts live on several");
  GODWIT_ASSIGN(const Parts parts, PartsOf(*cluster, options.name));
  if (!parts.names.empty()) return FailedPrecondition("dataset '" + options.name + "' exists in parts: remove it first");
  std::unique_ptr<transport::HttpClient> client;
  if (options.devices.empty()) {
    Result<std::unique_ptr<transport::HttpClient>> holder = ClientOfHolder(*cluster, options.name);
    if (!holder.ok()) return InvalidArgument("dataset '" + options.name + "' is new: say where it is to live with --to DEVICE");
    client = std::move(*holder);
  } else {
    GODWIT_ASSIGN(client, ClientOfDevice(*cluster, options.devices[0]));
  }
  GODWIT_ASSIGN(const bool known, PutRange(*cluster, *client, options.name, options.file, {0, error ? 0 : size}, session));
  if (!known) {
    std::fprintf(stderr, "godwit: the device has the data, but the controller does not know of it yet\n");
    return kExitNotConverged;
  }
  if (!session.quiet) std::printf("dataset/%s stored\n", options.name.c_str());
  return kExitDone;
}

Result<int> ImportData(DataOptions options, const Session& session) {
  GODWIT_ASSIGN(const TemporaryFolder folder, TemporaryFolder::Create());
  const std::string table = folder.path() / "pairs";
  const Result<std::uint64_t> pairs = WritePairs({options.file, options.key, options.value}, table);
  options.file = table;
  Result<int> put = pairs.ok() ? PutData(options, session) : Result<int>(pairs.error());
  if (put.ok() && *put == kExitDone && !session.quiet) std::printf("%llu pairs\n", static_cast<unsigned long long>(*pairs));
  return put;
}

// The dataset, or all its parts in order.
Result<std::vector<std::string>> AllOf(ClusterClient& cluster, const std::string& name) {
  const auto whole = cluster.Get("/v1/datasets/" + name);
  if (whole.ok()) return std::vector<std::string>{name};
  GODWIT_ASSIGN(const Parts parts, PartsOf(cluster, name));
  if (parts.names.empty() && !parts.counted) return whole.error();
  if (!parts.counted) return Unavailable("how many parts dataset '" + name + "' has is not known now: '" + name + kPartsCount + "' is not there");
  GODWIT_ASSIGN(const auto client, ClientOfHolder(cluster, name + kPartsCount));
  GODWIT_ASSIGN(const HttpAnswer count, client->Call(CallFor("GET", name + kPartsCount)));
  if (count.status >= 400) return ErrorOfAnswer(count);
  std::vector<std::string> names;
  for (std::uint64_t i = 0; i < std::strtoull(count.body.c_str(), nullptr, 10); ++i) {
    const auto part = parts.names.find(i);
    if (part == parts.names.end()) return Unavailable("part '" + PartName(name, i) + "' is not there now");
    names.push_back(part->second);
  }
  return names;
}

// One after the other.
Status WriteDatasets(ClusterClient& cluster, const std::vector<std::string>& names, FILE* to) {
  for (const std::string& name : names) {
    GODWIT_ASSIGN(const auto client, ClientOfHolder(cluster, name));
    GODWIT_ASSIGN(const HttpAnswer answer, client->Stream(CallFor("GET", name), [&](std::string_view piece) {
      return std::fwrite(piece.data(), 1, piece.size(), to) == piece.size();
    }));
    if (answer.status >= 400) return ErrorOfAnswer(answer);
  }
  return std::fflush(to) == 0 ? Status() : Status(ErrnoError("writing"));
}

Result<int> GetData(const DataOptions& options, const Session& session) {
  GODWIT_ASSIGN(const auto cluster, ClusterClient::Connect(session));
  GODWIT_ASSIGN(const std::vector<std::string> names, AllOf(*cluster, options.name));
  if (options.file == "-") {
    GODWIT_TRY(WriteDatasets(*cluster, names, stdout));
    return kExitDone;
  }
  // A file is there once all of it is; a pipe gets what comes.
  std::error_code error;
  const bool whole = !std::filesystem::exists(options.file, error) || std::filesystem::is_regular_file(options.file, error);
  const std::string path = whole ? options.file + ".part" : options.file;
  std::unique_ptr<FILE, int (*)(FILE*)> to(std::fopen(path.c_str(), "wb"), [](FILE* file) { return std::fclose(file); });
  if (!to) return ErrnoError(path);
  const Status got = WriteDatasets(*cluster, names, to.get());
  to.reset();
  if (whole && got.ok()) std::filesystem::rename(path, options.file, error);
  else if (whole) std::filesystem::remove(path, error);
  GODWIT_TRY(got);
  if (error) return Internal(options.file + ": " + error.message());
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
  GODWIT_ASSIGN(const Parts parts, PartsOf(*cluster, options.name));
  if (parts.counted) GODWIT_TRY(Delete(*cluster, options.name + kPartsCount));  // First: who asks for all of it gets none.
  for (const auto& [number, part] : parts.names) GODWIT_TRY(Delete(*cluster, part));
  if (parts.names.empty() && !parts.counted) GODWIT_TRY(Delete(*cluster, options.name));
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
  HttpCall call = CallFor("POST", options.name);
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
  put->add_option("--to,--device", options->devices, "The device; not needed to replace one that exists. With --parts: devices")->delimiter(',');
  put->add_option("--parts", options->parts, "Cut it into so many parts of whole lines, datasets NAME.0, NAME.1, ..., which are spread over the devices")->check(CLI::Range(1, 1024));
  put->footer("Examples:\n  godwit data put words /usr/share/dict/words --to csd0\n  godwit data put orders orders.csv --parts 4 --to csd0,csd1");
  put->callback([options, &session] { session.action = [options, &session] { return PutData(*options, session); }; });
  CLI::App* import = data->add_subcommand("import", "Store records as a table of key-value pairs on a device, for lookup, pairs and follow");
  import->add_option("name", options->name, "The dataset's name")->required();
  import->add_option("file", options->file, "JSON lines, or comma-separated values whose first line names the columns")->required();
  import->add_option("--key", options->key, "The member or column that is the key")->required();
  import->add_option("--value", options->value, "The one that is the value; default: the whole record");
  import->add_option("--to,--device", options->devices, "The device; not needed to replace one that exists");
  import->footer("Example:\n  godwit data import users users.jsonl --key id --to csd0\n  godwit data run users lookup '{\"keys\": [\"7\", \"12\"]}'");
  import->callback([options, &session] { session.action = [options, &session] { return ImportData(*options, session); }; });
  CLI::App* get = data->add_subcommand("get", "Read a dataset");
  get->add_option("name", options->name, "Its name")->required();
  get->add_option("file", options->file, "Where to; - is standard output")->default_val("-");
  get->callback([options, &session] { session.action = [options, &session] { return GetData(*options, session); }; });
  CLI::App* run = data->add_subcommand("run", "Run a function over a dataset on the device that holds it: scan, match, checksum, gather, chase, lookup, pairs, follow");
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
