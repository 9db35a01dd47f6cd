#include "runtime/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <boost/context/detail/fcontext.hpp>
#include <mutex>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define GODWIT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define GODWIT_ASAN 1
#endif
#endif
#ifdef GODWIT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace godwit::runtime {

namespace context = boost::context::detail;

namespace {

constexpr std::uint64_t kGuardsBytes = kInnerGuardBytes.value + kGuardBytes.value;
// Of a pooled stack this much stays committed, so that short calls fault no page in.
constexpr std::uint64_t kPooledCommitBytes = 64 * 1024;

struct PooledStack {
  std::uint8_t* mapping;
  std::uint64_t mapped;
};

// Guarded by its mutex. Never destroyed: stacks may be returned by threads that end after main.
struct StackPool {
  std::mutex mutex;
  std::vector<PooledStack> stacks;
};

StackPool& Pool() {
  static auto* pool = new StackPool;
  return *pool;
}

}  // namespace

Result<GuardedStack> GuardedStack::Acquire(ByteCount size) {
  const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
  const std::uint64_t mapped = (size.value + page - 1) / page * page + kGuardsBytes;
  GuardedStack stack;
  stack.mapped_ = mapped;
  {
    StackPool& pool = Pool();
    std::lock_guard lock(pool.mutex);
    for (PooledStack& pooled : pool.stacks) {
      if (pooled.mapped != mapped) continue;
      stack.mapping_ = pooled.mapping;
      pooled = pool.stacks.back();
      pool.stacks.pop_back();
      return stack;
    }
  }
  void* mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (mapping == MAP_FAILED) return ErrnoError("reserving a guest stack");
  stack.mapping_ = static_cast<std::uint8_t*>(mapping);
  if (mprotect(stack.bottom(), stack.size(), PROT_READ | PROT_WRITE) != 0) {
    return ErrnoError("making a guest stack accessible");
  }
  return stack;
}

GuardedStack& GuardedStack::operator=(GuardedStack&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapped_, other.mapped_);
  std::swap(reserve_open_, other.reserve_open_);
  return *this;
}

GuardedStack::~GuardedStack() {
  if (mapping_ == nullptr) return;
  ForgetFrames();
  if (reserve_open_) {
    madvise(mapping_ + kInnerGuardBytes.value, kGuardBytes.value, MADV_DONTNEED);
    mprotect(mapping_ + kInnerGuardBytes.value, kGuardBytes.value, PROT_NONE);
  }
  StackPool& pool = Pool();
  std::unique_lock lock(pool.mutex);
  if (pool.stacks.size() >= kPooledStacksMax) {
    lock.unlock();
    munmap(mapping_, mapped_);
    return;
  }
  if (size() > kPooledCommitBytes) madvise(bottom(), size() - kPooledCommitBytes, MADV_DONTNEED);
  pool.stacks.push_back({mapping_, mapped_});
}

bool GuardedStack::Contains(std::uintptr_t address) const {
  return mapping_ != nullptr && address - reinterpret_cast<std::uintptr_t>(bottom()) < size();
}

bool GuardedStack::InGuard(std::uintptr_t address) const {
  return mapping_ != nullptr && address - reinterpret_cast<std::uintptr_t>(mapping_) < kGuardsBytes;
}

bool GuardedStack::OpenReserve(std::uintptr_t address) {
  const auto outer = reinterpret_cast<std::uintptr_t>(mapping_) + kInnerGuardBytes.value;
  if (reserve_open_ || address - outer >= kGuardBytes.value) return false;
  reserve_open_ = true;
  return mprotect(reinterpret_cast<void*>(outer), kGuardBytes.value, PROT_READ | PROT_WRITE) == 0;
}

void GuardedStack::ForgetFrames() {
#ifdef GODWIT_ASAN
  __asan_unpoison_memory_region(bottom(), size());
  if (reserve_open_) __asan_unpoison_memory_region(mapping_ + kInnerGuardBytes.value, kGuardBytes.value);
#endif
}

struct FiberEntry {
  static void Begin(context::transfer_t transfer) { Fiber::Main(transfer.fctx, transfer.data); }
};

Fiber::Fiber(GuardedStack stack, EntryFunction entry, void* argument)
    : stack_(std::move(stack)), entry_(entry), argument_(argument) {
  inside_ = context::make_fcontext(stack_.top(), stack_.size(), &FiberEntry::Begin);
}

Fiber::~Fiber() = default;

void Fiber::Main(void* transfer_context, void* transfer_data) {
  auto* fiber = static_cast<Fiber*>(transfer_data);
#ifdef GODWIT_ASAN
  __sanitizer_finish_switch_fiber(nullptr, &fiber->owner_bottom_, &fiber->owner_size_);
#endif
  fiber->owner_ = transfer_context;
  fiber->entry_(fiber->argument_);
  GODWIT_CHECK(false, "a fiber's entry returned");
}

void Fiber::Enter() {
#ifdef GODWIT_ASAN
  __sanitizer_start_switch_fiber(&owner_shadow_, stack_.bottom(), stack_.size());
#endif
  const context::transfer_t back = context::jump_fcontext(inside_, this);
  inside_ = back.fctx;
#ifdef GODWIT_ASAN
  __sanitizer_finish_switch_fiber(owner_shadow_, nullptr, nullptr);
#endif
}

void Fiber::Suspend() {
#ifdef GODWIT_ASAN
  __sanitizer_start_switch_fiber(&inside_shadow_, owner_bottom_, owner_size_);
#endif
  const context::transfer_t again = context::jump_fcontext(owner_, this);
  owner_ = again.fctx;
#ifdef GODWIT_ASAN
  __sanitizer_finish_switch_fiber(inside_shadow_, &owner_bottom_, &owner_size_);
#endif
}

void Fiber::Leave() {
#ifdef GODWIT_ASAN
  __sanitizer_start_switch_fiber(nullptr, owner_bottom_, owner_size_);
#endif
  context::jump_fcontext(owner_, this);
  __builtin_unreachable();
}

}  // namespace godwit::runtime
