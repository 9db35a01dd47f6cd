#include "device/arguments.h"

#include <fmt/format.h>

namespace godwit::device {

Arguments::Arguments(std::string what, ByteView text) : what_(std::move(what)) {
  document_ = text.empty() ? nlohmann::json::object() : nlohmann::json::parse(text.begin(), text.end(), nullptr, false);
  if (!document_.is_object()) {
    document_ = nlohmann::json::object();
    status_ = InvalidArgument(what_ + ": not a JSON object");
  }
}

const nlohmann::json* Arguments::Find(const char* name) {
  known_.insert(name);
  const auto found = document_.find(name);
  return found != document_.end() && !found->is_null() ? &*found : nullptr;
}

bool Arguments::Has(const char* name) { return Find(name) != nullptr; }

std::string Arguments::Text(const char* name, std::string otherwise) {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (value->is_string()) return value->get<std::string>();
  Fail(name, "must be a text");
  return otherwise;
}

bool Arguments::Flag(const char* name, bool otherwise) {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (value->is_boolean()) return value->get<bool>();
  Fail(name, "must be true or false");
  return otherwise;
}

std::uint64_t Arguments::Number(const char* name, std::uint64_t otherwise, std::uint64_t least, std::uint64_t most) {
  const auto* value = Find(name);
  if (value == nullptr) return otherwise;
  if (value->is_number_unsigned() && value->get<std::uint64_t>() >= least && value->get<std::uint64_t>() <= most) {
    return value->get<std::uint64_t>();
  }
  Fail(name, fmt::format("must be a number from {} to {}", least, most));
  return otherwise;
}

const nlohmann::json& Arguments::List(const char* name, std::size_t most) {
  static const nlohmann::json kEmpty = nlohmann::json::array();
  const auto* value = Find(name);
  if (value == nullptr) return kEmpty;
  if (value->is_array() && value->size() <= most) return *value;
  Fail(name, fmt::format("must be a list of at most {}", most));
  return kEmpty;
}

void Arguments::Fail(std::string_view name, std::string_view problem) {
  if (status_.ok()) status_ = InvalidArgument(fmt::format("{}: '{}' {}", what_, name, problem));
}

Status Arguments::Finish() {
  for (const auto& [name, value] : document_.items()) {
    if (known_.count(name) == 0) Fail(name, "is not known");
  }
  return status_;
}

}  // namespace godwit::device
