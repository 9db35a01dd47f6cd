#include "model/records.h"

#include <nlohmann/json.hpp>

namespace godwit::model {
namespace {

using nlohmann::json;

// Reads members of a record; keeps the first error. Unknown members are left alone.
class Members {
 public:
  Members(std::string_view what, std::string_view text)
      : what_(what), document_(json::parse(text, nullptr, /*allow_exceptions=*/false)) {
    if (!document_.is_object()) error_ = InvalidArgument(what_ + " record: is not a JSON object");
  }

  const json* Find(const char* key, bool required) {
    if (error_) return nullptr;
    const auto found = document_.find(key);
    if (found == document_.end() || found->is_null()) {
      if (required) Fail(key, "is missing");
      return nullptr;
    }
    return &*found;
  }

  std::string Text(const char* key, bool required = false) {
    const json* value = Find(key, required);
    if (!value) return "";
    if (!value->is_string()) return Fail(key, "must be a string"), "";
    return value->get<std::string>();
  }

  std::vector<std::string> Texts(const char* key) {
    std::vector<std::string> texts;
    const json* list = Find(key, false);
    if (!list) return texts;
    if (!list->is_array()) Fail(key, "must be a list of strings");
    for (const json& item : *list) {
      if (item.is_string()) texts.push_back(item.get<std::string>());
      else Fail(key, "must be a list of strings");
    }
    return texts;
  }

  std::string NameText(const char* key) {
    const std::string text = Text(key, true);
    if (const Status status = CheckName("name", text); !error_ && !status.ok()) Fail(key, status.error().message);
    return text;
  }

  std::uint64_t Number(const char* key, std::uint64_t otherwise = 0) {
    const json* value = Find(key, false);
    return value ? NumberOf(*value, key) : otherwise;
  }

  std::uint64_t NumberOf(const json& value, const char* key) {
    if (!value.is_number_integer() || (!value.is_number_unsigned() && value.get<std::int64_t>() < 0)) {
      Fail(key, "must be a whole number of 0 or more");
      return 0;
    }
    return value.get<std::uint64_t>();
  }

  double Real(const char* key, double otherwise, double least) {
    const json* value = Find(key, false);
    if (!value) return otherwise;
    if (!value->is_number() || value->get<double>() < least) return Fail(key, "must be a number of " + std::to_string(least) + " or more"), otherwise;
    return value->get<double>();
  }

  std::vector<json> Objects(const char* key) {
    std::vector<json> objects;
    const json* list = Find(key, false);
    if (!list) return objects;
    if (!list->is_array() || !std::all_of(list->begin(), list->end(), [](const json& item) { return item.is_object(); })) {
      return Fail(key, "must be a list of objects"), objects;
    }
    return list->get<std::vector<json>>();
  }

  std::uint32_t Number32(const char* key, std::uint32_t otherwise = 0) {
    const std::uint64_t number = Number(key, otherwise);
    if (number > 0xffffffff) return Fail(key, "is too large"), 0;
    return static_cast<std::uint32_t>(number);
  }

  template <typename Enum>
  Enum OneOf(const char* key, Enum first, Enum last, std::optional<Enum> otherwise = std::nullopt) {
    const std::string text = Text(key, !otherwise);
    if (text.empty() && otherwise) return *otherwise;
    for (int i = static_cast<int>(first); i <= static_cast<int>(last); ++i) {
      if (ToString(static_cast<Enum>(i)) == text) return static_cast<Enum>(i);
    }
    Fail(key, "'" + text + "' is not one of its values");
    return first;
  }

  void Fail(const char* key, const std::string& reason) {
    if (!error_) error_ = InvalidArgument(what_ + " record: member '" + key + "': " + reason);
  }

  template <typename Record>
  Result<Record> Finish(Record record) {
    if (error_) return *error_;
    return record;
  }
  const std::optional<Error>& error() const { return error_; }

