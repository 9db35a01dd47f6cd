// Any bytes: Decode refuses or accepts, and what it accepts encodes again. Since random bytes never pass the
// hash, inputs are tried as they are and with a hash and a length that fit.
#include <openssl/evp.h>

#include <cstring>

#include "base/check.h"
#include "fuzz.h"
#include "snapshot/layout.h"
#include "snapshot/snapshot.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace godwit;
  (void)snapshot::Decode({data, size});
  if (size < sizeof(snapshot::Header) + snapshot::kHashBytes) return 0;
  Bytes encoded(data, data + size);
  snapshot::Header header;
  std::memcpy(&header, encoded.data(), sizeof header);
  std::memcpy(header.magic, snapshot::kMagic, sizeof header.magic);
  header.version = snapshot::kFormatVersion;
  header.reserved = 0;
  header.file_bytes = size;
  std::memcpy(encoded.data(), &header, sizeof header);
  EVP_Digest(encoded.data(), size - snapshot::kHashBytes, encoded.data() + size - snapshot::kHashBytes, nullptr,
             EVP_sha256(), nullptr);
  const auto decoded = snapshot::Decode(encoded);
  if (decoded.ok()) GODWIT_CHECK(snapshot::EncodeToBytes(*decoded).ok(), "what was decoded cannot be encoded");
  return 0;
}
