#include "model/manifest.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "model/manifest_document.h"

namespace godwit::model {
namespace {

using nlohmann::json;

// Levenshtein distance: how many letters apart two short words are.
std::size_t Distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0]++;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

template <typename Words>
std::string Suggestion(std::string_view word, const Words& allowed) {
  std::string best, list;
  std::size_t best_distance = word.size() / 3 + 2;
  for (const std::string_view candidate : allowed) {
    list += (list.empty() ? "" : ", ") + std::string(candidate);
    if (const std::size_t d = Distance(word, candidate); d < best_distance) {
      best = candidate;
      best_distance = d;
    }
  }
  return best.empty() ? "allowed are: " + list : "did you mean '" + best + "'?";
}

// Reads one table. Each Take* removes a key from what Finish will call unknown. The first error is kept and the
// reads after it return defaults, so that callers check once, at Finish.
class TableReader {
 public:
  struct Root {
    const KeyLines& lines;
    const std::string& file;
    std::optional<Error> error;
  };

  TableReader(Root& root, const json* table, std::string path) : root_(root), path_(std::move(path)) {
    if (!table) return;
    if (table->is_object()) {
      table_ = table;
    } else {
      Fail("", "must be a table");
    }
  }

  bool Has(const char* key) const { return table_ && table_->contains(key); }

  std::string Text(const char* key, std::string otherwise = "") {
    const json* value = Take(key);
    if (!value) return otherwise;
    if (!value->is_string()) return Fail(key, "must be a string"), otherwise;
    const auto text = value->get<std::string>();
    if (text.find('\0') != text.npos) return Fail(key, "must not hold a NUL character"), otherwise;
    return text;
  }

  std::uint64_t Number(const char* key, std::uint64_t otherwise, std::uint64_t min, std::uint64_t max) {
    const json* value = Take(key);
    if (!value) return otherwise;
    if (!value->is_number_integer() || value->is_boolean()) return Fail(key, "must be a whole number"), otherwise;
    const bool negative = !value->is_number_unsigned() && value->get<std::int64_t>() < 0;
    if (negative || value->get<std::uint64_t>() < min || value->get<std::uint64_t>() > max) {
      Fail(key, "must be between " + std::to_string(min) + " and " + std::to_string(max));
      return otherwise;
    }
    return value->get<std::uint64_t>();
  }

  std::optional<double> PositiveReal(const char* key) {
    const json* value = Take(key);
    if (!value) return std::nullopt;
    if (!value->is_number() || value->get<double>() <= 0) return Fail(key, "must be a number above 0"), std::nullopt;
    return value->get<double>();
  }

  bool Flag(const char* key, bool otherwise) {
    const json* value = Take(key);
    if (!value) return otherwise;
    if (!value->is_boolean()) return Fail(key, "must be true or false"), otherwise;
    return value->get<bool>();
  }

  ByteCount Size(const char* key, ByteCount otherwise, ByteCount min, ByteCount max) {
    const json* value = Take(key);
    if (!value) return otherwise;
    std::optional<ByteCount> size;
    if (value->is_string()) size = ParseByteCount(value->get_ref<const std::string&>());
    if (value->is_number_unsigned()) size = ByteCount{value->get<std::uint64_t>()};
    if (value->is_number_integer() && !value->is_number_unsigned() && value->get<std::int64_t>() >= 0) {
      size = ByteCount{value->get<std::uint64_t>()};
    }
    if (!size) return Fail(key, "must be a size such as \"64Mi\", \"1Gi\" or a number of bytes"), otherwise;
    if (*size < min || *size > max) {
      return Fail(key, "must be between " + FormatByteCount(min) + " and " + FormatByteCount(max)), otherwise;
    }
    return *size;
  }

  template <typename Enum>
  Enum OneOf(const char* key, Enum otherwise, const std::vector<std::pair<std::string_view, Enum>>& values) {
    if (!Has(key)) return otherwise;
    const std::string text = Text(key);
    std::vector<std::string_view> names;
    for (const auto& [name, value] : values) {
      if (name == text) return value;
      names.push_back(name);
    }
    Fail(key, "'" + text + "' is not one of its values: " + Suggestion(text, names));
    return otherwise;
  }

