// Any bytes as WASI's part of a snapshot, for a guest whose one folder is an empty one: refused, or loaded; what was loaded can be saved.
#include <cstdlib>
#include <filesystem>

#include "base/check.h"
#include "base/fresh_file.h"
#include "fuzz.h"
#include "runtime/wasi.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  static const TemporaryFolder folder = TemporaryFolder::Create().value();  // Removed at the end of the process.
  runtime::WasiOptions options;
  options.args = {"fuzz"};
  options.preopens = {{folder.path(), "/data", false}};
  options.folders_from_snapshot = false;
  const auto wasi = runtime::Wasi::Create(std::move(options));
  GODWIT_CHECK(wasi.ok(), "WASI could not be made");
  if ((*wasi)->Load({data, size}).ok()) GODWIT_CHECK((*wasi)->Save().ok(), "what was loaded cannot be saved");
  return 0;
}
