// What the compiler's plugin (lib/libgodwit_compiler.so) offers to `godwit`.
//
// Both are built together, by one compiler and from one revision: the table passes C++ objects. A plugin of
// another build is refused by its version.
#pragma once

#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"
#include "compiler/compile.h"

namespace godwit::cli {

struct CompilerPlugin {
  const char* version;  // GODWIT_VERSION
  Result<compiler::Output> (*compile)(ByteView source, std::string_view name, const compiler::Options& options);
  std::string (*fingerprint)();
};

// The plugin's one symbol.
inline constexpr char kCompilerPluginEntry[] = "godwit_compiler_plugin";
using CompilerPluginEntry = const CompilerPlugin* (*)();

}  // namespace godwit::cli
