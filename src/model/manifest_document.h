// The one strict reader of manifests: TOML and JSON both become this document first.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/result.h"
#include "model/manifest.h"

namespace godwit::model {

// Lines of keys by dotted path ("trigger.http[0].route"); empty for JSON, whose errors name the path alone.
using KeyLines = std::map<std::string, int>;

// kInvalidArgument names the key's line (where known) and path.
Result<Manifest> ReadManifest(const nlohmann::json& document, const KeyLines& lines, const std::string& file);

}  // namespace godwit::model
