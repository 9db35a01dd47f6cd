#include "agent/package_cache.h"

#include <unistd.h>

#include <cstdio>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "base/fresh_file.h"
#include "package/files.h"

namespace godwit::agent {

namespace fs = std::filesystem;

namespace {

constexpr std::uint64_t kDocumentBytesMax = 1 << 20;
constexpr std::uint64_t kBlobBytesMax = 2ull << 30;

// The digests that a document of the package names: of the manifests for this ISA, or of a manifest's parts.
std::vector<std::string> Named(ByteView bytes, bool index) {
  std::vector<std::string> digests;
  const auto document = nlohmann::json::parse(AsText(bytes), nullptr, false);
  const auto add = [&](const nlohmann::json& descriptor) {
    const auto digest = descriptor.is_object() ? descriptor.find("digest") : descriptor.end();
    if (descriptor.is_object() && digest != descriptor.end() && digest->is_string()) digests.push_back(*digest);
  };
  const char* member = index ? "manifests" : "layers";
  if (!document.is_object() || !document.contains(member) || !document[member].is_array()) return digests;
  for (const auto& descriptor : document[member]) {
    if (index) {
      if (!descriptor.is_object() || !descriptor.contains("platform") || !descriptor["platform"].is_object()) continue;
      const auto architecture = descriptor["platform"].find("architecture");
      if (architecture == descriptor["platform"].end() || !architecture->is_string()) continue;
      if (package::ParseIsa(architecture->get<std::string>()) != package::HostIsa()) continue;
    }
    add(descriptor);
  }
  if (!index && document.contains("config")) add(document["config"]);
  return digests;
}

}  // namespace

Result<std::unique_ptr<PackageCache>> PackageCache::Create(const fs::path& folder, Fetch fetch,
                                                          std::shared_ptr<const package::TrustedKeys> trusted) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return Internal(folder.string() + ": " + error.message());
  return std::unique_ptr<PackageCache>(new PackageCache(folder, std::move(fetch), std::move(trusted)));
}

Result<package::Blob> PackageCache::Get(const std::string& digest, std::uint64_t size_max) {
  constexpr std::size_t kDigestLength = 7 + 64;
  if (digest.size() != kDigestLength || digest.compare(0, 7, "sha256:") != 0 ||
      digest.find_first_not_of("0123456789abcdef", 7) != std::string::npos) {
    return InvalidArgument("not a digest: " + digest);
  }
  const fs::path path = folder_ / digest.substr(7);
  std::error_code error;
  if (!fs::exists(path, error)) {
    GODWIT_ASSIGN(FreshFile made, MakeFileBeside(path));
    const fs::path& fresh = made.path;
    std::uint64_t total = 0;
    Status status = fetch_(digest, [&](ByteView bytes) -> Status {
      total += bytes.size();
      if (total > size_max) return Corrupt("blob " + digest + " is larger than it may be");
      return WriteAll(made.file.get(), bytes, fresh.string());
    });
    if (status.ok()) {
      const auto written = package::MapFile(fresh, size_max);
      if (!written.ok()) status = written.error();
      else if (package::Sha256Digest(written->bytes) != digest) status = Corrupt("blob " + digest + " came with other bytes");
    }
    if (status.ok()) fs::rename(fresh, path, error);
    if (!status.ok() || error) {
      std::error_code ignored;
      fs::remove(fresh, ignored);
      if (!status.ok()) return status.error();
      return Internal(path.string() + ": " + error.message());
    }
  }
  auto blob = package::MapFile(path, size_max);
  if (!blob.ok()) return blob.error();
  blob->digest = digest;
  return blob;
}

Result<std::shared_ptr<const runtime::LoadedModule>> PackageCache::Load(const std::string& digest) {
  const std::lock_guard lock(mutex_);
  if (auto loaded = loaded_[digest].lock()) return loaded;
  GODWIT_ASSIGN(const package::Blob index, Get(digest, kDocumentBytesMax));
  std::map<std::string, package::Blob> blobs{{digest, index}};
  for (const std::string& manifest_digest : Named(index.bytes, true)) {
    GODWIT_ASSIGN(const package::Blob manifest, Get(manifest_digest, kDocumentBytesMax));
    blobs.emplace(manifest_digest, manifest);
    for (const std::string& part : Named(manifest.bytes, false)) {
      GODWIT_ASSIGN(package::Blob blob, Get(part, kBlobBytesMax));
      blobs.emplace(part, std::move(blob));
    }
  }
  if (blobs.size() == 1) {
    return Unsupported(fmt::format("package {} has no code for {}", digest, package::IsaName(package::HostIsa())));
  }
  GODWIT_ASSIGN(auto package, package::Package::FromBlobs(digest, blobs));
  if (trusted_) GODWIT_TRY(trusted_->Check(*package));
  GODWIT_ASSIGN(auto module, runtime::LoadedModule::Load(std::move(package)));
  loaded_[digest] = module;
  return module;
}

}  // namespace godwit::agent
