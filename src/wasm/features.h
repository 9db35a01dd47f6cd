// The features of libwabt's reader and validator that are on: those that the compiler translates or refuses by name.
#pragma once

#include <wabt/feature.h>

namespace godwit::wasm {

inline wabt::Features SupportedFeatures() {
  wabt::Features features;
  features.enable_bulk_memory();
  features.enable_reference_types();
  features.enable_tail_call();
  features.enable_exceptions();
  features.enable_extended_const();
  return features;
}

}  // namespace godwit::wasm
