// How records are shown: tables for people, JSON, YAML or names for programs.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace godwit::cli {

// Records of one kind in the format of -o; a JSON or YAML answer is {"items": [...]}.
std::string FormatRecords(const std::string& kind, const nlohmann::json& items, const std::string& format);
// One line of the table of that kind, without its head; for watches.
std::string FormatRow(const std::string& kind, const nlohmann::json& item, const std::string& format);
// Columns as wide as they must be; the first row is the head.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);
std::string ToYaml(const nlohmann::json& value, int indent = 0);
// "64 MiB", "1.5 GiB".
std::string HumanBytes(double bytes);

}  // namespace godwit::cli
