// Checks for bugs in our own code. They stay on in release builds and abort with the place and the reason.
// Never for input: bytes, flags and peers that are wrong get an Error.
#pragma once

#include <string_view>

namespace godwit {

[[noreturn]] void CheckFailed(const char* file, int line, const char* condition, std::string_view message);

}  // namespace godwit

#define GODWIT_CHECK(condition, message) \
  (static_cast<bool>(condition) ? void(0) : ::godwit::CheckFailed(__FILE__, __LINE__, #condition, message))
