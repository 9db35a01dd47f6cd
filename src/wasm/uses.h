// Which features a module's code uses that decide how the rest of it must be compiled.
#pragma once

#include <wabt/ir.h>

#include <vector>

namespace godwit::wasm {

struct Uses {
  bool exceptions = false;        // It has tags, or tries, or throws.
  std::vector<bool> tail_calls;   // By function, imports too: whether its body ends in calls that take its place.
};

// Of a validated module.
Uses FindUses(const wabt::Module& module);

}  // namespace godwit::wasm
