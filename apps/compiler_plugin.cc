// The compiler as a plugin: loaded only when something has to be compiled.
#include "compiler_plugin.h"

extern "C" __attribute__((visibility("default"))) const godwit::cli::CompilerPlugin* godwit_compiler_plugin() {
  static constexpr godwit::cli::CompilerPlugin kPlugin = {GODWIT_VERSION, &godwit::compiler::Compile,
                                                          &godwit::compiler::Fingerprint};
  return &kPlugin;
}
