#include "package/oci.h"

#include <nlohmann/json.hpp>

namespace godwit::package {
namespace {

using Json = nlohmann::json;

Json DescriptorJson(const Descriptor& descriptor) {
  Json json = {{"mediaType", descriptor.media_type}, {"digest", descriptor.digest}, {"size", descriptor.size}};
  if (!descriptor.architecture.empty()) {
    json["platform"] = {{"architecture", descriptor.architecture}, {"os", OciOs(descriptor.architecture)}};
  }
  return json;
}

Error Bad(std::string_view where, std::string_view what) {
  return Corrupt(std::string(where) + ": " + std::string(what));
}

Result<Json> ParseObject(ByteView bytes, std::string_view where) {
  if (bytes.size() > kDocumentBytesMax) return Bad(where, "larger than 1 MiB");
  Json json = Json::parse(bytes.begin(), bytes.end(), nullptr, false);
  if (json.is_discarded() || !json.is_object()) return Bad(where, "not a JSON object");
  return json;
}

std::string Text(const Json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_string() ? found->get<std::string>() : std::string();
}

Result<Descriptor> ParseDescriptor(const Json& json, std::string_view where) {
  if (!json.is_object()) return Bad(where, "a descriptor is not an object");
  Descriptor descriptor;
  descriptor.media_type = Text(json, "mediaType");
  descriptor.digest = Text(json, "digest");
  if (!IsDigest(descriptor.digest)) return Bad(where, "a descriptor's digest is not sha256 with 64 digits");
  const auto size = json.find("size");
  if (size == json.end() || !size->is_number_unsigned()) return Bad(where, "a descriptor has no size");
  descriptor.size = size->get<std::uint64_t>();
  if (descriptor.size > kBlobBytesMax) return Bad(where, "a blob is said to be larger than 2 GiB");
  if (const auto platform = json.find("platform"); platform != json.end() && platform->is_object()) {
    descriptor.architecture = Text(*platform, "architecture");
  }
  return descriptor;
}

Result<std::vector<Descriptor>> ParseDescriptors(const Json& object, const char* key, std::size_t max,
                                                 std::string_view where) {
  const auto list = object.find(key);
  if (list == object.end() || !list->is_array()) return Bad(where, std::string("no list '") + key + "'");
  if (list->size() > max) return Bad(where, std::string("more than ") + std::to_string(max) + " " + key);
  std::vector<Descriptor> descriptors;
  for (const Json& item : *list) {
    GODWIT_ASSIGN(Descriptor descriptor, ParseDescriptor(item, where));
    descriptors.push_back(std::move(descriptor));
  }
  return descriptors;
}

}  // namespace

std::string_view OciOs(std::string_view architecture) {
  return architecture == kWasmArchitecture ? "wasip1" : "linux";
}

std::string LayoutJson() { return Json{{"imageLayoutVersion", "1.0.0"}}.dump(); }

std::string IndexJson(const Index& index) {
  Json json = {{"schemaVersion", 2}, {"mediaType", kIndexType}, {"manifests", Json::array()}};
  for (const Descriptor& manifest : index.manifests) json["manifests"].push_back(DescriptorJson(manifest));
  const auto annotate = [&](std::string_view key, const std::string& value) {
    if (!value.empty()) json["annotations"][std::string(key)] = value;
  };
  annotate(kTitleKey, index.title);
  annotate(kSignerKey, index.signer);
  annotate(kSignatureKey, index.signature);
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ManifestJson(const Manifest& manifest) {
  Json json = {{"schemaVersion", 2},
               {"mediaType", kManifestType},
               {"config", DescriptorJson(manifest.config)},
               {"layers", Json::array()}};
  for (const Descriptor& layer : manifest.layers) json["layers"].push_back(DescriptorJson(layer));
  return json.dump();
}

std::string ConfigJson(std::string_view architecture, const std::vector<Descriptor>& layers) {
  Json diff_ids = Json::array();
  for (const Descriptor& layer : layers) diff_ids.push_back(layer.digest);
  return Json{{"architecture", architecture},
              {"os", OciOs(architecture)},
              {"config", Json::object()},
              {"rootfs", {{"type", "layers"}, {"diff_ids", diff_ids}}}}
      .dump();
}

Status CheckLayout(ByteView bytes, std::string_view where) {
  GODWIT_ASSIGN(const Json json, ParseObject(bytes, where));
  if (!Text(json, "imageLayoutVersion").starts_with("1.")) return Bad(where, "not an OCI image layout of version 1");
  return {};
}

Result<Index> ParseIndex(ByteView bytes, std::string_view where) {
  GODWIT_ASSIGN(const Json json, ParseObject(bytes, where));
  Index index;
  GODWIT_ASSIGN(index.manifests, ParseDescriptors(json, "manifests", kManifestsMax, where));
  if (const auto annotations = json.find("annotations"); annotations != json.end() && annotations->is_object()) {
    index.title = Text(*annotations, std::string(kTitleKey).c_str());
    index.signer = Text(*annotations, std::string(kSignerKey).c_str());
    index.signature = Text(*annotations, std::string(kSignatureKey).c_str());
  }
  return index;
}

Result<Manifest> ParseManifest(ByteView bytes, std::string_view where) {
  GODWIT_ASSIGN(const Json json, ParseObject(bytes, where));
  Manifest manifest;
  const auto config = json.find("config");
  if (config == json.end()) return Bad(where, "no config");
  GODWIT_ASSIGN(manifest.config, ParseDescriptor(*config, where));
  GODWIT_ASSIGN(manifest.layers, ParseDescriptors(json, "layers", kLayersMax, where));
  return manifest;
}

}  // namespace godwit::package
