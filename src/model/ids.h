// Names and numbers that identify things across processes, each of a type of its own so that a device's name is
// never passed where an instance's id is meant.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <ostream>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace godwit::model {

// Text that names one kind of thing. Anything may be put in; CheckName says whether it is a valid name.
template <typename Tag>
struct Name {
  std::string value;
  Name() = default;
  explicit Name(std::string text) : value(std::move(text)) {}
  bool empty() const { return value.empty(); }
  friend auto operator<=>(const Name&, const Name&) = default;
  friend std::ostream& operator<<(std::ostream& out, const Name& name) { return out << name.value; }
};

using DeviceName = Name<struct DeviceTag>;
using ServiceName = Name<struct ServiceTag>;
using InstanceId = Name<struct InstanceTag>;  // "<service>-<shard>-<random>".
using MigrationId = Name<struct MigrationTag>;
using DatasetName = Name<struct DatasetTag>;

// Counts the owners of an instance: 1 at its start, one more at every move. The higher epoch is right.
struct Epoch {
  std::uint64_t value = 0;
  friend auto operator<=>(Epoch, Epoch) = default;
  Epoch Next() const { return {value + 1}; }
};

// Differs each time an agent starts; never 0. As text (JSON, logs) 16 hexadecimal digits.
struct BootId {
  std::uint64_t value = 0;
  friend auto operator<=>(BootId, BootId) = default;
  static BootId Random();  // From the operating system's random source.
  std::string ToString() const;
  static std::optional<BootId> Parse(std::string_view text);
};

inline constexpr std::size_t kNameLengthMax = 63;

// Names of devices, services and datasets are DNS labels (RFC 1123): 1 to 63 of a-z, 0-9 and '-', beginning and
// ending with a letter or digit; datasets may also have '.' and '_' inside. kInvalidArgument says what is wrong;
// `what` names the thing in the message, for example "service name".
Status CheckName(std::string_view what, std::string_view name);
Status CheckDatasetName(std::string_view name);

// A dataset may have parts: datasets "NAME.0", "NAME.1", ..., and "NAME.parts", the text of their number. What this one belongs to, or itself.
DatasetName WholeOf(const DatasetName& dataset);

// `prefix` and a dash and 8 random characters of a-z0-9: ids of instances and migrations.
std::string RandomId(std::string_view prefix);

}  // namespace godwit::model

template <typename Tag>
struct std::hash<godwit::model::Name<Tag>> {
  std::size_t operator()(const godwit::model::Name<Tag>& name) const noexcept {
    return std::hash<std::string>()(name.value);
  }
};
