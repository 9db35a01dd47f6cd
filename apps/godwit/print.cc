#include "print.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

namespace godwit::cli {
namespace {

using nlohmann::json;
using Row = std::vector<std::string>;

std::string Text(const json& item, const char* key) {
  const auto found = item.find(key);
  if (found == item.end() || found->is_null()) return "";
  return found->is_string() ? found->get<std::string>() : found->dump();
}

double Number(const json& item, const char* key) {
  const auto found = item.find(key);
  return found != item.end() && found->is_number() ? found->get<double>() : 0;
}

std::string Milliseconds(const json& item, const char* key) {
  const double us = Number(item, key);
  return us == 0 ? "-" : fmt::format("{:.1f} ms", us / 1000);
}

const json& Member(const json& item, const char* key) {
  static const json kNone = json::object();
  const auto found = item.find(key);
  return found == item.end() ? kNone : *found;
}

bool Condition(const json& service, const char* type, std::string& reason) {
  for (const json& condition : Member(service, "conditions")) {
    if (Text(condition, "type") != type) continue;
    reason = Text(condition, "reason");
    return condition.value("status", false);
  }
  return false;
}

Row HeadOf(const std::string& kind, bool wide) {
  if (kind == "devices") {
    Row row{"NAME", "CLASS", "ISA", "CORES", "MEMORY", "LOAD", "STATE"};
    if (wide) row.insert(row.end(), {"URL", "CHANNEL", "EMULATED"});
    return row;
  }
  if (kind == "services") {
    Row row{"NAME", "KIND", "STATE", "READY", "DEVICES", "URL"};
    if (wide) row.insert(row.end(), {"GENERATION", "MIGRATABLE", "PACKAGE"});
    return row;
  }
  if (kind == "instances") {
    Row row{"ID", "SERVICE", "SHARD", "DEVICE", "EPOCH", "STATE", "REASON"};
    if (wide) row.push_back("PACKAGE");
    return row;
  }
  if (kind == "migrations") {
    Row row{"ID", "SERVICE", "SOURCE", "TARGET", "PHASE", "DOWNTIME", "TOTAL", "SENT", "ERROR"};
    if (wide) row.insert(row.end(), {"ISA", "MODE", "REASON", "STOP", "HELD", "INSTANCE"});
    return row;
  }
  if (kind == "datasets") return {"NAME", "DEVICE", "SIZE", "DIGEST"};
  return {"DIGEST", "BLOBS", "SIZE", "ISAS"};
}

Row RowOf(const std::string& kind, const json& item, bool wide) {
  if (kind == "devices") {
    Row row{Text(item, "name"), Text(item, "class"), Text(item, "isa"), Text(item, "cores"),
            HumanBytes(Number(item, "memory_bytes")), fmt::format("{:.0f}%", 100 * Number(item, "load")), Text(item, "state")};
    std::string emulated;
    for (const json& one : Member(item, "emulated")) emulated += (emulated.empty() ? "" : ", ") + one.get<std::string>();
    if (wide) row.insert(row.end(), {Text(item, "url"), Text(item, "channel"), emulated.empty() ? "-" : emulated});
    return row;
  }
  if (kind == "services") {
    std::string devices, reason;
    for (const json& instance : Member(item, "instances")) devices += (devices.empty() ? "" : ",") + Text(instance, "device");
    const json& service = Member(Member(item, "manifest"), "service");
    const bool ready = Condition(item, "Ready", reason);
    Row row{Text(item, "name"), Text(service, "kind"), Text(service, "state"), ready ? "yes" : "no: " + reason, devices, Text(item, "url")};
    std::string fixed;
    const bool migratable = Condition(item, "Migratable", fixed);
    if (wide) row.insert(row.end(), {Text(item, "generation"), migratable ? "yes" : "no: " + fixed, Text(item, "package").substr(0, 19)});
    return row;
  }
  if (kind == "instances") {
    Row row{Text(item, "id"), Text(item, "service"), Text(item, "shard"), Text(item, "device"), Text(item, "epoch"),
            Text(item, "state"), Text(item, "reason")};
    if (wide) row.push_back(Text(item, "package").substr(0, 19));
    return row;
  }
  if (kind == "migrations") {
    Row row{Text(item, "id"), Text(item, "service"), Text(item, "source"), Text(item, "target"), Text(item, "phase"),
            Milliseconds(item, "downtime_us"), Milliseconds(item, "total_us"), HumanBytes(Number(item, "bytes_sent")), Text(item, "error")};
    if (wide) {
      row.insert(row.end(), {Text(item, "source_isa") + "->" + Text(item, "target_isa"), Text(item, "mode"), Text(item, "reason"),
                             Milliseconds(item, "stop_latency_us"), Text(item, "requests_held"), Text(item, "instance")});
    }
    return row;
  }
  if (kind == "datasets") return {Text(item, "name"), Text(item, "device"), HumanBytes(Number(item, "bytes")), Text(item, "digest").substr(0, 19)};
  double bytes = 0;
  for (const json& blob : Member(item, "blobs")) bytes += Number(blob, "bytes");
  return {Text(item, "digest"), std::to_string(Member(item, "blobs").size()), HumanBytes(bytes), Member(item, "isas").dump()};
}

std::string Join(const Row& row, const std::vector<std::size_t>& widths) {
  std::string line;
  for (std::size_t i = 0; i < row.size(); ++i) {
    line += i + 1 == row.size() ? row[i] : fmt::format("{:<{}}  ", row[i], widths[i]);
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  return line + "\n";
}

std::string NameOf(const std::string& kind, const json& item) {
  return kind.substr(0, kind.size() - 1) + "/" +
         Text(item, kind == "instances" || kind == "migrations" ? "id" : kind == "packages" ? "digest" : "name");
}

std::string YamlScalar(const json& value) {
  if (!value.is_string()) return value.dump();
  const auto& text = value.get_ref<const std::string&>();
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '/' || c == '.';
  }) && std::isalpha(static_cast<unsigned char>(text[0])) && text != "true" && text != "false" && text != "null" &&
                     text != "yes" && text != "no" && text != "on" && text != "off";
  return plain ? text : value.dump();
}

}  // namespace

