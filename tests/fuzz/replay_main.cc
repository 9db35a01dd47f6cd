// Runs a fuzz target over the files of its corpus, every prefix of the small ones, and every one with single
// bytes changed: what unit tests can afford without libFuzzer.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <vector>

#include "fuzz.h"

namespace {

using Input = std::vector<std::uint8_t>;

constexpr std::size_t kVariantsMax = 400;  // Of each kind and file.

void RunOn(const Input& input) {
  LLVMFuzzerTestOneInput(input.data(), input.size());
  const std::size_t step = input.size() / kVariantsMax + 1;
  for (std::size_t size = 0; size < input.size(); size += step) {
    const Input prefix(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(size));
    LLVMFuzzerTestOneInput(prefix.data(), prefix.size());
  }
  Input changed = input;
  for (std::size_t at = 0; at < input.size(); at += step) {
    for (const std::uint8_t with : {0x00, 0x01, 0x7f, 0xff}) {
      changed[at] = with;
      LLVMFuzzerTestOneInput(changed.data(), changed.size());
    }
    changed[at] = input[at];
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::size_t files = 0;
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::recursive_directory_iterator(argv[i])) {
      if (!entry.is_regular_file()) continue;
      std::ifstream in(entry.path(), std::ios::binary);
      RunOn(Input(std::istreambuf_iterator<char>(in), {}));
      ++files;
    }
  }
  std::printf("%zu files\n", files);
  return files == 0 ? 1 : 0;
}
