// The arguments and the saved state of built-in functions: JSON objects, each of whose members is asked for by name and type.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::device {

// Keeps the first error; Finish gives it, or names a member that nobody asked for.
class Arguments {
 public:
  // What these bytes are: "arguments of scan"; for messages. No bytes are an empty object.
  Arguments(std::string what, ByteView text);

  bool Has(const char* name);
  std::string Text(const char* name, std::string otherwise);
  bool Flag(const char* name, bool otherwise);
  std::uint64_t Number(const char* name, std::uint64_t otherwise, std::uint64_t least, std::uint64_t most);
  // Of objects, of texts, of numbers, or of lists of these: not looked into.
  const nlohmann::json& List(const char* name, std::size_t most);
  void Fail(std::string_view name, std::string_view problem);
  Status Finish();

 private:
  const nlohmann::json* Find(const char* name);
  const std::string what_;
  nlohmann::json document_;
  std::set<std::string> known_;
  Status status_;
};

}  // namespace godwit::device
