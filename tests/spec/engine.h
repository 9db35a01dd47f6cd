// Runs one test script on the engine: compiles its modules, links and instantiates them, and judges its assertions.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "script.h"

namespace godwit::spec {

struct Settings {
  int level = 1;        // Of optimisation; -1: what the compiler picks.
  bool stress = false;  // Each call runs also in a copy of its instance that is stopped, encoded, dropped and resumed.
};

struct Report {
  std::uint64_t passed = 0;
  std::vector<std::string> failures;                // "line 12: what was expected and what came"
  std::map<std::string, std::uint64_t> not_runnable;  // Assertions by reason.
  std::uint64_t stops = 0;                          // Round trips through a snapshot.
};

Report RunScript(std::string_view source, const Settings& settings);

}  // namespace godwit::spec