  std::vector<std::string> Texts(const char* key) {
    std::vector<std::string> texts;
    const json* value = Take(key);
    if (!value) return texts;
    if (!value->is_array()) return Fail(key, "must be a list of strings"), texts;
    for (const json& item : *value) {
      if (!item.is_string()) return Fail(key, "must be a list of strings"), texts;
      texts.push_back(item.get<std::string>());
    }
    return texts;
  }

  // All keys of the table, each a string: free-form tables such as [env].
  std::map<std::string, std::string> AllTexts() {
    std::map<std::string, std::string> texts;
    if (!table_) return texts;
    for (const auto& [key, value] : table_->items()) texts[key] = Text(key.c_str());
    return texts;
  }

  TableReader Table(const char* key) { return TableReader(root_, Take(key), PathOf(key)); }

  std::vector<TableReader> Tables(const char* key) {
    std::vector<TableReader> tables;
    const json* value = Take(key);
    if (!value) return tables;
    if (!value->is_array()) return Fail(key, "must be a list of tables: write [[" + PathOf(key) + "]]"), tables;
    for (std::size_t i = 0; i < value->size(); ++i) {
      tables.emplace_back(root_, &(*value)[i], PathOf(key) + "[" + std::to_string(i) + "]");
    }
    return tables;
  }

  // Keeps the first error only. An empty key means the table itself.
  void Fail(const std::string& key, const std::string& reason) {
    if (root_.error) return;
    const std::string path = key.empty() ? path_ : PathOf(key);
    const auto line = root_.lines.find(path);
    std::string where = root_.file;
    if (line != root_.lines.end() && line->second > 0) where += ":" + std::to_string(line->second);
    root_.error = InvalidArgument(where + ": key '" + path + "': " + reason);
  }

  // Every key that was not taken is unknown.
  void Finish() {
    if (!table_) return;
    for (const auto& [key, value] : table_->items()) {
      if (std::find(taken_.begin(), taken_.end(), key) == taken_.end()) {
        return Fail(key, "is unknown here; " + Suggestion(key, taken_));
      }
    }
  }

 private:
  const json* Take(const char* key) {
    taken_.emplace_back(key);
    return Has(key) ? &table_->at(key) : nullptr;
  }
  std::string PathOf(const std::string& key) const { return path_.empty() ? key : path_ + "." + key; }

