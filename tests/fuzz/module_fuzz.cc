// Any bytes as a module description: refused, or every index that the runtime follows is in range.
#include "base/check.h"
#include "fuzz.h"
#include "package/module_check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  const Bytes aligned(data, data + size);
  const auto module = package::CheckModule(aligned);
  if (!module.ok()) return 0;
  const fbs::Module& m = **module;
  for (std::uint32_t i = 0; i + 1 < m.functions()->size(); ++i) {
    (void)m.types()->Get(m.functions()->Get(i)->type())->params()->size();
    for (std::uint32_t s = m.functions()->Get(i)->safepoints_begin(); s < m.functions()->Get(i + 1)->safepoints_begin(); ++s) {
      const fbs::Safepoint* safepoint = m.safepoints()->Get(s);
      for (std::uint32_t p = safepoint->pointers_begin(); p < safepoint->pointers_end(); ++p) {
        GODWIT_CHECK(m.pointer_offsets()->Get(p) < safepoint->payload_bytes(), "a pointer outside its frame");
      }
    }
  }
  return 0;
}
