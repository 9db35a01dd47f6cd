// toml++, with its assertions on input turned into exceptions: version 3.3.0 asserts on some malformed keys,
// and a manifest must never end the process. Catch std::exception, of which toml::parse_error is one.
#pragma once

#include <stdexcept>

#define TOML_ASSERT(condition) \
  ((condition) ? void(0) : throw std::runtime_error("malformed TOML near the end of the text or an invalid key"))
#pragma GCC diagnostic ignored "-Wterminate"  // Where it would throw through noexcept it ends the process, as before.
#include <toml++/toml.h>
