// Tests' guest: testdata/guest.cc compiled to an image, described and packaged as the compiler would do it.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "runtime/instance.h"

namespace godwit::runtime::test {

// Module function indices of testdata/guest.cc.
enum Function : std::uint32_t {
  kDouble = 0, kWait = 1, kHostFail = 2, kHostExit = 3, kHostDeep = 4,
  kSum = 5, kSumTwice = 6, kLoad = 7, kRecurse = 8, kDivide = 9, kWaitSum = 10, kFill = 11, kUnreachable = 12,
  kGrow = 13, kFail = 14, kExit = 15, kCallIndirect = 16, kOnStack = 17, kRecurseIntoHost = 18, kInit = 19,
  kTableOps = 20, kSpin = 21, kRegisters = 22, kDepth = 23, kFunctionCount = 24,
};

inline constexpr std::uint64_t kMemoryPages = 4;
inline constexpr std::uint64_t kMemoryPagesMax = 16;
inline constexpr std::uint32_t kDataOffset = 4090;  // "active data" crosses a page boundary.
inline constexpr std::string_view kActiveData = "active data";
inline constexpr std::string_view kPassiveData = "passive data";
inline constexpr std::uint32_t kStackPointer = 2048;  // Initial value of global 0.

// Compiles the guest to an image for this ISA with $CXX_FOR_GUEST or clang++-19. Aborts the test on failure.
Bytes CompileGuest();
// What the compiler would write about it.
Bytes DescribeGuest();
// The package of both, in a folder under the test's temporary folder.
std::shared_ptr<const LoadedModule> LoadGuest();

// The host module "test": double, wait (blocks until `ready`), fail, exit, deep.
class TestHost final : public HostModule {
 public:
  std::string_view name() const override { return "test"; }
  std::optional<HostFunction> Find(std::string_view function) const override;
  Result<Bytes> Save() const override;
  Status Load(ByteView state) override;

  bool ready = false;           // wait() returns 100 + its argument once this is set.
  bool can_move = true;         // Otherwise Save fails.
  std::uint32_t waits = 0;      // Effects of wait(); saved.
  std::uint32_t attempts = 0;   // Calls of wait(), interrupted ones included.
};

}  // namespace godwit::runtime::test
