// SHA-256 digests as OCI spells them.
#include <openssl/evp.h>

#include "package/oci.h"
#include "package/package.h"

namespace godwit::package {

std::string Sha256Digest(ByteView bytes) {
  unsigned char hash[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  const int done = EVP_Digest(bytes.data(), bytes.size(), hash, &size, EVP_sha256(), nullptr);
  GODWIT_CHECK(done == 1 && size == 32, "SHA-256 is not available");
  std::string text = "sha256:";
  for (unsigned i = 0; i < size; ++i) {
    text += "0123456789abcdef"[hash[i] >> 4];
    text += "0123456789abcdef"[hash[i] & 15];
  }
  return text;
}

bool IsDigest(std::string_view text) {
  constexpr std::string_view kPrefix = "sha256:";
  return text.size() == kPrefix.size() + 64 && text.starts_with(kPrefix) &&
         text.find_first_not_of("0123456789abcdef", kPrefix.size()) == std::string_view::npos;
}

Status CheckBlob(const Blob& blob) {
  if (const std::string actual = Sha256Digest(blob.bytes); actual != blob.digest) {
    return Corrupt("blob " + blob.digest + " is damaged (its bytes have digest " + actual +
                   "); build or copy the package again");
  }
  return {};
}

}  // namespace godwit::package