  Root& root_;
  const json* table_ = nullptr;
  std::string path_;
  std::vector<std::string> taken_;
};

// Empty if the route is good, otherwise what is wrong.
std::string RouteProblem(const std::string& route) {
  if (route.empty() || route[0] != '/') return "a route begins with '/'";
  if (route.size() > 1024) return "a route has at most 1024 characters";
  if (route.size() > 1 && route.find("//") != route.npos) return "a route has no empty segment ('//')";
  for (const char c : route) {
    if (c <= ' ' || c == '?' || c == '#' || c == '%' || c == 0x7f) return "a route has no spaces, '?', '#' or '%'";
  }
  for (std::size_t i = route.find_first_of("{}"); i != route.npos;) {
    const std::size_t end = route.find('}', i);
    if (route[i] != '{' || route[i - 1] != '/' || end != route.size() - 1 || end == i + 1) {
      return "a parameter is a whole last segment, such as /orders/{key}";
    }
    break;
  }
  return "";
}

std::string HostProblem(const std::string& host) {
  const std::size_t colon = host.rfind(':');
  unsigned port = 0;
  if (colon == host.npos || colon == 0) return "'" + host + "' must be HOST:PORT";
  const auto [end, error] = std::from_chars(host.data() + colon + 1, host.data() + host.size(), port);
  if (error != std::errc() || end != host.data() + host.size() || port == 0 || port > 65535) {
    return "'" + host + "' must be HOST:PORT with a port of 1 to 65535";
  }
  return "";
}

std::map<std::string, std::string> ReadConstraints(TableReader table) {
  static constexpr std::pair<const char*, std::array<std::string_view, 5>> kValues[] = {
      {"class", {"host", "dpu", "csd", "cpm", "memory"}}, {"isa", {"x86_64", "aarch64", "riscv64", "", ""}}};
  std::map<std::string, std::string> constraints;
  for (const auto& [key, values] : kValues) {
    if (!table.Has(key)) continue;
    const std::string value = table.Text(key);
    if (value.empty() || std::find(values.begin(), values.end(), value) == values.end()) {
      std::vector<std::string_view> names;
      for (const std::string_view name : values) {
        if (!name.empty()) names.push_back(name);
      }
      table.Fail(key, "'" + value + "' is not one of its values: " + Suggestion(value, names));
    }
    constraints[key] = value;
  }
  // Read even where absent, so that they are among the keys that Finish suggests.
  for (const char* key : {"class", "isa"}) table.Text(key);
  if (table.Has("device")) {
    constraints["device"] = table.Text("device");
    if (const Status status = CheckName("device name", constraints["device"]); !status.ok()) {
      table.Fail("device", status.error().message);
    }
  }
  table.Text("device");
  table.Finish();
  return constraints;
}

void ReadTriggers(TableReader triggers, Manifest& manifest) {
  for (TableReader& http : triggers.Tables("http")) {
    HttpTrigger trigger;
    if (!http.Has("route")) http.Fail("", "lacks its key 'route'");
    trigger.route = http.Text("route");
    if (const std::string problem = RouteProblem(trigger.route); !problem.empty()) http.Fail("route", problem);
    for (const HttpTrigger& other : manifest.http) {
      if (other.route == trigger.route) http.Fail("route", "is the same as an earlier trigger's");
    }
    trigger.concurrency = static_cast<std::uint32_t>(http.Number("concurrency", 1, 1, kConcurrencyMax));
    trigger.web_socket = http.Flag("websocket", false);
    if (trigger.web_socket && manifest.kind == ServiceKind::kCommand) http.Fail("websocket", "is for reactors: a command gets one request and ends");
    http.Finish();
    manifest.http.push_back(trigger);
  }
  triggers.Finish();
}

void ReadService(TableReader service, Manifest& manifest) {
  if (!service.Has("name")) service.Fail("", "needs [service] with at least name = \"...\"");
  manifest.name = ServiceName(service.Text("name"));
  if (const Status status = CheckName("service name", manifest.name.value); !status.ok()) {
    service.Fail("name", status.error().message);
  }
  manifest.kind = service.OneOf<ServiceKind>(
      "kind", ServiceKind::kReactor, {{"reactor", ServiceKind::kReactor}, {"command", ServiceKind::kCommand}});
  service.Text("kind");
  manifest.state = service.OneOf<StateClass>("state", StateClass::kStateless,
                                             {{"stateless", StateClass::kStateless},
                                              {"stateful", StateClass::kStateful},
                                              {"durable", StateClass::kDurable}});
  service.Text("state");
  manifest.source = service.Text("source");
  manifest.package = service.Text("package");
  if (!manifest.source.empty() && !manifest.package.empty()) {
    service.Fail("package", "either 'source' or 'package' is given, not both");
  }
  manifest.shards = static_cast<std::uint32_t>(service.Number("shards", 1, 1, kShardsMax));
  if (manifest.shards > 1 && manifest.state == StateClass::kStateless) {
    service.Fail("shards", "only a stateful service has shards; use [scale] for a stateless one");
  }
  service.Finish();
}

void ReadGrants(TableReader& root, Manifest& manifest) {
  TableReader env = root.Table("env");
  manifest.env = env.AllTexts();
  for (const auto& [key, value] : manifest.env) {
    if (key.empty() || key.find('=') != key.npos) env.Fail(key, "is no name of an environment variable");
  }
  TableReader outbound = root.Table("outbound");
  manifest.outbound_hosts = outbound.Texts("hosts");
  for (const std::string& host : manifest.outbound_hosts) {
    if (const std::string problem = HostProblem(host); !problem.empty()) outbound.Fail("hosts", problem);
  }
  outbound.Finish();

  TableReader data = root.Table("data");
  for (const auto& [name, access] : data.AllTexts()) {
    if (const Status status = CheckDatasetName(name); !status.ok()) data.Fail(name, status.error().message);
    if (access != "read" && access != "read-write") data.Fail(name, "must be \"read\" or \"read-write\"");
    manifest.data[DatasetName(name)] = access == "read" ? DataAccess::kRead : DataAccess::kReadWrite;
  }
  TableReader calls = root.Table("calls");
  for (const std::string& name : calls.Texts("allow")) {
    if (const Status status = CheckName("service name", name); !status.ok()) calls.Fail("allow", status.error().message);
    manifest.calls.emplace_back(name);
  }
  calls.Finish();
}

void ReadWishes(TableReader& root, Manifest& manifest) {
  using std::chrono::milliseconds;
  constexpr std::uint64_t kDayMs = 24ull * 3600 * 1000;
  TableReader limits = root.Table("limits");
  manifest.limits.memory = limits.Size("memory", manifest.limits.memory, 64_KiB, 4_GiB);
  manifest.limits.body = limits.Size("body_bytes", manifest.limits.body, {0}, 64_GiB);
  manifest.limits.request_timeout = milliseconds(limits.Number(
      "request_timeout_ms", static_cast<std::uint64_t>(manifest.limits.request_timeout.count()), 1, kDayMs));
  if (const std::uint64_t ms = limits.Number("cpu_ms_per_request", 0, 1, kDayMs)) {
    manifest.limits.cpu_per_request = milliseconds(ms);
  }
  limits.Finish();

  TableReader placement = root.Table("placement");
  manifest.placement.require = ReadConstraints(placement.Table("require"));
  manifest.placement.prefer = ReadConstraints(placement.Table("prefer"));
  if (placement.Has("near")) {
    manifest.placement.near = DatasetName(placement.Text("near"));
    if (const Status status = CheckDatasetName(manifest.placement.near->value); !status.ok()) {
      placement.Fail("near", status.error().message);
    }
  }
  placement.Text("near");
  placement.Finish();

  TableReader migration = root.Table("migration");
  manifest.migration.allow = migration.Flag("allow", true);
  if (const std::uint64_t ms = migration.Number("max_downtime_ms", 0, 1, kDayMs)) {
    manifest.migration.max_downtime = milliseconds(ms);
  }
  migration.Finish();

  TableReader scale = root.Table("scale");
  if (manifest.state != StateClass::kStateless && (scale.Has("min") || scale.Has("max"))) {
    scale.Fail("", "only a stateless service is scaled; a stateful one has shards");
  }
  manifest.scale_min = static_cast<std::uint32_t>(scale.Number("min", 1, 1, 64));
  manifest.scale_max = static_cast<std::uint32_t>(scale.Number("max", manifest.scale_min, 1, 64));
  if (manifest.scale_max < manifest.scale_min) scale.Fail("max", "must not be below 'min'");
  scale.Finish();

  TableReader health = root.Table("health");
  manifest.health_path = health.Text("path");
  if (!manifest.health_path.empty() && manifest.health_path[0] != '/') health.Fail("path", "must begin with '/'");
  health.Finish();

  TableReader slo = root.Table("slo");
  manifest.slo_p99_ms = slo.PositiveReal("p99_ms");
  manifest.slo_min_rps = slo.PositiveReal("min_rps");
  slo.Finish();
}

}  // namespace

