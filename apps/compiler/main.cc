// godwit-compiler: the compiler as a process of its own, run by `godwit` when something has to be compiled.
//
// It is apart because linking LLVM costs every process about 50 ms at its start, and because a module that
// breaks the compiler then breaks nothing else. Module on standard input, records on standard output
// (apps/compiler/protocol.h). Not meant to be run by hand.
#include <cstdio>
#include <iostream>
#include <iterator>
#include <mutex>

#include "protocol.h"
#include "sandbox/sandbox.h"

namespace godwit::cli {
namespace {

std::mutex output_mutex;

void Put(CompilerRecord kind, ByteView bytes) {
  const std::uint64_t size = bytes.size();
  std::fwrite(&kind, 1, 1, stdout);
  std::fwrite(&size, 1, sizeof size, stdout);
  std::fwrite(bytes.data(), 1, bytes.size(), stdout);
}

int Fail(const Error& error) {
  Bytes bytes{static_cast<std::uint8_t>(error.code)};
  bytes.insert(bytes.end(), error.message.begin(), error.message.end());
  Put(CompilerRecord::kError, bytes);
  return std::fflush(stdout) == 0 ? 1 : 2;
}

// godwit-compiler NAME LEVEL SAFEPOINTS CACHE TARGET...
int Run(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--fingerprint") {
    std::puts(compiler::Fingerprint().c_str());
    return 0;
  }
  // Modules are strangers': whatever one makes of this process, it is kept here.
  if (const Status limited = sandbox::LimitCompiler(); !limited.ok()) return Fail(limited.error());
  if (const auto entered = sandbox::Enter(sandbox::Role::kCompiler); !entered.ok()) return Fail(entered.error());
  if (argc < 6) return Fail(InvalidArgument("godwit-compiler is run by godwit, not by hand"));
  compiler::Options options;
  options.optimisation_level = std::atoi(argv[2]);
  options.safepoints = std::string_view(argv[3]) == "1";
  options.cache = argv[4];
  for (int i = 5; i < argc; ++i) {
    const auto isa = package::ParseIsa(argv[i]);
    if (!isa) return Fail(InvalidArgument(std::string("unknown target ") + argv[i]));
    options.targets.push_back(*isa);
  }
  options.progress = [](std::uint64_t done, std::uint64_t total, std::string_view phase) {
    Bytes bytes(16);
    std::memcpy(bytes.data(), &done, 8);
    std::memcpy(bytes.data() + 8, &total, 8);
    bytes.insert(bytes.end(), phase.begin(), phase.end());
    std::lock_guard lock(output_mutex);
    Put(CompilerRecord::kProgress, bytes);
    std::fflush(stdout);
  };
  const Bytes source{std::istreambuf_iterator<char>(std::cin), {}};
  auto output = compiler::Compile(source, argv[1], options);
  if (!output.ok()) return Fail(output.error());
  Put(CompilerRecord::kWasm, output->wasm);
  Put(CompilerRecord::kModule, output->module);
  for (const auto& [isa, image] : output->images) {
    const std::uint8_t number = static_cast<std::uint8_t>(isa);
    Put(CompilerRecord::kIsa, {&number, 1});
    Put(CompilerRecord::kImage, image);
  }
  Put(CompilerRecord::kDone, {});
  return std::fflush(stdout) == 0 ? 0 : 2;
}

}  // namespace
}  // namespace godwit::cli

int main(int argc, char** argv) { return godwit::cli::Run(argc, argv); }
