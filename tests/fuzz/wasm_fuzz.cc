// Any bytes as a binary Wasm module: refused with a reason, or read; what was read has the sections that the compiler follows.
//
// libwabt 1.0.32 asserts on some malformed modules and on some text that is cut short. The compiler is a process of its own, which
// that ends; here such an input counts as refused, so that what lies behind it is reached, and text is left out.
#include <csetjmp>

#include "base/check.h"
#include "fuzz.h"
#include "wasm/module.h"

namespace {

std::jmp_buf asserted;

void Check(const godwit::wasm::Module& module) {
  for (const auto& section : module.sections) {
    GODWIT_CHECK(section.offset <= module.binary.size() && section.bytes <= module.binary.size() - section.offset, "a section outside its module");
  }
  std::size_t at = module.first_body;
  for (std::size_t i = 0; i < module.body_bytes.size(); ++i) {
    GODWIT_CHECK(godwit::wasm::ReadLeb(module.binary, at) == module.body_bytes[i], "a body where none is");
    at += module.body_bytes[i];
    GODWIT_CHECK(at <= module.binary.size(), "a body outside its module");
    (void)module.FunctionName(static_cast<std::uint32_t>(i));
  }
}

}  // namespace

// The C library's, of which assert() is made.
extern "C" [[noreturn]] void __assert_fail(const char*, const char*, unsigned, const char*) noexcept { std::longjmp(asserted, 1); }

// What an assertion left is not freed.
extern "C" const char* __asan_default_options() { return "detect_leaks=0"; }

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr std::string_view kMagic("\0asm", 4);
  if (!godwit::AsText({data, size}).starts_with(kMagic) || setjmp(asserted) != 0) return 0;
  const auto module = godwit::wasm::Read({data, size}, "fuzz");
  if (module.ok()) Check(*module);
  else GODWIT_CHECK(!module.error().message.empty(), "refused without a reason");
  return 0;
}
