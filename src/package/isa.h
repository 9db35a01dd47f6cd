// The instruction sets that packages hold native code for.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace godwit::package {

enum class Isa : std::uint8_t { kX86_64 = 0, kAarch64 = 1, kRiscv64 = 2 };

// "x86_64", "aarch64", "riscv64": as flags, JSON and messages spell it.
std::string_view IsaName(Isa isa);
// "amd64", "arm64", "riscv64": OCI's `architecture` (GOARCH).
std::string_view OciArchitecture(Isa isa);
// Accepts both spellings.
std::optional<Isa> ParseIsa(std::string_view name);

constexpr Isa HostIsa() {
#if defined(__x86_64__)
  return Isa::kX86_64;
#elif defined(__aarch64__)
  return Isa::kAarch64;
#elif defined(__riscv) && __riscv_xlen == 64
  return Isa::kRiscv64;
#else
#error "no Godwit code generator for this ISA"
#endif
}

}  // namespace godwit::package
