// Blobs: content-addressed files, each checked against its digest before it has its name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/result.h"

namespace godwit::control {

inline constexpr ByteCount kBlobBytesMax = 2_GiB;

// True for "sha256:" and 64 lower-case hexadecimal digits.
bool IsDigest(std::string_view text);

// Self-synchronised.
class Blobs {
 public:
  // Makes the folder. Files that an earlier process left half-written are removed.
  static Result<std::unique_ptr<Blobs>> Open(std::filesystem::path folder);

  // A blob that is coming in. Guarded by its user. Without Finish nothing stays.
  class Writer {
   public:
    virtual ~Writer() = default;
    // kResourceExhausted: larger than kBlobBytesMax, or the disk is full.
    virtual Status Append(std::string_view bytes) = 0;
    // The blob is there under its digest. kCorrupt: the bytes have another digest.
    virtual Status Finish() = 0;
  };
  // kInvalidArgument: not a digest.
  Result<std::unique_ptr<Writer>> Write(const std::string& digest);

  // kNotFound.
  Result<ByteCount> SizeOf(const std::string& digest) const;
  Result<std::filesystem::path> PathOf(const std::string& digest) const;
  // The whole blob, if it is at most `limit` (kResourceExhausted).
  Result<std::string> Read(const std::string& digest, ByteCount limit) const;

 private:
  explicit Blobs(std::filesystem::path folder) : folder_(std::move(folder)) {}
  std::filesystem::path NameOf(const std::string& digest) const { return folder_ / digest.substr(7); }

  const std::filesystem::path folder_;
};

}  // namespace godwit::control
