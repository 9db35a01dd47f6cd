// Any bytes as WASI's part of a snapshot, for a guest whose one folder is an empty one: refused, or loaded; what was loaded can be saved.
#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "fuzz.h"
#include "runtime/wasi.h"

namespace {

// Removed at the end of the process.
struct Folder {
  Folder() {
    char name[] = "/tmp/godwit-wasi-fuzz-XXXXXX";
    GODWIT_CHECK(mkdtemp(name), "no temporary folder");
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string path;
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static const Folder folder;
  runtime::WasiOptions options;
  options.args = {"fuzz"};
  options.preopens = {{folder.path, "/data", false}};
  options.folders_from_snapshot = false;
  const auto wasi = runtime::Wasi::Create(std::move(options));
  GODWIT_CHECK(wasi.ok(), "WASI could not be made");
  if ((*wasi)->Load({data, size}).ok()) GODWIT_CHECK((*wasi)->Save().ok(), "what was loaded cannot be saved");
  return 0;
}