std::string HumanBytes(double bytes) {
  static constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  while (bytes >= 1024 && unit < 4) bytes /= 1024, ++unit;
  return unit == 0 || bytes == static_cast<double>(static_cast<long long>(bytes)) ? fmt::format("{:.0f} {}", bytes, kUnits[unit])
                                                                                  : fmt::format("{:.1f} {}", bytes, kUnits[unit]);
}

std::string ToYaml(const json& value, int indent) {
  const std::string pad(static_cast<std::size_t>(indent), ' ');
  std::string text;
  if (value.is_object()) {
    for (const auto& [key, member] : value.items()) {
      const bool block = member.is_structured() && !member.empty();
      text += pad + YamlScalar(key) + ":" + (block ? "\n" + ToYaml(member, indent + 2) : " " + YamlScalar(member) + "\n");
    }
  } else if (value.is_array()) {
    for (const json& member : value) {
      if (!member.is_structured() || member.empty()) {
        text += pad + "- " + YamlScalar(member) + "\n";
        continue;
      }
      std::string block = ToYaml(member, indent + 2);
      block[static_cast<std::size_t>(indent)] = '-';
      text += block;
    }
  } else {
    text = pad + YamlScalar(value) + "\n";
  }
  return text;
}

std::string FormatRow(const std::string& kind, const json& item, const std::string& format) {
  if (format == "json") return item.dump() + "\n";
  if (format == "yaml") return "---\n" + ToYaml(item);
  if (format == "name") return NameOf(kind, item) + "\n";
  const Row row = RowOf(kind, item, format == "wide");
  return Join(row, std::vector<std::size_t>(row.size(), 12));
}

std::string FormatTable(const std::vector<Row>& rows) {
  std::vector<std::size_t> widths(rows[0].size());
  for (const Row& row : rows) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string text;
  for (const Row& row : rows) text += Join(row, widths);
  return text;
}

std::string FormatRecords(const std::string& kind, const json& items, const std::string& format) {
  if (format == "json") return json{{"items", items}}.dump(2) + "\n";
  if (format == "yaml") return ToYaml(json{{"items", items}});
  std::string text;
  if (format == "name") {
    for (const json& item : items) text += NameOf(kind, item) + "\n";
    return text;
  }
  std::vector<Row> rows{HeadOf(kind, format == "wide")};
  for (const json& item : items) rows.push_back(RowOf(kind, item, format == "wide"));
  return FormatTable(rows);
}

}  // namespace godwit::cli
