#include "migration/protect_tracker.h"

#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <mutex>

#include <fmt/format.h>

#include "runtime/trap.h"

namespace godwit::migration {
namespace {

constexpr std::uint64_t kUnitBytes = 64 << 10;
constexpr std::uint64_t kUnitPages = kUnitBytes / kPageBytes;

enum class Unit : std::uint8_t {
  kProtected,
  kWritten,    // Writable, and written since it was protected.
  kUnwatched,  // Not harvested yet; whether it is accessible is not this file's business.
};

// What the fault handler knows of one memory.
struct Watch {
  std::uintptr_t base = 0;
  std::uint64_t bytes = 0;
  std::unique_ptr<std::atomic<Unit>[]> units;
  std::atomic<std::uint64_t> watched{0};  // Bytes from the base that were harvested.
  // Protection ended at a limit of the system: every unit counts as written from then on.
  std::atomic<bool> given_up{false};
};

// Slots are changed under the mutex; the handler reads them and is counted.
struct Registry {
  std::mutex mutex;
  std::array<std::atomic<Watch*>, kProtectTrackersMax> slots{};
  std::atomic<int> handlers{0};
};

Registry& TheRegistry() {
  static auto* registry = new Registry;
  return *registry;
}

// Called in a signal handler. A write to a protected unit makes it writable and then marks it, in this order: the
// harvest unmarks first and protects then, so that a unit that is writable and unmarked can only be one whose writer
// has not come back from here.
bool MakeWritable(Watch& watch, std::uintptr_t address) {
  const std::uint64_t unit = (address - watch.base) / kUnitBytes;
  if (watch.units[unit].load() == Unit::kUnwatched) return false;
  if (mprotect(reinterpret_cast<void*>(watch.base + unit * kUnitBytes), kUnitBytes, PROT_READ | PROT_WRITE) != 0) {
    // The limit of mappings: one mapping for all is always within it.
    watch.given_up.store(true);
    if (mprotect(reinterpret_cast<void*>(watch.base), watch.watched.load(), PROT_READ | PROT_WRITE) != 0) return false;
  }
  watch.units[unit].store(Unit::kWritten);
  return true;
}

bool HandleFault(std::uintptr_t address) {
  Registry& registry = TheRegistry();
  registry.handlers.fetch_add(1);
  const int saved = errno;
  bool handled = false;
  for (auto& slot : registry.slots) {
    Watch* watch = slot.load();
    if (watch == nullptr || address - watch->base >= watch->bytes) continue;
    handled = MakeWritable(*watch, address);
    break;
  }
  errno = saved;
  registry.handlers.fetch_sub(1);
  return handled;
}

class ProtectTracker final : public PageTracker {
 public:
  ProtectTracker(std::uint8_t* base, std::uint64_t bytes_max) {
    watch_.base = reinterpret_cast<std::uintptr_t>(base);
    watch_.bytes = bytes_max;
    const std::uint64_t units = bytes_max / kUnitBytes;
    watch_.units = std::make_unique<std::atomic<Unit>[]>(units);
    for (std::uint64_t i = 0; i < units; ++i) watch_.units[i].store(Unit::kUnwatched);
  }
  ~ProtectTracker() override {
    if (slot_ == nullptr) return;
    Unprotect();
    slot_->store(nullptr);
    while (TheRegistry().handlers.load() != 0) sched_yield();  // One may still look at the watch.
  }

  Status Start() {
    Registry& registry = TheRegistry();
    const std::lock_guard lock(registry.mutex);
    runtime::PrepareThreadForGuests();
    runtime::InterceptFaults(&HandleFault);
    for (auto& slot : registry.slots) {
      if (slot.load() != nullptr) continue;
      slot.store(&watch_);
      slot_ = &slot;
      return {};
    }
    return ResourceExhausted(fmt::format("{} memories are tracked already", kProtectTrackersMax));
  }

  Status Harvest(std::uint64_t begin, std::uint64_t end, std::vector<PageRange>& written) override {
    begin = begin / kUnitBytes * kUnitBytes;
    end = std::min((end + kUnitBytes - 1) / kUnitBytes * kUnitBytes, watch_.bytes);
    watch_.watched.store(std::max(watch_.watched.load(), end));
    if (watch_.given_up.load()) {
      written.push_back({begin / kPageBytes, (end - begin) / kPageBytes});
      return {};
    }
    for (std::uint64_t unit = begin / kUnitBytes; unit < end / kUnitBytes;) {
      std::uint64_t count = 0;
      while (unit + count < end / kUnitBytes && watch_.units[unit + count].exchange(Unit::kProtected) != Unit::kProtected) ++count;
      if (count == 0) {
        ++unit;
        continue;
      }
      void* first = reinterpret_cast<void*>(watch_.base + unit * kUnitBytes);
      if (mprotect(first, count * kUnitBytes, PROT_READ) != 0) {
        watch_.given_up.store(true);
        if (!Unprotect()) return Internal("mprotect failed: " + std::string(std::strerror(errno)));
      }
      const PageRange range{unit * kUnitPages, count * kUnitPages};
      if (!written.empty() && written.back().first + written.back().count == range.first) written.back().count += range.count;
      else written.push_back(range);
      unit += count;
    }
    return {};
  }

 private:
  // What was never harvested stays as it is, inaccessible parts too.
  bool Unprotect() {
    const std::uint64_t watched = watch_.watched.load();
    return watched == 0 || mprotect(reinterpret_cast<void*>(watch_.base), watched, PROT_READ | PROT_WRITE) == 0;
  }

  Watch watch_;
  std::atomic<Watch*>* slot_ = nullptr;
};

}  // namespace

Result<std::unique_ptr<PageTracker>> CreateProtectTracker(std::uint8_t* base, std::uint64_t bytes_max) {
  auto tracker = std::make_unique<ProtectTracker>(base, bytes_max / kUnitBytes * kUnitBytes);
  GODWIT_TRY(tracker->Start());
  return std::unique_ptr<PageTracker>(std::move(tracker));
}

}  // namespace godwit::migration
