// What this machine offers that Godwit makes use of: each found out by trying, never by version numbers.
#pragma once

#include <string>
#include <vector>

namespace godwit::cli {

struct Probe {
  std::string name;
  bool available = false;
  std::string detail;   // What was found, or why it is not there.
  std::string used_for;
  std::string instead;  // What is done without it.
};

// Tries everything once. Leaves nothing behind.
std::vector<Probe> ProbeMachine();

}  // namespace godwit::cli
