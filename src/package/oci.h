// The JSON documents of an OCI image layout, as far as Godwit's packages use them (OCI image specification 1.0).
//
// Writing is deterministic: keys in alphabetical order, no white space, no times. Reading checks every type and
// every limit; unknown keys are allowed, as the specification demands.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/result.h"
#include "package/isa.h"
#include "package/package.h"

namespace godwit::package {

inline constexpr std::string_view kIndexType = "application/vnd.oci.image.index.v1+json";
inline constexpr std::string_view kManifestType = "application/vnd.oci.image.manifest.v1+json";
inline constexpr std::string_view kConfigType = "application/vnd.oci.image.config.v1+json";
inline constexpr std::string_view kImageLayerType = "application/vnd.godwit.image.v1+elf";
inline constexpr std::string_view kModuleLayerType = "application/vnd.godwit.module.v1+flatbuffers";
inline constexpr std::string_view kWasmLayerType = "application/wasm";
inline constexpr std::string_view kWasmArchitecture = "wasm";

inline constexpr std::string_view kTitleKey = "org.opencontainers.image.title";
inline constexpr std::string_view kSignerKey = "dev.godwit.signature.key";
inline constexpr std::string_view kSignatureKey = "dev.godwit.signature.ed25519";

inline constexpr std::uint64_t kDocumentBytesMax = 1 << 20;  // index.json, index, manifest, config
inline constexpr std::uint64_t kBlobBytesMax = 2ull << 30;   // image, module description, Wasm
inline constexpr std::size_t kManifestsMax = 16;
inline constexpr std::size_t kLayersMax = 16;

struct Descriptor {
  std::string media_type;
  std::string digest;
  std::uint64_t size = 0;
  std::string architecture;  // Of an index's entries; empty elsewhere.
};

// An image index, or index.json.
struct Index {
  std::vector<Descriptor> manifests;
  std::string title;
  std::string signer, signature;  // package/signature.h; empty where there is none.
};

struct Manifest {
  Descriptor config;
  std::vector<Descriptor> layers;
};

// "sha256:" and 64 lower-case hexadecimal digits: nothing that could lead out of a folder.
bool IsDigest(std::string_view text);
// kCorrupt if the bytes do not have the blob's digest.
Status CheckBlob(const Blob& blob);

// "linux" for native code, "wasip1" for the Wasm module.
std::string_view OciOs(std::string_view architecture);
std::string LayoutJson();                                                       // oci-layout
std::string IndexJson(const Index& index);                                      // index.json, image index
std::string ManifestJson(const Manifest& manifest);
std::string ConfigJson(std::string_view architecture, const std::vector<Descriptor>& layers);

// kCorrupt, naming `where`, for anything that is not such a document.
Status CheckLayout(ByteView json, std::string_view where);
Result<Index> ParseIndex(ByteView json, std::string_view where);
Result<Manifest> ParseManifest(ByteView json, std::string_view where);

}  // namespace godwit::package
