#include <nlohmann/json.hpp>
#include "model/toml.h"

#include "model/manifest_document.h"

namespace godwit::model {
namespace {

nlohmann::json TreeOf(const toml::node& node, const std::string& path, KeyLines& lines) {
  lines.emplace(path, static_cast<int>(node.source().begin.line));
  if (const auto* table = node.as_table()) {
    nlohmann::json object = nlohmann::json::object();
    for (const auto& [key, value] : *table) {
      const std::string name(key.str());
      const std::string inner = path.empty() ? name : path + "." + name;
      lines[inner] = static_cast<int>(key.source().begin.line);
      object[name] = TreeOf(value, inner, lines);
    }
    return object;
  }
  if (const auto* array = node.as_array()) {
    nlohmann::json list = nlohmann::json::array();
    for (std::size_t i = 0; i < array->size(); ++i) {
      list.push_back(TreeOf((*array)[i], path + "[" + std::to_string(i) + "]", lines));
    }
    return list;
  }
  if (const auto* text = node.as_string()) return text->get();
  if (const auto* number = node.as_integer()) return number->get();
  if (const auto* number = node.as_floating_point()) return number->get();
  if (const auto* flag = node.as_boolean()) return flag->get();
  return nullptr;  // Dates and times: no key takes one, so the reader refuses it as of the wrong type.
}

}  // namespace

Result<Manifest> Manifest::FromToml(std::string_view text, std::string_view file) {
  if (text.size() > kManifestBytesMax) {
    return InvalidArgument(std::string(file) + ": a manifest has at most " + std::to_string(kManifestBytesMax) + " bytes");
  }
  KeyLines lines;
  nlohmann::json document;
  try {
    const toml::table table = toml::parse(text, file);
    document = TreeOf(table, "", lines);
  } catch (const toml::parse_error& error) {
    return InvalidArgument(std::string(file) + ":" + std::to_string(error.source().begin.line) + ": " +
                           std::string(error.description()));
  } catch (const std::runtime_error& error) {
    return InvalidArgument(std::string(file) + ": " + error.what());
  }
  return ReadManifest(document, lines, std::string(file));
}

}  // namespace godwit::model
