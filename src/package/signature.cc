#include "package/signature.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include "package/files.h"
#include "package/oci.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kSignatureBytes = 64;

struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};
struct FreeDigest {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// The first words keep a signature from meaning anything else.
std::string Signed(const Index& index) { return "godwit package 1\n" + IndexJson({index.manifests, index.title, {}, {}}); }

std::string IdOf(evp_pkey_st* key) {
  unsigned char* der = nullptr;
  const int bytes = i2d_PUBKEY(key, &der);
  GODWIT_CHECK(bytes > 0, "a public key could not be encoded");
  const std::string id = Sha256Digest({der, static_cast<std::size_t>(bytes)}).substr(7, 16);
  OPENSSL_free(der);
  return id;
}

std::string ToBase64(ByteView bytes) {
  std::string text((bytes.size() + 2) / 3 * 4 + 1, '\0');
  text.resize(static_cast<std::size_t>(
      EVP_EncodeBlock(reinterpret_cast<unsigned char*>(text.data()), bytes.data(), static_cast<int>(bytes.size()))));
  return text;
}

// Empty if it is not the base64 of `bytes` bytes.
Bytes FromBase64(std::string_view text, std::size_t bytes) {
  if (text.size() != (bytes + 2) / 3 * 4) return {};
  Bytes decoded(text.size() / 4 * 3);
  if (EVP_DecodeBlock(decoded.data(), reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size())) < 0) return {};
  decoded.resize(bytes);
  return decoded;
}

Result<std::unique_ptr<BIO, FreeBio>> OpenKeyFile(const fs::path& path, Blob& file) {
  GODWIT_ASSIGN(file, MapFile(path, kKeyFileBytesMax));
  const void* bytes = file.bytes.empty() ? "" : static_cast<const void*>(file.bytes.data());
  std::unique_ptr<BIO, FreeBio> bio(BIO_new_mem_buf(bytes, static_cast<int>(file.bytes.size())));
  GODWIT_CHECK(bio != nullptr, "out of memory");
  return bio;
}

// Never asks for a password on a terminal.
int NoPassword(char*, int, int, void*) { return -1; }

Bytes Sign(evp_pkey_st* key, std::string_view text) {
  const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
  Bytes signature(kSignatureBytes);
  std::size_t bytes = signature.size();
  const ByteView message = AsBytes(text);
  const bool done = context != nullptr && EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key) == 1 &&
                    EVP_DigestSign(context.get(), signature.data(), &bytes, message.data(), message.size()) == 1;
  GODWIT_CHECK(done && bytes == kSignatureBytes, "signing failed");
  return signature;
}

bool Verify(evp_pkey_st* key, std::string_view text, ByteView signature) {
  const std::unique_ptr<EVP_MD_CTX, FreeDigest> context(EVP_MD_CTX_new());
  const ByteView message = AsBytes(text);
  return context != nullptr && EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, key) == 1 &&
         EVP_DigestVerify(context.get(), signature.data(), signature.size(), message.data(), message.size()) == 1;
}

}  // namespace

void FreeKey::operator()(evp_pkey_st* key) const { EVP_PKEY_free(key); }

Result<Key> LoadSigningKey(const fs::path& path) {
  Blob file;
  GODWIT_ASSIGN(const auto bio, OpenKeyFile(path, file));
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, &NoPassword, nullptr));
  if (key == nullptr || EVP_PKEY_get_id(key.get()) != EVP_PKEY_ED25519) {
    return InvalidArgument(path.string() + " holds no Ed25519 private key; make one with 'openssl genpkey -algorithm ed25519'");
  }
  return key;
}

Result<std::string> SignPackage(const fs::path& path, const Key& key) {
  GODWIT_ASSIGN(const auto package, Package::Open(path));
  GODWIT_ASSIGN(Index index, ParseIndex(package->blobs().front().bytes, "package index"));
  index.signer = IdOf(key.get());
  index.signature = ToBase64(Sign(key.get(), Signed(index)));
  const std::string json = IndexJson(index);
  const Descriptor descriptor{std::string(kIndexType), Sha256Digest(AsBytes(json)), json.size(), {}};
  if (descriptor.digest == package->digest()) return descriptor.digest;
  const fs::path blobs = path / "blobs" / "sha256";
  std::error_code error;
  fs::remove(blobs / descriptor.digest.substr(7), error);  // Left by an attempt that was interrupted.
  GODWIT_TRY(WriteFile(blobs / descriptor.digest.substr(7), AsBytes(json)));
  fs::remove(path / "index.json.new", error);
  GODWIT_TRY(WriteFile(path / "index.json.new", AsBytes(IndexJson({{descriptor}, {}, {}, {}}))));
  fs::rename(path / "index.json.new", path / "index.json", error);
  if (error) return Internal((path / "index.json").string() + ": " + error.message());
  fs::remove(blobs / package->digest().substr(7), error);
  return descriptor.digest;
}

Result<TrustedKeys> TrustedKeys::Load(const fs::path& file) {
  Blob content;
  GODWIT_ASSIGN(const auto bio, OpenKeyFile(file, content));
  const auto bad = [&](std::string_view what) {
    return InvalidArgument(file.string() + ": " + std::string(what) +
                           "; it holds the public keys to trust, each as 'openssl pkey -pubout' writes it");
  };
  TrustedKeys trusted;
  while (BIO_pending(bio.get()) > 0) {
    Key key(PEM_read_bio_PUBKEY(bio.get(), nullptr, &NoPassword, nullptr));
    if (key == nullptr) {
      if (!trusted.keys_.empty() && BIO_pending(bio.get()) == 0) break;  // Only text was left.
      return bad("not a public key in PEM form");
    }
    if (EVP_PKEY_get_id(key.get()) != EVP_PKEY_ED25519) return bad("a key that is not Ed25519");
    if (trusted.keys_.size() == kTrustedKeysMax) return bad("more than 256 keys");
    std::string id = IdOf(key.get());
    trusted.keys_.emplace(std::move(id), std::move(key));
  }
  if (trusted.keys_.empty()) return bad("no key");
  return trusted;
}

Status TrustedKeys::Check(const Package& package) const {
  GODWIT_ASSIGN(const Index index, ParseIndex(package.blobs().front().bytes, "package index"));
  const auto refused = [&](const std::string& why) {
    return PermissionDenied("package " + package.digest() + " " + why + "; sign it with 'godwit build --sign', or trust its key");
  };
  if (index.signature.empty()) return refused("is not signed, and only signed packages are trusted here");
  const auto key = keys_.find(index.signer);
  if (key == keys_.end()) return refused("is signed by key '" + index.signer.substr(0, 16) + "', which is not trusted here");
  const Bytes signature = FromBase64(index.signature, kSignatureBytes);
  if (signature.empty() || !Verify(key->second.get(), Signed(index), signature)) return refused("has a signature that does not fit it");
  return {};
}

}  // namespace godwit::package
