#include "bench_kernels.h"

#include <elf.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string_view>

#include "bench.h"
#include "package/package.h"
#include "subprocess.h"

namespace godwit::cli {
namespace {

namespace fs = std::filesystem;

using Words = std::vector<std::string>;

Words operator+(Words words, const Words& more) {
  words.insert(words.end(), more.begin(), more.end());
  return words;
}

}  // namespace

Result<std::vector<fs::path>> KernelSources(const fs::path& folder, const std::vector<std::string>& only) {
  std::vector<fs::path> sources;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const bool chosen = only.empty() || std::find(only.begin(), only.end(), entry.path().stem()) != only.end();
    const fs::path ending = entry.path().extension();
    if ((ending == ".c" || ending == ".cc") && chosen) sources.push_back(entry.path());
  }
  std::sort(sources.begin(), sources.end());
  if (sources.empty()) {
    return NotFound("no such kernels in " + folder.string() + "; name the source tree's bench folder with --source");
  }
  return sources;
}

Result<Kernel> BuildKernel(const fs::path& source, const fs::path& folder, Vectors vectors) {
  Kernel kernel;
  kernel.name = source.stem().string();
  kernel.base = (folder / kernel.name).string();
  const std::string& base = kernel.base;
  const bool cxx = source.extension() == ".cc";
  const std::string driver = cxx ? "clang++-19" : "clang-19";
  Words common = {"-O3", "-ffp-contract=off"};
  if (cxx) common = common + Words{"-std=c++20", "-fno-exceptions"};
  Words wasm = {"--target=wasm32-wasi", "-mbulk-memory", "-msign-ext", "-mnontrapping-fptoint"};
  if (vectors == Vectors::kSimd128) wasm.push_back("-msimd128");
  // Compiled and linked apart: with -O, the linking clang would run Binaryen's optimiser where that is
  // installed.
  GODWIT_TRY(RunOrFail(Words{driver} + common + wasm + Words{"-c", source.string(), "-o", base + ".o"}));
  GODWIT_TRY(RunOrFail({driver, "--target=wasm32-wasi", base + ".o", "-o", base + ".wasm", "-lm"}));
  GODWIT_TRY(RunOrFail(Words{driver} + common + Words{source.string(), "-o", base + ".native", "-lm"}));
  const Words build = {OwnPath(), "build", base + ".wasm", "--target", kThisIsa, "-o"};
  GODWIT_TRY(RunOrFail(build + Words{base + ".on.gwp"}));
  GODWIT_TRY(RunOrFail(build + Words{base + ".off.gwp", "--no-safepoints"}));
  kernel.commands[kOurs] = {OwnPath(), "run", base + ".on.gwp"};
  kernel.commands[kWithout] = {OwnPath(), "run", base + ".off.gwp"};
  kernel.commands[kNative] = {base + ".native"};
  return kernel;
}

Status ReadRounds(Kernel& kernel, const std::string& variant, const std::string& output) {
  std::istringstream lines(output);
  std::string checksum;
  for (double ns; lines >> ns >> checksum;) {
    kernel.samples[variant].values.push_back(ns / 1e6);
    if (kernel.checksum.empty()) kernel.checksum = checksum;
    if (checksum != kernel.checksum) {
      return Internal(fmt::format("{} ({}) computed {}, not {}", kernel.name, variant, checksum, kernel.checksum));
    }
  }
  if (!kernel.Has(variant)) return Internal(fmt::format("{} ({}) printed no times", kernel.name, variant));
  return {};
}

Status Measure(Kernel& kernel, const std::string& variant) {
  GODWIT_ASSIGN(const Finished finished, RunProcess(kernel.commands[variant], Complaints::kPassOn));
  if (finished.code != 0) {
    return Internal(fmt::format("{} ({}) ended with code {}", kernel.name, variant, finished.code));
  }
  return ReadRounds(kernel, variant, finished.output);
}

// --- Peers ---

namespace {

// node:wasi with V8's optimising compiler alone: its first tier would be what short kernels measure.
constexpr std::string_view kNodeScript = R"(import { WASI } from 'node:wasi';
import { readFileSync } from 'node:fs';
const wasi = new WASI({ version: 'preview1', args: [process.argv[2]], env: {}, returnOnExit: true });
const module = await WebAssembly.compile(readFileSync(process.argv[2]));
const instance = await WebAssembly.instantiate(module, wasi.getImportObject());
process.exitCode = wasi.start(instance);
)";

