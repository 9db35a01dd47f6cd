#include "package/isa.h"

namespace godwit::package {

std::string_view IsaName(Isa isa) {
  switch (isa) {
    case Isa::kX86_64: return "x86_64";
    case Isa::kAarch64: return "aarch64";
    case Isa::kRiscv64: return "riscv64";
  }
  return "unknown";
}

std::string_view OciArchitecture(Isa isa) {
  switch (isa) {
    case Isa::kX86_64: return "amd64";
    case Isa::kAarch64: return "arm64";
    case Isa::kRiscv64: return "riscv64";
  }
  return "unknown";
}

std::optional<Isa> ParseIsa(std::string_view name) {
  for (const Isa isa : {Isa::kX86_64, Isa::kAarch64, Isa::kRiscv64}) {
    if (name == IsaName(isa) || name == OciArchitecture(isa)) return isa;
  }
  return std::nullopt;
}

}  // namespace godwit::package
