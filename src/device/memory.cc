#include "device/memory.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <cstring>
#include <iterator>

#include <fmt/format.h>

#include "base/check.h"

namespace godwit::device {

FunctionMemory::FunctionMemory(ByteCount most, ByteCount per_tenant) : most_(most), per_tenant_(per_tenant) {
  GODWIT_CHECK(RAND_bytes(secret_.data(), static_cast<int>(secret_.size())) == 1, "the system gives no random bytes");
}

// HMAC-SHA-256 (RFC 2104), its first 128 bits, over the capability's fields in order, little-endian.
std::array<std::uint8_t, 16> FunctionMemory::Seal(const Capability& capability) const {
  std::array<std::uint8_t, 25> text;
  std::memcpy(text.data(), &capability.memory, 8);
  std::memcpy(text.data() + 8, &capability.offset, 8);
  std::memcpy(text.data() + 16, &capability.bytes, 8);
  text[24] = static_cast<std::uint8_t>(capability.rights);
  std::array<std::uint8_t, EVP_MAX_MD_SIZE> mac;
  unsigned size = 0;
  GODWIT_CHECK(HMAC(EVP_sha256(), secret_.data(), static_cast<int>(secret_.size()), text.data(), text.size(), mac.data(), &size) != nullptr,
               "HMAC failed");
  std::array<std::uint8_t, 16> seal;
  std::memcpy(seal.data(), mac.data(), seal.size());
  return seal;
}

Status FunctionMemory::Check(const Capability& capability) const {
  const auto seal = Seal(capability);
  if (CRYPTO_memcmp(seal.data(), capability.seal.data(), seal.size()) != 0) {
    return PermissionDenied("a capability that this device has not sealed, or that was changed");
  }
  return {};
}

FunctionMemory::Allocations::iterator FunctionMemory::Erase(Allocations::iterator allocation) {
  const std::uint64_t bytes = allocation->second.memory->size();
  used_ -= bytes;
  const auto of_tenant = of_tenant_.find(allocation->second.tenant);
  of_tenant->second -= bytes;
  if (of_tenant->second == 0) of_tenant_.erase(of_tenant);
  return allocations_.erase(allocation);
}

Result<Capability> FunctionMemory::Allocate(const std::string& tenant, std::uint64_t bytes, std::chrono::microseconds unused_for, Clock::time_point now) {
  if (bytes == 0) return InvalidArgument("an allocation needs at least one byte");
  Capability capability;
  const std::lock_guard lock(mutex_);
  for (auto one = allocations_.begin(); one != allocations_.end();) {
    const Allocation& allocation = one->second;
    one = allocation.unused_for.count() != 0 && now - allocation.used >= allocation.unused_for ? Erase(one) : std::next(one);
  }
  const auto found = of_tenant_.find(tenant);
  const std::uint64_t of_tenant = found != of_tenant_.end() ? found->second : 0;
  if (bytes > most_.value - used_ || (!tenant.empty() && bytes > per_tenant_.value - std::min(per_tenant_.value, of_tenant))) {
    return ResourceExhausted(fmt::format("{} bytes asked for: {} of {} bytes of function memory are used, by '{}' {} of {}", bytes, used_,
                                         most_.value, tenant, of_tenant, per_tenant_.value));
  }
  capability = {next_++, 0, bytes, Rights::kReadWrite, {}};
  capability.seal = Seal(capability);
  allocations_[capability.memory] = {std::make_shared<Bytes>(bytes), tenant, unused_for, now};
  used_ += bytes;
  of_tenant_[tenant] += bytes;
  return capability;
}

Status FunctionMemory::Free(const Capability& capability) {
  GODWIT_TRY(Check(capability));
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(capability.memory);
  if (found == allocations_.end()) return NotFound("that memory has been freed");
  if (capability.offset != 0 || capability.bytes != found->second.memory->size() || capability.rights != Rights::kReadWrite) {
    return PermissionDenied("only the capability of the whole allocation with all rights frees it");
  }
  Erase(found);
  return {};
}

Result<Capability> FunctionMemory::Grant(const Range& range, Rights rights) {
  GODWIT_TRY(Resolve(range, rights));
  if (rights == Rights::kNone) return InvalidArgument("a capability without rights");
  Capability part{range.capability.memory, range.capability.offset + range.offset, range.bytes, rights, {}};
  part.seal = Seal(part);
  return part;
}

Result<FunctionMemory::Piece> FunctionMemory::Resolve(const Range& range, Rights rights, Clock::time_point now) {
  const Capability& capability = range.capability;
  GODWIT_TRY(Check(capability));
  const auto wanted = static_cast<std::uint8_t>(rights);
  if ((static_cast<std::uint8_t>(capability.rights) & wanted) != wanted) return PermissionDenied("the capability is not for that");
  if (range.offset > capability.bytes || range.bytes > capability.bytes - range.offset) {
    return InvalidArgument(fmt::format("{} bytes from {} are not inside of the capability's {}", range.bytes, range.offset, capability.bytes));
  }
  const std::lock_guard lock(mutex_);
  const auto found = allocations_.find(capability.memory);
  if (found == allocations_.end()) return NotFound("that memory has been freed");
  found->second.used = now;
  Piece piece{found->second.memory, {}};
  piece.bytes = std::span(*piece.memory).subspan(capability.offset + range.offset, range.bytes);
  return piece;
}

ByteCount FunctionMemory::used() const {
  const std::lock_guard lock(mutex_);
  return {used_};
}

std::size_t FunctionMemory::allocations() const {
  const std::lock_guard lock(mutex_);
  return allocations_.size();
}

}  // namespace godwit::device
