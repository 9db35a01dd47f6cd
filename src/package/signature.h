// Package signatures: Ed25519 (RFC 8032) over what a package's index says, which names every part by its digest.
//
// The signature is an annotation of the image index, so that it is wherever the package is: in registries, caches,
// snapshots. Keys are PEM files as `openssl genpkey -algorithm ed25519` and `openssl pkey -pubout` write them.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "base/result.h"
#include "package/package.h"

struct evp_pkey_st;

namespace godwit::package {

inline constexpr std::size_t kTrustedKeysMax = 256;
inline constexpr std::uint64_t kKeyFileBytesMax = 1 << 20;

struct FreeKey {
  void operator()(evp_pkey_st* key) const;
};
using Key = std::unique_ptr<evp_pkey_st, FreeKey>;

// The private key in a file. kNotFound, kInvalidArgument (no Ed25519 private key).
Result<Key> LoadSigningKey(const std::filesystem::path& file);
// Signs the package in folder `path`; an earlier signature is replaced. Returns the package's new digest. Same package
// and key, same bytes. Errors as of Package::Open. On failure the package is as it was.
Result<std::string> SignPackage(const std::filesystem::path& path, const Key& key);

// Public keys that packages must be signed with. Immutable, shared between threads.
class TrustedKeys {
 public:
  // From a file of one or more public keys. kNotFound, kInvalidArgument for anything in it that is no Ed25519 key.
  static Result<TrustedKeys> Load(const std::filesystem::path& file);
  // kPermissionDenied, saying why, unless one of the keys has signed the package.
  Status Check(const Package& package) const;

 private:
  std::map<std::string, Key> keys_;  // By their ids: the first 16 digits of the SHA-256 of their DER form.
};

}  // namespace godwit::package
