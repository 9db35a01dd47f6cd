// Packages: an OCI image layout that holds a Wasm module and native code per ISA.
//
// Layout (docs/formats/package.md): oci-layout, index.json, blobs/sha256/*. The index has one manifest per
// platform, whose layers are the native image (ELF) and the module description (module.fbs), and one for the
// Wasm bytes. Blobs are stored uncompressed so that images are mapped, not copied. Documents and the module
// description are checked (digest, FlatBuffer, consistency) before a Package exists, an image when it is asked for.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "package/isa.h"
#include "package/known_files.h"
#include "package/module_generated.h"

namespace godwit::package {

// Read-only bytes that stay where they are while the Blob lives. If `fd` >= 0 they are also at `offset`
// (a multiple of 64 KiB for images) of that file, and may be mapped from it.
struct Blob {
  std::string digest;  // "sha256:<hex>"
  ByteView bytes;
  int fd = -1;
  std::uint64_t offset = 0;
  std::shared_ptr<const void> keep;  // Owns the bytes and the descriptor.
};

// "sha256:<hex>" of the bytes.
std::string Sha256Digest(ByteView bytes);

// Immutable, shared between threads.
class Package {
 public:
  // Opens the layout in folder `path`. kNotFound, kCorrupt (names the blob), kUnsupported (another ABI version).
  // With `known`, a large blob that was found right before and is in the same file is not read again (see there).
  static Result<std::shared_ptr<const Package>> Open(const std::filesystem::path& path, const KnownFiles* known = nullptr);
  // From blobs by digest, `index_digest` being the image index: as carried by a snapshot or received from a peer.
  // Platforms may be missing, with all their blobs, as may the Wasm module; one platform must be complete.
  static Result<std::shared_ptr<const Package>> FromBlobs(const std::string& index_digest,
                                                          const std::map<std::string, Blob>& blobs);

  // Digest of the image index: the package's identity.
  const std::string& digest() const { return digest_; }
  const fbs::Module& module() const { return *module_; }
  // The id of the key it says it was signed with (package/signature.h); empty if it is not signed.
  const std::string& signer() const { return signer_; }
  // The Wasm bytes as stored (CheckBlobs checks them); empty where they were not brought along.
  ByteView wasm() const { return wasm_.bytes; }
  std::vector<Isa> isas() const;
  // The native image for `isa`, its digest checked; kUnsupported (naming what there is) if the package has none,
  // kCorrupt if it is damaged. `offset` and `fd` are as in the blob it was made from.
  Result<Blob> image(Isa isa) const;
  // Every blob, the index first: what must be copied for the package to be complete elsewhere.
  const std::vector<Blob>& blobs() const { return blobs_; }
  // The digests that a device of `isa` needs: index, its manifest and config, image, module description.
  std::vector<std::string> BlobsFor(Isa isa) const;
  // Checks every blob's digest: kCorrupt names the first damaged one.
  Status CheckBlobs() const;

 private:
  // Finds a blob of the given digest, or nothing where it may be missing.
  using Source = std::function<Result<std::optional<Blob>>(const std::string& digest, std::uint64_t size_max)>;
  Package() = default;
  static Result<std::shared_ptr<const Package>> Load(const std::string& index_digest, const Source& source,
                                                     const KnownFiles* known);
  friend class PackageReader;

  std::string digest_, signer_;
  const fbs::Module* module_ = nullptr;
  Blob wasm_, module_blob_;
  std::map<Isa, Blob> images_;
  std::vector<Blob> blobs_;
  std::map<Isa, std::vector<std::string>> needed_;
  std::optional<KnownFiles> known_;
  mutable std::mutex mutex_;  // Guards checked_.
  mutable std::set<Isa> checked_;
};

struct Contents {
  std::string name;
  Bytes wasm;
  Bytes module;
  std::map<Isa, Bytes> images;
};

// Writes the layout to folder `path` (made; an existing package there is replaced only when all is written).
// Same contents, same bytes. Returns the package's digest. On failure `path` is unchanged.
Result<std::string> WritePackage(const std::filesystem::path& path, const Contents& contents);

}  // namespace godwit::package
