// Any bytes as a binary Wasm module: refused with a reason, or read; what was read has the sections that the compiler follows. Not
// as text: libwabt 1.0.32 asserts on some that is cut short, which ends the compiler's process.
#include "base/check.h"
#include "fuzz.h"
#include "wasm/module.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  constexpr std::string_view kMagic("\0asm", 4);
  if (!AsText({data, size}).starts_with(kMagic)) return 0;
  const auto module = wasm::Read({data, size}, "fuzz");
  if (!module.ok()) {
    GODWIT_CHECK(!module.error().message.empty(), "refused without a reason");
    return 0;
  }
  for (const auto& section : module->sections) {
    GODWIT_CHECK(section.offset <= module->binary.size() && section.bytes <= module->binary.size() - section.offset, "a section outside its module");
  }
  std::size_t at = module->first_body;
  for (std::size_t i = 0; i < module->body_bytes.size(); ++i) {
    GODWIT_CHECK(wasm::ReadLeb(module->binary, at) == module->body_bytes[i], "a body where none is");
    at += module->body_bytes[i];
    GODWIT_CHECK(at <= module->binary.size(), "a body outside its module");
    (void)module->FunctionName(static_cast<std::uint32_t>(i));
  }
  return 0;
}
