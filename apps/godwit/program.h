// From a program's file to an opened package: packages as they are, Wasm through the compiler and its cache.
//
// The cache is a folder of packages, $GODWIT_CACHE or ~/.cache/godwit: packages/KEY.gwp, KEY being a digest of
// the Wasm bytes, the options, the targets and the compiler's fingerprint; digests/PACKAGE-DIGEST, which leads there;
// partitions/, of compiler/partition_cache.h; and known/, of package/known_files.h. Entries appear whole; the least recently used are removed past kCacheEntriesMax.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "commands.h"
#include "package/package.h"

namespace godwit::cli {

inline constexpr std::size_t kCacheEntriesMax = 256;
inline constexpr std::uint64_t kProgramBytesMax = 1ull << 30;

struct CompileFlags {
  std::vector<package::Isa> targets;
  int optimisation_level = -1;
  bool safepoints = true;
};

// Compiles the file `path` into the package folder `output`; returns its digest. Shows progress (session).
Result<std::string> CompileTo(const std::filesystem::path& path, const CompileFlags& flags,
                              const std::filesystem::path& output, const Session& session);

// Opens `path`: a package (folder), or a .wasm or .wat file, compiled if the cache does not have it.
Result<std::shared_ptr<const package::Package>> OpenProgram(const std::filesystem::path& path,
                                                            const CompileFlags& flags, const Session& session);

// The cached package of this digest; kNotFound says how to name it.
Result<std::shared_ptr<const package::Package>> FindCachedPackage(const std::string& digest);

// "x86_64,aarch64" to ISAs; kInvalidArgument names one that is unknown.
Result<std::vector<package::Isa>> ParseTargets(const std::vector<std::string>& names);

}  // namespace godwit::cli
