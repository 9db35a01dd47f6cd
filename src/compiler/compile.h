// Compiles a Wasm module to native images that can be stopped at any safepoint and resumed on another ISA.
//
// One optimised and instrumented IR serves every ISA of a package, so safepoint N means the same live values
// on each (DESIGN: late safepoints, resume clones). Nothing here runs guest code.
#pragma once

#include <functional>
#include <map>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "package/isa.h"

namespace godwit::compiler {

// Of Wasm code. Larger ones take minutes to optimise.
inline constexpr std::uint64_t kLargeModuleBytes = 6 << 20;

struct Options {
  std::vector<package::Isa> targets;
  int optimisation_level = -1;  // 0..3; -1 picks 3, or 0, the fast level, for modules of more than kLargeModuleBytes.
  bool safepoints = true;       // Off only to measure what they cost: such code cannot be stopped.
  unsigned threads = 0;         // 0: one a core. Does not change the output.
  std::string cache;            // Folder that keeps compiled partitions (compiler/partition_cache.h); empty: none.
  // Called from any compiling thread with work done and in all (in bytes of Wasm code times targets).
  std::function<void(std::uint64_t done, std::uint64_t total, std::string_view phase)> progress;
};

// What a package is made of.
struct Output {
  Bytes wasm;                            // Binary module (translated from text where text was given).
  Bytes module;                          // package/module.fbs
  std::map<package::Isa, Bytes> images;  // ELF shared objects without dynamic relocations; abi::ImageHeader at e_entry.
};

// `source` is a Wasm binary or, if it does not begin with "\0asm", the text format; `name` is for messages.
// Same input and options (but for threads, cache and progress), same bytes. kInvalidArgument names the place in a
// module that does not decode or validate; kUnsupported names the feature.
Result<Output> Compile(ByteView source, std::string_view name, const Options& options);

// Changes whenever the same input would compile to other bytes: part of the compilation cache's key.
std::string Fingerprint();

}  // namespace godwit::compiler
