#include "package/package.h"

#include <algorithm>

#include "package/files.h"
#include "package/module_check.h"
#include "package/oci.h"

namespace godwit::package {

namespace fs = std::filesystem;

namespace {

// What is remembered of a file whose content was found to be what a digest says, and a valid module description.
std::string RightFact(const Blob& blob) { return "is " + blob.digest; }
std::string ModuleFact(const Blob& blob) { return "describes a module, " + blob.digest; }

// One blob's file, and what is known of it.
class Acquaintance {
 public:
  Acquaintance(const std::optional<KnownFiles>& known, const Blob& blob) : known_(known) {
    const bool worth = known && blob.fd >= 0 && blob.offset == 0 && blob.bytes.size() >= KnownFiles::kWorthRemembering;
    if (worth) sight_ = KnownFiles::Look(blob.fd);
  }
  bool Knows(const std::string& fact) const { return known_ && known_->Recall(sight_, fact).has_value(); }
  void Remember(const std::string& fact) const {
    if (known_) known_->Remember(sight_, fact, "yes");
  }

 private:
  const std::optional<KnownFiles>& known_;
  KnownFiles::Sight sight_;
};

}  // namespace

// Walks from the index to the layers, gathers the blobs, and checks what must be believed at once.
class PackageReader {
 public:
  PackageReader(Package& package, const Package::Source& source) : package_(package), source_(source) {}

  Status Read(const std::string& index_digest) {
    if (!IsDigest(index_digest)) return InvalidArgument("not a package digest: " + index_digest);
    package_.digest_ = index_digest;
    GODWIT_ASSIGN(std::optional<Blob> index, source_(index_digest, kDocumentBytesMax));
    if (!index) return NotFound("the package's index " + index_digest + " is missing");
    GODWIT_TRY(CheckBlob(*index));
    package_.blobs_.push_back(*index);
    GODWIT_ASSIGN(const Index parsed, ParseIndex(index->bytes, "package index"));
    package_.signer_ = parsed.signer;
    for (const Descriptor& manifest : parsed.manifests) GODWIT_TRY(ReadPlatform(manifest));
    if (!package_.module_) return Corrupt("package " + index_digest + " holds no complete platform");
    return {};
  }

 private:
  Status ReadPlatform(const Descriptor& descriptor) {
    const std::optional<Isa> isa = ParseIsa(descriptor.architecture);
    if (descriptor.media_type != kManifestType || (!isa && descriptor.architecture != kWasmArchitecture)) {
      return Corrupt("package index: an entry for an unknown platform '" + descriptor.architecture + "'");
    }
    GODWIT_ASSIGN(std::optional<Blob> blob, Find(descriptor, kDocumentBytesMax));
    if (!blob) return {};
    GODWIT_TRY(CheckBlob(*blob));
    GODWIT_ASSIGN(const Manifest manifest, ParseManifest(blob->bytes, "manifest " + descriptor.digest));
    std::vector<Blob> found{*blob};
    std::vector<std::string> needed{package_.digest_, descriptor.digest};
    std::optional<Blob> image, module, wasm;
    GODWIT_ASSIGN(std::optional<Blob> config, Find(manifest.config, kDocumentBytesMax));
    if (!config) return Missing(manifest.config);
    GODWIT_TRY(CheckBlob(*config));
    found.push_back(*config);
    needed.push_back(config->digest);
    for (const Descriptor& layer : manifest.layers) {
      GODWIT_ASSIGN(std::optional<Blob> part, Find(layer, kBlobBytesMax));
      if (!part) return Missing(layer);
      found.push_back(*part);
      needed.push_back(part->digest);
      if (layer.media_type == kImageLayerType) image = part;
      if (layer.media_type == kModuleLayerType) module = part;
      if (layer.media_type == kWasmLayerType) wasm = part;
    }
    if (!module || (isa ? !image : !wasm)) return Corrupt("manifest " + descriptor.digest + " lacks a layer");
    GODWIT_TRY(TakeModule(*module));
    if (wasm) {
      if (package_.module_->wasm_digest()->str() != wasm->digest) {
        return Corrupt("the module description is of other Wasm bytes");
      }
      package_.wasm_ = *wasm;
    }
    if (isa) {
      if (!package_.images_.emplace(*isa, *image).second) {
        return Corrupt("package index: two entries for " + std::string(IsaName(*isa)));
      }
      package_.needed_[*isa] = std::move(needed);
    }
    for (Blob& item : found) {
      const bool known = std::any_of(package_.blobs_.begin(), package_.blobs_.end(),
                                     [&](const Blob& other) { return other.digest == item.digest; });
      if (!known) package_.blobs_.push_back(std::move(item));
    }
    return {};
  }

  // The module description is one for all platforms.
  Status TakeModule(const Blob& module) {
    if (package_.module_) {
      if (package_.module_blob_.digest != module.digest) return Corrupt("platforms have different descriptions");
      return {};
    }
    const Acquaintance file(package_.known_, module);
    if (file.Knows(ModuleFact(module))) {
      package_.module_ = fbs::GetModule(module.bytes.data());
    } else {
      GODWIT_TRY(CheckBlob(module));
      GODWIT_ASSIGN(package_.module_, CheckModule(module.bytes));
      file.Remember(ModuleFact(module));
    }
    package_.module_blob_ = module;
    return {};
  }