Result<Manifest> ReadManifest(const json& document, const KeyLines& lines, const std::string& file) {
  TableReader::Root state{lines, file, std::nullopt};
  Manifest manifest;
  TableReader root(state, &document, "");
  ReadService(root.Table("service"), manifest);
  if (!root.Has("service")) root.Fail("service", "is missing: a manifest needs [service] with name = \"...\"");
  ReadTriggers(root.Table("trigger"), manifest);
  ReadGrants(root, manifest);
  ReadWishes(root, manifest);
  root.Finish();
  if (state.error) return *state.error;
  return manifest;
}

Result<Manifest> Manifest::FromJson(std::string_view text) {
  if (text.size() > kManifestBytesMax) {
    return InvalidArgument("manifest: has at most " + std::to_string(kManifestBytesMax) + " bytes");
  }
  const json document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (document.is_discarded()) return InvalidArgument("manifest: is not JSON");
  return ReadManifest(document, {}, "manifest");
}

std::string Manifest::ToJson() const {
  json service = {{"name", name.value}, {"kind", ToString(kind)}, {"state", ToString(state)}};
  if (!source.empty()) service["source"] = source;
  if (!package.empty()) service["package"] = package;
  if (shards != 1) service["shards"] = shards;
  json document = {{"service", service}};
  for (const HttpTrigger& trigger : http) {
    document["trigger"]["http"].push_back({{"route", trigger.route}, {"concurrency", trigger.concurrency}});
    if (trigger.web_socket) document["trigger"]["http"].back()["websocket"] = true;
  }
  if (!env.empty()) document["env"] = env;
  if (!outbound_hosts.empty()) document["outbound"] = {{"hosts", outbound_hosts}};
  for (const auto& [dataset, access] : data) document["data"][dataset.value] = ToString(access);
  for (const ServiceName& callee : calls) document["calls"]["allow"].push_back(callee.value);
  document["limits"] = {{"memory", limits.memory.value},
                        {"body_bytes", limits.body.value},
                        {"request_timeout_ms", limits.request_timeout.count()}};
  if (limits.cpu_per_request) document["limits"]["cpu_ms_per_request"] = limits.cpu_per_request->count();
  if (!placement.require.empty()) document["placement"]["require"] = placement.require;
  if (!placement.prefer.empty()) document["placement"]["prefer"] = placement.prefer;
  if (placement.near) document["placement"]["near"] = placement.near->value;
  document["migration"]["allow"] = migration.allow;
  if (migration.max_downtime) document["migration"]["max_downtime_ms"] = migration.max_downtime->count();
  if (state == StateClass::kStateless) document["scale"] = {{"min", scale_min}, {"max", scale_max}};
  if (!health_path.empty()) document["health"]["path"] = health_path;
  if (slo_p99_ms) document["slo"]["p99_ms"] = *slo_p99_ms;
  if (slo_min_rps) document["slo"]["min_rps"] = *slo_min_rps;
  return document.dump();
}

