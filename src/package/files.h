// Files of a package: read-only mappings, and folders and files that appear complete or not at all.
#pragma once

#include <filesystem>

#include "base/bytes.h"
#include "base/result.h"
#include "package/package.h"

namespace godwit::package {

// Maps the regular file `path` read-only; the digest is left empty. kNotFound; kCorrupt if it is larger than
// `size_max` or no regular file.
Result<Blob> MapFile(const std::filesystem::path& path, std::uint64_t size_max);

// Creates `path` with these bytes. kResourceExhausted names a full disk.
Status WriteFile(const std::filesystem::path& path, ByteView bytes);

// Moves the finished folder `made` to `path` in one step, replacing a folder that is there. `made` is on the
// same file system. On failure both are as before.
Status ReplaceFolder(const std::filesystem::path& made, const std::filesystem::path& path);

}  // namespace godwit::package
