// Any text as a manifest: refused with a reason, or accepted.
#include <string_view>

#include "fuzz.h"
#include "model/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  (void)godwit::model::Manifest::FromToml(text, "fuzz.toml");
  (void)godwit::model::Manifest::FromJson(text);
  return 0;
}
