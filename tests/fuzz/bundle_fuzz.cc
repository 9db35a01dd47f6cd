// Any bytes as the bundle of a host that moved here: refused, or taken; what was taken can be written again.
#include "agent/bundle.h"
#include "base/check.h"
#include "fuzz.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  const auto bundle = agent::DecodeBundle({data, size});
  if (!bundle.ok()) return 0;
  std::size_t bytes = 0;
  const Status written = agent::EncodeBundle(*bundle, [&](ByteView more) -> Status {
    bytes += more.size();
    return {};
  });
  GODWIT_CHECK(written.ok() && bytes > 0, "what was decoded cannot be encoded");
  return 0;
}
