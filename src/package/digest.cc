// SHA-256 digests as OCI spells them.
//
// OpenSSL's EVP interface looks its providers up at the first use, which takes longer than `godwit run` needs for the
// rest of its start; the plain functions compute the same.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include "package/oci.h"
#include "package/package.h"

namespace godwit::package {

std::string Sha256Digest(ByteView bytes) {
  unsigned char hash[SHA256_DIGEST_LENGTH];
  SHA256_CTX context;
  const bool done = SHA256_Init(&context) == 1 && SHA256_Update(&context, bytes.data(), bytes.size()) == 1 &&
                    SHA256_Final(hash, &context) == 1;
  GODWIT_CHECK(done, "SHA-256 failed");
  std::string text = "sha256:";
  for (unsigned i = 0; i < sizeof hash; ++i) {
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
