// Any text as a record of the metadata store, which peers and the API's callers send: refused with a reason, or read; what was read is
// written and read again the same.
#include <string_view>

#include "base/check.h"
#include "fuzz.h"
#include "model/records.h"

namespace {

template <typename Record>
void Try(std::string_view text) {
  const auto record = Record::FromJson(text);
  if (!record.ok()) return;
  const std::string written = record->ToJson();
  const auto again = Record::FromJson(written);
  GODWIT_CHECK(again.ok() && again->ToJson() == written, "a record changed on its way");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit::model;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  Try<DeviceRecord>(text);
  Try<PackageRecord>(text);
  Try<ServiceRecord>(text);
  Try<InstanceRecord>(text);
  Try<MigrationRecord>(text);
  Try<DatasetRecord>(text);
  return 0;
}