bool Manifest::MayWrite(const DatasetName& dataset) const {
  const auto found = data.find(dataset);
  return found != data.end() && found->second == DataAccess::kReadWrite;
}

bool Manifest::MayCall(const ServiceName& service) const {
  return std::find(calls.begin(), calls.end(), service) != calls.end();
}

bool Manifest::MayReach(std::string_view host_and_port) const {
  return std::find(outbound_hosts.begin(), outbound_hosts.end(), host_and_port) != outbound_hosts.end();
}

std::optional<ByteCount> ParseByteCount(std::string_view text) {
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || text.empty()) return std::nullopt;
  const std::string_view suffix(end, static_cast<std::size_t>(text.data() + text.size() - end));
  int shift = -1;
  if (suffix.empty()) shift = 0;
  if (suffix == "Ki") shift = 10;
  if (suffix == "Mi") shift = 20;
  if (suffix == "Gi") shift = 30;
  if (suffix == "Ti") shift = 40;
  if (shift < 0 || number > std::numeric_limits<std::uint64_t>::max() >> shift) return std::nullopt;
  return ByteCount{number << shift};
}

std::string FormatByteCount(ByteCount bytes) {
  for (const auto& [shift, suffix] : {std::pair{40, "Ti"}, {30, "Gi"}, {20, "Mi"}, {10, "Ki"}}) {
    if (bytes.value != 0 && bytes.value % (1ull << shift) == 0) return std::to_string(bytes.value >> shift) + suffix;
  }
  return std::to_string(bytes.value);
}

std::string_view ToString(ServiceKind kind) { return kind == ServiceKind::kReactor ? "reactor" : "command"; }

std::string_view ToString(StateClass state) {
  switch (state) {
    case StateClass::kStateless: return "stateless";
    case StateClass::kStateful: return "stateful";
    case StateClass::kDurable: return "durable";
  }
  return "";
}

std::string_view ToString(DataAccess access) { return access == DataAccess::kRead ? "read" : "read-write"; }

}  // namespace godwit::model
