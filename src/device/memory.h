// Function data memory (FDM): what requests allocate on a device, and who may use which part of it.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/bytes.h"
#include "base/result.h"
#include "device/request.h"

namespace godwit::device {

// Self-synchronised. What was resolved stays until it is dropped, also past Free.
class FunctionMemory {
 public:
  using Clock = std::chrono::steady_clock;
  // At most `most` in all and `per_tenant` for one tenant.
  FunctionMemory(ByteCount most, ByteCount per_tenant);

  // `unused_for`: after so long without use it may be freed, for the next allocation; 0: never. kResourceExhausted, naming which limit; kInvalidArgument for 0 bytes.
  Result<Capability> Allocate(const std::string& tenant, std::uint64_t bytes, std::chrono::microseconds unused_for = {}, Clock::time_point now = Clock::now());
  // kPermissionDenied unless it is the whole allocation with all rights; kNotFound.
  Status Free(const Capability& capability);
  // Another capability for a part, with at most the rights of the given one.
  Result<Capability> Grant(const Range& range, Rights rights);

  struct Piece {
    std::shared_ptr<Bytes> memory;  // Keeps `bytes` valid.
    std::span<std::uint8_t> bytes;
  };
  // A use of it. kPermissionDenied: not sealed by this device, or not for `rights`; kNotFound: freed; kInvalidArgument: beyond its part.
  Result<Piece> Resolve(const Range& range, Rights rights, Clock::time_point now = Clock::now());

  ByteCount used() const;
  std::size_t allocations() const;

 private:
  struct Allocation {
    std::shared_ptr<Bytes> memory;
    std::string tenant;
    std::chrono::microseconds unused_for;
    Clock::time_point used;
  };
  using Allocations = std::map<std::uint64_t, Allocation>;
  std::array<std::uint8_t, 16> Seal(const Capability& capability) const;
  Status Check(const Capability& capability) const;
  // With the lock; the next one.
  Allocations::iterator Erase(Allocations::iterator allocation);

  const ByteCount most_, per_tenant_;
  std::array<std::uint8_t, 32> secret_;
  mutable std::mutex mutex_;
  std::uint64_t next_ = 1, used_ = 0;
  Allocations allocations_;
  std::map<std::string, std::uint64_t> of_tenant_;
};

}  // namespace godwit::device