 private:
  std::string what_;
  json document_;
  std::optional<Error> error_;
};

}  // namespace

std::string_view ToString(DeviceClass value) {
  switch (value) {
    case DeviceClass::kHost: return "host";
    case DeviceClass::kCsd: return "csd";
    case DeviceClass::kCpm: return "cpm";
  }
  return "";
}

std::string_view ToString(DeviceState value) {
  switch (value) {
    case DeviceState::kReady: return "ready";
    case DeviceState::kCordoned: return "cordoned";
    case DeviceState::kOffline: return "offline";
  }
  return "";
}

std::string_view ToString(Maintenance value) {
  switch (value) {
    case Maintenance::kNone: return "none";
    case Maintenance::kCordon: return "cordon";
    case Maintenance::kDrain: return "drain";
    case Maintenance::kLeave: return "leave";
  }
  return "";
}

std::string_view ToString(InstanceState value) {
  switch (value) {
    case InstanceState::kPending: return "Pending";
    case InstanceState::kStarting: return "Starting";
    case InstanceState::kRunning: return "Running";
    case InstanceState::kFailed: return "Failed";
  }
  return "";
}

std::string_view ToString(MigrationPhase value) {
  switch (value) {
    case MigrationPhase::kPending: return "Pending";
    case MigrationPhase::kPreparing: return "Preparing";
    case MigrationPhase::kCopying: return "Copying";
    case MigrationPhase::kStopping: return "Stopping";
    case MigrationPhase::kCommitting: return "Committing";
    case MigrationPhase::kResuming: return "Resuming";
    case MigrationPhase::kDone: return "Done";
    case MigrationPhase::kFailed: return "Failed";
    case MigrationPhase::kCancelled: return "Cancelled";
  }
  return "";
}

std::optional<DeviceClass> ParseDeviceClass(std::string_view text) {
  for (const DeviceClass value : {DeviceClass::kHost, DeviceClass::kCsd, DeviceClass::kCpm}) {
    if (ToString(value) == text) return value;
  }
  return std::nullopt;
}

std::string DeviceRecord::ToJson() const {
  json of_instances = json::array();
  for (const Use& use : uses) {
    of_instances.push_back({{"instance", use.instance.value},
                            {"requests_per_second", use.requests_per_second},
                            {"cpu_ms", use.cpu_ms},
                            {"p99_ms", use.p99_ms}});
  }
  json of_files = json::array();
  for (const Open& open : open_files) of_files.push_back({{"instance", open.instance.value}, {"files", open.files}});
  return json{{"name", name.value},
              {"class", ToString(device_class)},
              {"isa", isa},
              {"cores", cores},
              {"memory_bytes", memory.value},
              {"load", load},
              {"speed", speed},
              {"core_watts", core_watts},
              {"power_cap_watts", power_cap_watts},
              {"uses", of_instances},
              {"open_files", of_files},
              {"foreground",
               {{"per_second", foreground.per_second},
                {"p50_us", foreground.p50_us},
                {"p99_us", foreground.p99_us},
                {"share", foreground.share},
                {"running", foreground.running}}},
              {"state", ToString(state)},
              {"boot_id", boot_id.ToString()},
              {"channel", channel},
              {"url", url},
              {"emulated", emulated},
              {"maintenance", ToString(maintenance)},
              {"page_tracker", page_tracker}}
      .dump();
}

Result<DeviceRecord> DeviceRecord::FromJson(std::string_view text) {
  Members in("device", text);
  DeviceRecord record;
  record.name = DeviceName(in.NameText("name"));
  record.device_class = in.OneOf("class", DeviceClass::kHost, DeviceClass::kCpm);
  record.isa = in.Text("isa", true);
  record.cores = in.Number32("cores", 1);
  record.memory = {in.Number("memory_bytes")};
  record.load = in.Real("load", 0, 0);
  record.speed = in.Real("speed", 1, 1e-6);
  record.core_watts = in.Real("core_watts", 0, 0);
  record.power_cap_watts = in.Real("power_cap_watts", 0, 0);
  for (const json& one : in.Objects("uses")) {
    Members use("device's use", one.dump());
    record.uses.push_back({InstanceId(use.NameText("instance")), use.Real("requests_per_second", 0, 0), use.Real("cpu_ms", 0, 0), use.Real("p99_ms", 0, 0)});
    if (use.error()) in.Fail("uses", use.error()->message);
  }
  for (const json& one : in.Objects("open_files")) {
    Members open("device's open files", one.dump());
    record.open_files.push_back({InstanceId(open.NameText("instance")), open.Number("files")});
    if (open.error()) in.Fail("open_files", open.error()->message);
  }
  if (const json* one = in.Find("foreground", false)) {
    Members of("device's foreground", one->dump());
    record.foreground = {of.Real("per_second", 0, 0), of.Real("p50_us", 0, 0), of.Real("p99_us", 0, 0), of.Real("share", 1, 0), of.Number("running")};
    if (of.error()) in.Fail("foreground", of.error()->message);
  }
  record.state = in.OneOf("state", DeviceState::kReady, DeviceState::kOffline, std::optional(DeviceState::kReady));
  const auto boot_id = BootId::Parse(in.Text("boot_id", true));
  if (!boot_id) in.Fail("boot_id", "must be 16 hexadecimal digits");
  else record.boot_id = *boot_id;
  record.channel = in.Text("channel", true);
  record.url = in.Text("url", true);
  record.emulated = in.Texts("emulated");
  record.maintenance = in.OneOf("maintenance", Maintenance::kNone, Maintenance::kLeave, std::optional(Maintenance::kNone));
  record.page_tracker = in.Text("page_tracker");
  return in.Finish(std::move(record));
}

std::string PackageRecord::ToJson() const {
  json list = json::array();
  for (const Blob& blob : blobs) list.push_back({{"digest", blob.digest}, {"bytes", blob.size.value}});
  return json{{"digest", digest}, {"blobs", list}, {"isas", isas}}.dump();
}

Result<PackageRecord> PackageRecord::FromJson(std::string_view text) {
  Members in("package", text);
  PackageRecord record;
  record.digest = in.Text("digest", true);
  if (const json* list = in.Find("blobs", true)) {
    if (!list->is_array()) in.Fail("blobs", "must be a list");
    else {
      for (const json& item : *list) {
        if (!item.is_object() || !item.contains("digest") || !item["digest"].is_string() || !item.contains("bytes")) {
          in.Fail("blobs", "each has a digest and a number of bytes");
          break;
        }
        record.blobs.push_back({item["digest"].get<std::string>(), {in.NumberOf(item["bytes"], "blobs")}});
      }
    }
  }
  record.isas = in.Texts("isas");
  return in.Finish(std::move(record));
}

std::string ServiceRecord::ToJson() const {
  return json{{"name", name.value},
              {"manifest", json::parse(manifest.ToJson())},
              {"package", package},
              {"generation", generation}}
      .dump();
}

Result<ServiceRecord> ServiceRecord::FromJson(std::string_view text) {
  Members in("service", text);
  ServiceRecord record;
  record.name = ServiceName(in.NameText("name"));
  if (const json* manifest = in.Find("manifest", true)) {
    Result<Manifest> parsed = Manifest::FromJson(manifest->dump());
    if (!parsed.ok()) return parsed.error().Within("service record");
    record.manifest = std::move(*parsed);
    if (record.manifest.name != record.name) in.Fail("manifest", "its service.name differs from 'name'");
  }
  record.package = in.Text("package", true);
  record.generation = in.Number("generation", 1);
  return in.Finish(std::move(record));
}

std::string InstanceRecord::ToJson() const {
  return json{{"id", id.value},
              {"service", service.value},
              {"shard", shard},
              {"device", device.value},
              {"epoch", epoch.value},
              {"state", ToString(state)},
              {"reason", reason},
              {"package", package}}
      .dump();
}

Result<InstanceRecord> InstanceRecord::FromJson(std::string_view text) {
  Members in("instance", text);
  InstanceRecord record;
  record.id = InstanceId(in.Text("id", true));
  record.service = ServiceName(in.NameText("service"));
  record.shard = in.Number32("shard");
  record.device = DeviceName(in.Text("device"));
  record.epoch = {in.Number("epoch", 1)};
  record.state = in.OneOf("state", InstanceState::kPending, InstanceState::kFailed);
  record.reason = in.Text("reason");
  record.package = in.Text("package", true);
  return in.Finish(std::move(record));
}

std::string MigrationRecord::ToJson() const {
  json list = json::array();
  for (const Round& round : rounds) {
    list.push_back(
        {{"bytes", round.bytes}, {"pages", round.pages}, {"dirty_pages", round.dirty_pages}, {"us", round.us}});
  }
  json object{{"id", id.value},
              {"service", service.value},
              {"instance", instance.value},
              {"shard", shard},
              {"source", source.value},
              {"target", target.value},
              {"epoch", epoch.value},
              {"mode", mode},
              {"reason", reason},
              {"phase", ToString(phase)},
              {"rounds", list},
              {"stop_latency_us", stop_latency_us},
              {"downtime_us", downtime_us},
              {"total_us", total_us},
              {"bytes_sent", bytes_sent},
              {"memory_bytes", memory_bytes},
              {"source_isa", source_isa},
              {"target_isa", target_isa},
              {"requests_held", requests_held},
              {"tracker", tracker},
              {"streams", streams},
              {"slowed", slowed},
              {"error", error}};
  if (max_downtime_ms) object["max_downtime_ms"] = *max_downtime_ms;
  return object.dump();
}

Result<MigrationRecord> MigrationRecord::FromJson(std::string_view text) {
  Members in("migration", text);
  MigrationRecord record;
  record.id = MigrationId(in.Text("id", true));
  record.service = ServiceName(in.NameText("service"));
  record.instance = InstanceId(in.Text("instance", true));
  record.shard = in.Number32("shard");
  record.source = DeviceName(in.NameText("source"));
  record.target = DeviceName(in.NameText("target"));
  record.epoch = {in.Number("epoch")};
  record.mode = in.Text("mode");
  record.reason = in.Text("reason");
  record.phase = in.OneOf("phase", MigrationPhase::kPending, MigrationPhase::kCancelled);
  if (in.Find("max_downtime_ms", false)) record.max_downtime_ms = in.Number("max_downtime_ms");
  for (const json& item : in.Objects("rounds")) {
    Round round;
    const std::pair<const char*, std::uint64_t*> members[] = {
        {"bytes", &round.bytes}, {"pages", &round.pages}, {"dirty_pages", &round.dirty_pages}, {"us", &round.us}};
    for (const auto& [key, to] : members) {
      if (item.contains(key)) *to = in.NumberOf(item[key], "rounds");
    }
    record.rounds.push_back(round);
  }
  record.stop_latency_us = in.Number("stop_latency_us");
  record.downtime_us = in.Number("downtime_us");
  record.total_us = in.Number("total_us");
  record.bytes_sent = in.Number("bytes_sent");
  record.memory_bytes = in.Number("memory_bytes");
  record.source_isa = in.Text("source_isa");
  record.target_isa = in.Text("target_isa");
  record.requests_held = in.Number("requests_held");
  record.tracker = in.Text("tracker");
  record.streams = in.Number("streams");
  record.slowed = in.Real("slowed", 0, 0);
  record.error = in.Text("error");
  return in.Finish(std::move(record));
}

std::string DatasetRecord::ToJson() const {
  return json{{"name", name.value}, {"device", device.value}, {"bytes", bytes.value}, {"digest", digest}}.dump();
}

Result<DatasetRecord> DatasetRecord::FromJson(std::string_view text) {
  Members in("dataset", text);
  DatasetRecord record;
  record.name = DatasetName(in.Text("name", true));
  if (const Status status = CheckDatasetName(record.name.value); !status.ok()) in.Fail("name", status.error().message);
  record.device = DeviceName(in.NameText("device"));
  record.bytes = {in.Number("bytes")};
  record.digest = in.Text("digest");
  return in.Finish(std::move(record));
}

}  // namespace godwit::model
