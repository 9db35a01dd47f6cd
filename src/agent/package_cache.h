// PackageCache: the packages this device has, as blobs in a content-addressed folder. Only what this device's ISA
// needs is fetched; every blob is checked against its digest before it is believed.
#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "package/package.h"
#include "package/signature.h"
#include "runtime/instance.h"

namespace godwit::agent {

// Self-synchronised; blocks.
class PackageCache {
 public:
  // Gets a blob by its digest, wherever from, piece by piece.
  using Fetch = std::function<Status(const std::string& digest, const std::function<Status(ByteView)>& sink)>;
  // With `trusted`, packages that none of the keys has signed are refused (kPermissionDenied).
  static Result<std::unique_ptr<PackageCache>> Create(const std::filesystem::path& folder, Fetch fetch,
                                                      std::shared_ptr<const package::TrustedKeys> trusted = nullptr);

  // The package's code for this ISA, mapped and checked. kUnsupported if it has none; kUnavailable, kNotFound from
  // fetching; kCorrupt.
  Result<std::shared_ptr<const runtime::LoadedModule>> Load(const std::string& digest);

 private:
  PackageCache(std::filesystem::path folder, Fetch fetch, std::shared_ptr<const package::TrustedKeys> trusted)
      : folder_(std::move(folder)), fetch_(std::move(fetch)), trusted_(std::move(trusted)) {}
  Result<package::Blob> Get(const std::string& digest, std::uint64_t size_max);

  const std::filesystem::path folder_;
  const Fetch fetch_;
  const std::shared_ptr<const package::TrustedKeys> trusted_;
  std::mutex mutex_;
  std::map<std::string, std::weak_ptr<const runtime::LoadedModule>> loaded_;
};

}  // namespace godwit::agent
