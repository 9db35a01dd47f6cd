// Writing a package's OCI layout.
#include <unistd.h>

#include <cstdlib>

#include "package/files.h"
#include "base/fresh_file.h"
#include "package/module_check.h"
#include "package/oci.h"
#include "package/package.h"

namespace godwit::package {
namespace {

namespace fs = std::filesystem;

// Puts blobs into the folder, each once, and describes them.
class BlobFolder {
 public:
  explicit BlobFolder(fs::path folder) : folder_(std::move(folder)) {}

  Result<Descriptor> Add(std::string_view media_type, ByteView bytes) {
    Descriptor descriptor{std::string(media_type), Sha256Digest(bytes), bytes.size(), {}};
    const fs::path path = folder_ / descriptor.digest.substr(7);
    std::error_code ignored;
    if (!fs::exists(path, ignored)) GODWIT_TRY(WriteFile(path, bytes));
    return descriptor;
  }

 private:
  fs::path folder_;
};

Result<Descriptor> AddManifest(BlobFolder& blobs, std::string_view architecture, std::vector<Descriptor> layers) {
  Manifest manifest;
  GODWIT_ASSIGN(manifest.config, blobs.Add(kConfigType, AsBytes(ConfigJson(architecture, layers))));
  manifest.layers = std::move(layers);
  GODWIT_ASSIGN(Descriptor descriptor, blobs.Add(kManifestType, AsBytes(ManifestJson(manifest))));
  descriptor.architecture = architecture;
  return descriptor;
}

Result<std::string> WriteLayout(const fs::path& folder, const Contents& contents) {
  std::error_code error;
  fs::create_directories(folder / "blobs" / "sha256", error);
  if (error) return Internal("cannot make " + (folder / "blobs").string() + ": " + error.message());
  BlobFolder blobs(folder / "blobs" / "sha256");
  GODWIT_ASSIGN(const Descriptor module, blobs.Add(kModuleLayerType, contents.module));
  std::vector<Descriptor> manifests;
  for (const auto& [isa, image] : contents.images) {
    GODWIT_ASSIGN(Descriptor layer, blobs.Add(kImageLayerType, image));
    GODWIT_ASSIGN(Descriptor manifest, AddManifest(blobs, OciArchitecture(isa), {layer, module}));
    manifests.push_back(std::move(manifest));
  }
  GODWIT_ASSIGN(Descriptor wasm, blobs.Add(kWasmLayerType, contents.wasm));
  GODWIT_ASSIGN(Descriptor manifest, AddManifest(blobs, kWasmArchitecture, {wasm, module}));
  manifests.push_back(std::move(manifest));
  GODWIT_ASSIGN(Descriptor index, blobs.Add(kIndexType, AsBytes(IndexJson({manifests, contents.name, {}, {}}))));
  GODWIT_TRY(WriteFile(folder / "index.json", AsBytes(IndexJson({{index}, {}, {}, {}}))));
  GODWIT_TRY(WriteFile(folder / "oci-layout", AsBytes(LayoutJson())));
  return index.digest;
}

Status CheckContents(const Contents& contents) {
  GODWIT_ASSIGN(const fbs::Module* module, CheckModule(contents.module));
  if (module->wasm_digest()->str() != Sha256Digest(contents.wasm)) {
    return InvalidArgument("the module description is of other Wasm bytes");
  }
  for (const ByteView blob : {ByteView(contents.wasm), ByteView(contents.module)}) {
    if (blob.size() > kBlobBytesMax) return ResourceExhausted("a package's parts may have at most 2 GiB each");
  }
  for (const auto& [isa, image] : contents.images) {
    if (image.size() > kBlobBytesMax) return ResourceExhausted("a package's parts may have at most 2 GiB each");
  }
  return {};
}

}  // namespace

Result<std::string> WritePackage(const fs::path& path, const Contents& contents) {
  GODWIT_TRY(CheckContents(contents));
  fs::path target = path.lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  std::error_code ignored;
  if (fs::exists(target, ignored)) {
    if (!fs::is_directory(target, ignored)) return FailedPrecondition(target.string() + " is not a folder");
    if (!fs::is_empty(target, ignored) && !fs::exists(target / "oci-layout", ignored)) {
      return FailedPrecondition(target.string() + " is a folder with other things in it; choose another name");
    }
  }
  GODWIT_ASSIGN(const fs::path made, MakeFolderBeside(target));
  auto finish = [&]() -> Result<std::string> {
    GODWIT_ASSIGN(std::string digest, WriteLayout(made, contents));
    fs::permissions(made, fs::perms(0755), ignored);
    GODWIT_TRY(ReplaceFolder(made, target));
    return digest;
  };
  Result<std::string> result = finish();
  if (!result.ok()) fs::remove_all(made, ignored);
  return result;
}

}  // namespace godwit::package
