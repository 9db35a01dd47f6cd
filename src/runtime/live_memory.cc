#include "runtime/live_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include <fmt/format.h>

#include "runtime/module.h"
#include "runtime/pages.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

namespace godwit::runtime {
namespace {

constexpr std::uint64_t kPage = snapshot::kPageBytes;
constexpr std::uint64_t kMemoryBytesMax = 4ull << 30;

// The initial content of a page, or null if that is zero.
const std::uint8_t* InitialPage(const InitialPages& initial, std::uint64_t page) {
  const auto found = std::lower_bound(initial.numbers.begin(), initial.numbers.end(), page);
  if (found == initial.numbers.end() || *found != page) return nullptr;
  return initial.page(static_cast<std::size_t>(found - initial.numbers.begin()));
}

class ModuleLiveMemory final : public LiveMemory {
 public:
  ModuleLiveMemory(std::shared_ptr<const SharedPages> pages, std::shared_ptr<const LoadedModule> module)
      : pages_(std::move(pages)), module_(std::move(module)), initial_(Module::From(*module_).initial_pages()) {}
  std::uint8_t* base() const override { return pages_->base(); }
  std::uint64_t bytes() const override { return pages_->bytes(); }
  std::uint64_t bytes_max() const override { return kMemoryBytesMax; }
  bool AsInitial(std::uint64_t page) const override {
    const std::uint8_t* now = base() + page * kPage;
    const std::uint8_t* initial = InitialPage(initial_, page);
    return initial != nullptr ? std::memcmp(now, initial, kPage) == 0 : IsZeroPage(now);
  }
  std::vector<snapshot::PageRun> Changed() const override { return ChangedPages(base(), bytes(), initial_); }

 private:
  const std::shared_ptr<const SharedPages> pages_;
  const std::shared_ptr<const LoadedModule> module_;
  const InitialPages& initial_;
};

class ModuleArrivingMemory final : public ArrivingMemory {
 public:
  ModuleArrivingMemory(std::shared_ptr<const LoadedModule> module, LinearMemory memory)
      : module_(std::move(module)), initial_(Module::From(*module_).initial_pages()), memory_(std::move(memory)) {
    for (std::size_t i = 0; i < initial_.numbers.size(); ++i) {
      if (initial_.numbers[i] * kPage >= memory_.bytes()) continue;
      std::memcpy(memory_.base() + initial_.numbers[i] * kPage, initial_.page(i), kPage);
    }
  }
  std::uint8_t* base() const override { return memory_.base(); }
  std::uint64_t bytes() const override { return memory_.bytes(); }
  Status GrowTo(ByteCount bytes) override {
    if (bytes.value <= memory_.bytes()) return {};
    const std::uint64_t pages = bytes.value / abi::kWasmPageBytes;
    if (bytes.value % abi::kWasmPageBytes != 0 || pages > memory_.pages_max() ||
        memory_.Grow(static_cast<std::uint32_t>(pages - memory_.pages())) == ~0u) {
      return ResourceExhausted(fmt::format("an arriving memory cannot grow to {} bytes", bytes.value));
    }
    return {};
  }
  void Populate([[maybe_unused]] std::uint64_t first_page, [[maybe_unused]] std::uint64_t count) override {
#if defined(__x86_64__)  // Elsewhere this may be emulation, which has nothing that keeps what the pages hold.
    madvise(base() + first_page * kPage, count * kPage, MADV_POPULATE_WRITE);
#endif
  }
  void Reset(std::uint64_t first_page, std::uint64_t count) override {
    for (std::uint64_t page = first_page; page < first_page + count; ++page) {
      const std::uint8_t* content = InitialPage(initial_, page);
      if (content != nullptr) std::memcpy(base() + page * kPage, content, kPage);
      else std::memset(base() + page * kPage, 0, kPage);
    }
  }
  LinearMemory Take() override { return std::move(memory_); }

 private:
  const std::shared_ptr<const LoadedModule> module_;
  const InitialPages& initial_;
  LinearMemory memory_;
};

}  // namespace

std::shared_ptr<const LiveMemory> LiveMemory::Of(std::shared_ptr<const SharedPages> pages, std::shared_ptr<const LoadedModule> module) {
  return std::make_shared<const ModuleLiveMemory>(std::move(pages), std::move(module));
}

Result<std::unique_ptr<ArrivingMemory>> ArrivingMemory::Create(std::shared_ptr<const LoadedModule> module,
                                                               const Limits& limits, ByteCount bytes) {
  const auto* memories = module->module().memories();
  if (memories == nullptr || memories->size() == 0) return InvalidArgument("the module has no memory");
  const std::uint64_t pages = bytes.value / abi::kWasmPageBytes;
  if (bytes.value % abi::kWasmPageBytes != 0 || pages < memories->Get(0)->minimum()) {
    return InvalidArgument(fmt::format("the module's memory cannot have {} bytes", bytes.value));
  }
  GODWIT_ASSIGN(LinearMemory memory, LinearMemory::Create(pages, MemoryPagesMax(*memories->Get(0), limits)));
  return std::unique_ptr<ArrivingMemory>(std::make_unique<ModuleArrivingMemory>(std::move(module), std::move(memory)));
}

}  // namespace godwit::runtime