struct Engine {
  const char* name;
  Words version;
  Words compile;  // Empty: none. %W the module, %A the compiled file, %D the scratch folder.
  Words run;
};

const std::vector<Engine>& Engines() {
  static const std::vector<Engine> engines = {
      {"v8", {"node", "--version"}, {}, {"node", "--no-warnings", "--no-liftoff", "--no-wasm-lazy-compilation", "%D/wasi.mjs", "%W"}},
      {"wasmtime", {"wasmtime", "--version"}, {"wasmtime", "compile", "%W", "-o", "%A"}, {"wasmtime", "run", "--allow-precompiled", "%A"}},
      {"wasmer", {"wasmer", "--version"}, {}, {"wasmer", "run", "--llvm", "%W"}},
      {"wamr", {"iwasm", "--version"}, {"wamrc", "-o", "%A", "%W"}, {"iwasm", "%A"}},
      {"wasmedge", {"wasmedge", "--version"}, {"wasmedge", "compile", "%W", "%A"}, {"wasmedge", "%A"}},
  };
  return engines;
}

Words Fill(const Words& words, const std::string& folder, const Kernel& kernel, const std::string& peer) {
  Words filled;
  for (std::string word : words) {
    const auto replace = [&](std::string_view key, const std::string& value) {
      if (const auto at = word.find(key); at != std::string::npos) word.replace(at, key.size(), value);
    };
    replace("%W", kernel.base + ".wasm");
    replace("%A", kernel.base + "." + peer);
    replace("%D", folder);
    filled.push_back(word);
  }
  return filled;
}

}  // namespace

std::vector<Peer> FindPeers() {
  std::vector<Peer> peers;
  for (const Engine& engine : Engines()) {
    const auto said = RunProcess(engine.version, Complaints::kDrop);
    if (said.ok() && said->code == 0) peers.push_back({engine.name, said->output.substr(0, said->output.find('\n'))});
  }
  return peers;
}

void PreparePeer(const Peer& peer, const fs::path& folder, Kernel& kernel) {
  for (const Engine& engine : Engines()) {
    if (peer.name != engine.name) continue;
    if (peer.name == "v8") std::ofstream(folder / "wasi.mjs") << kNodeScript;
    if (!engine.compile.empty()) {
      const Status compiled = RunOrFail(Fill(engine.compile, folder.string(), kernel, peer.name));
      if (!compiled.ok()) {
        kernel.left_out[peer.name] = compiled.error().message;
        return;
      }
    }
    kernel.commands[peer.name] = Fill(engine.run, folder.string(), kernel, peer.name);
  }
}

// --- Code ---

Result<CodeSizes> MeasureCode(const fs::path& path) {
  GODWIT_ASSIGN(const auto package, package::Package::Open(path));
  GODWIT_ASSIGN(const package::Blob image, package->image(package::HostIsa()));
  const ByteView bytes = image.bytes;
  const auto inside = [&](std::uint64_t offset, std::uint64_t size) { return offset <= bytes.size() && size <= bytes.size() - offset; };
  Elf64_Ehdr header;
  if (!inside(0, sizeof header)) return Internal("an image without a header");
  std::memcpy(&header, bytes.data(), sizeof header);
  const auto section = [&](std::uint32_t index) {
    Elf64_Shdr found{};
    const std::uint64_t at = header.e_shoff + std::uint64_t{index} * sizeof found;
    if (inside(at, sizeof found)) std::memcpy(&found, bytes.data() + at, sizeof found);
    return found;
  };
  const Elf64_Shdr names = section(header.e_shstrndx);
  constexpr std::string_view kHot(".text\0", 6);
  CodeSizes sizes;
  for (std::uint32_t i = 0; i < header.e_shnum; ++i) {
    const Elf64_Shdr code = section(i);
    if (!(code.sh_flags & SHF_EXECINSTR) || !inside(names.sh_offset + code.sh_name, kHot.size())) continue;
    const std::string_view name(reinterpret_cast<const char*>(bytes.data() + names.sh_offset + code.sh_name), kHot.size());
    (name == kHot ? sizes.hot : sizes.cold) += code.sh_size;
  }
  if (sizes.hot == 0) return Internal("the image in " + path.string() + " has no code");
  return sizes;
}

}  // namespace godwit::cli