  Result<std::optional<Blob>> Find(const Descriptor& descriptor, std::uint64_t size_max) {
    GODWIT_ASSIGN(std::optional<Blob> blob, source_(descriptor.digest, size_max));
    if (blob && blob->bytes.size() != descriptor.size) {
      return Corrupt("blob " + descriptor.digest + " has " + std::to_string(blob->bytes.size()) +
                     " bytes instead of " + std::to_string(descriptor.size));
    }
    return blob;
  }

  static Error Missing(const Descriptor& descriptor) {
    return Corrupt("blob " + descriptor.digest + " (" + descriptor.media_type + ") is missing");
  }

  Package& package_;
  const Package::Source& source_;
};

Result<std::shared_ptr<const Package>> Package::Load(const std::string& index_digest, const Source& source,
                                                     const KnownFiles* known) {
  std::shared_ptr<Package> package(new Package());
  if (known) package->known_.emplace(*known);
  GODWIT_TRY(PackageReader(*package, source).Read(index_digest));
  return std::shared_ptr<const Package>(std::move(package));
}

Result<std::shared_ptr<const Package>> Package::Open(const fs::path& path, const KnownFiles* known) {
  std::error_code error;
  if (!fs::exists(path, error)) return NotFound(path.string() + ": no such package");
  auto open = [&]() -> Result<std::shared_ptr<const Package>> {
    const Result<Blob> layout = MapFile(path / "oci-layout", kDocumentBytesMax);
    if (!layout.ok()) return Corrupt("not a package (an OCI image layout has a file oci-layout)");
    GODWIT_TRY(CheckLayout(layout->bytes, "oci-layout"));
    GODWIT_ASSIGN(const Blob index, MapFile(path / "index.json", kDocumentBytesMax));
    GODWIT_ASSIGN(const Index parsed, ParseIndex(index.bytes, "index.json"));
    const std::vector<Descriptor>& entries = parsed.manifests;
    if (entries.size() != 1 || entries[0].media_type != kIndexType) {
      return Corrupt("index.json does not name one image index; copy packages with 'skopeo copy --all'");
    }
    return Load(entries[0].digest, [&](const std::string& digest, std::uint64_t size_max) -> Result<std::optional<Blob>> {
      Result<Blob> blob = MapFile(path / "blobs" / "sha256" / digest.substr(7), size_max);
      if (!blob.ok()) {
        return blob.error().code == ErrorCode::kNotFound ? Corrupt("blob " + digest + " is missing") : blob.error();
      }
      blob->digest = digest;
      return std::optional<Blob>(std::move(*blob));
    }, known);
  };
  Result<std::shared_ptr<const Package>> package = open();
  if (!package.ok()) return package.error().Within(path.string());
  return package;
}

Result<std::shared_ptr<const Package>> Package::FromBlobs(const std::string& index_digest,
                                                          const std::map<std::string, Blob>& blobs) {
  return Load(index_digest, [&](const std::string& digest, std::uint64_t size_max) -> Result<std::optional<Blob>> {
    const auto found = blobs.find(digest);
    if (found == blobs.end()) return std::optional<Blob>();
    if (found->second.bytes.size() > size_max) {
      return Corrupt("blob " + digest + " is larger than " + std::to_string(size_max) + " bytes");
    }
    Blob blob = found->second;
    blob.digest = digest;
    return std::optional<Blob>(std::move(blob));
  }, nullptr);
}

std::vector<Isa> Package::isas() const {
  std::vector<Isa> isas;
  for (const auto& [isa, image] : images_) isas.push_back(isa);
  return isas;
}

Result<Blob> Package::image(Isa isa) const {
  const auto found = images_.find(isa);
  if (found == images_.end()) {
    std::string have;
    for (const auto& [other, image] : images_) have += (have.empty() ? "" : ", ") + std::string(IsaName(other));
    return Unsupported("the package has no native code for " + std::string(IsaName(isa)) + " (it has: " +
                       (have.empty() ? "none" : have) + "); build it with --target " + std::string(IsaName(isa)));
  }
  const std::lock_guard lock(mutex_);
  if (!checked_.contains(isa)) {
    const Acquaintance file(known_, found->second);
    if (!file.Knows(RightFact(found->second))) {
      GODWIT_TRY(CheckBlob(found->second));
      file.Remember(RightFact(found->second));
    }
    checked_.insert(isa);
  }
  return found->second;
}

std::vector<std::string> Package::BlobsFor(Isa isa) const {
  const auto found = needed_.find(isa);
  return found == needed_.end() ? std::vector<std::string>() : found->second;
}

Status Package::CheckBlobs() const {
  for (const Blob& blob : blobs_) GODWIT_TRY(CheckBlob(blob));
  return {};
}

}  // namespace godwit::package
