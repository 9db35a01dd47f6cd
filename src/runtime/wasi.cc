#include "runtime/wasi.h"

#include <algorithm>
#include <array>
#include <ctime>

#include "runtime/wasi_calls.h"

namespace godwit::runtime {
namespace {

using wasi::Calls;
using wasi::Errno;
using wasi::GuestCall;

// A call made by a running instance.
class InstanceCall final : public GuestCall {
 public:
  InstanceCall(Instance& instance, abi::Context* context) : instance_(instance), context_(context) {}
  GuestMemory memory() const override { return GuestMemory(context_); }
  TaskId task() const override { return instance_.current_task(); }
  Instance::Wait Block(Blocked what) override { return instance_.Block(std::move(what)); }
  void Restart() override { instance_.Restart(); }
  [[noreturn]] void Exit(std::uint32_t code) override {
    instance_.Exit(code);
    __builtin_unreachable();  // GCC does not see that a virtual function never returns.
  }

 private:
  Instance& instance_;
  abi::Context* context_;
};

template <typename T>
constexpr char Letter() {
  static_assert(std::is_same_v<T, std::uint32_t> || std::is_same_v<T, std::uint64_t>);
  return std::is_same_v<T, std::uint32_t> ? 'i' : 'I';
}

// The C function that a guest calls, and its signature, from one of Calls' member functions.
template <auto kMember>
struct Import;

template <typename R, typename... Args, R (Calls::*kMember)(GuestCall&, Args...)>
struct Import<kMember> {
  using Returned = std::conditional_t<std::is_void_v<R>, void, std::uint32_t>;
  static Returned Run(abi::Context* context, std::uint8_t*, Args... args) {
    Instance& instance = Instance::Of(context);
    InstanceCall call(instance, context);
    Calls& calls = static_cast<Wasi*>(instance.host(kWasiModule))->calls();
    if constexpr (std::is_void_v<R>) {
      (calls.*kMember)(call, args...);
    } else {
      return static_cast<std::uint32_t>((calls.*kMember)(call, args...));
    }
  }
  static constexpr std::size_t kSignatureBytes = sizeof...(Args) + (std::is_void_v<R> ? 1 : 2);
  static constexpr std::array<char, kSignatureBytes> kSignature = [] {
    std::array<char, kSignatureBytes> text{Letter<Args>()...};
    text[sizeof...(Args)] = ':';
    if (!std::is_void_v<R>) text[kSignatureBytes - 1] = 'i';
    return text;
  }();
};

struct Named {
  std::string_view name;
  HostFunction function;
};

template <auto kMember>
Named Entry(std::string_view name) {
  using I = Import<kMember>;
  return {name, {reinterpret_cast<abi::Code>(&I::Run), {I::kSignature.data(), I::kSignature.size()}}};
}

// Sorted by name.
const std::array<Named, 46>& Functions() {
  static const std::array<Named, 46> functions = {
#define GODWIT_WASI(name) Entry<&Calls::name>(#name)
      GODWIT_WASI(args_get), GODWIT_WASI(args_sizes_get), GODWIT_WASI(clock_res_get), GODWIT_WASI(clock_time_get),
      GODWIT_WASI(environ_get), GODWIT_WASI(environ_sizes_get), GODWIT_WASI(fd_advise), GODWIT_WASI(fd_allocate),
      GODWIT_WASI(fd_close), GODWIT_WASI(fd_datasync), GODWIT_WASI(fd_fdstat_get), GODWIT_WASI(fd_fdstat_set_flags),
      GODWIT_WASI(fd_fdstat_set_rights), GODWIT_WASI(fd_filestat_get), GODWIT_WASI(fd_filestat_set_size),
      GODWIT_WASI(fd_filestat_set_times), GODWIT_WASI(fd_pread), GODWIT_WASI(fd_prestat_dir_name),
      GODWIT_WASI(fd_prestat_get), GODWIT_WASI(fd_pwrite), GODWIT_WASI(fd_read), GODWIT_WASI(fd_readdir),
      GODWIT_WASI(fd_renumber), GODWIT_WASI(fd_seek), GODWIT_WASI(fd_sync), GODWIT_WASI(fd_tell),
      GODWIT_WASI(fd_write), GODWIT_WASI(path_create_directory), GODWIT_WASI(path_filestat_get),
      GODWIT_WASI(path_filestat_set_times), GODWIT_WASI(path_link), GODWIT_WASI(path_open),
      GODWIT_WASI(path_readlink), GODWIT_WASI(path_remove_directory), GODWIT_WASI(path_rename),
      GODWIT_WASI(path_symlink), GODWIT_WASI(path_unlink_file), GODWIT_WASI(poll_oneoff), GODWIT_WASI(proc_exit),
      GODWIT_WASI(proc_raise), GODWIT_WASI(random_get), GODWIT_WASI(sched_yield), GODWIT_WASI(sock_accept),
      GODWIT_WASI(sock_recv), GODWIT_WASI(sock_send), GODWIT_WASI(sock_shutdown),
#undef GODWIT_WASI
  };
  return functions;
}

class LinuxClock final : public HostClock {
 public:
  std::uint64_t Realtime() const override { return Now(CLOCK_REALTIME); }
  std::uint64_t Monotonic() const override { return Now(CLOCK_MONOTONIC); }
  std::uint64_t Cpu() const override { return Now(CLOCK_PROCESS_CPUTIME_ID); }

 private:
  static std::uint64_t Now(clockid_t id) {
    timespec time{};
    ::clock_gettime(id, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(time.tv_nsec);
  }
};

}  // namespace

std::shared_ptr<const HostClock> SystemClock() { return std::make_shared<LinuxClock>(); }

Wasi::Wasi(std::unique_ptr<wasi::Calls> calls) : calls_(std::move(calls)) {}
Wasi::~Wasi() = default;

Result<std::shared_ptr<Wasi>> Wasi::Create(WasiOptions options) {
  GODWIT_ASSIGN(auto calls, Calls::Create(std::move(options)));
  return std::shared_ptr<Wasi>(new Wasi(std::move(calls)));
}

std::optional<HostFunction> Wasi::Find(std::string_view function) const {
  const auto& functions = Functions();
  const auto found = std::lower_bound(functions.begin(), functions.end(), function,
                                      [](const Named& entry, std::string_view name) { return entry.name < name; });
  if (found == functions.end() || found->name != function) return std::nullopt;
  return found->function;
}

Result<Bytes> Wasi::Save() const { return calls_->Save(); }
Status Wasi::Load(ByteView state) { return calls_->Load(state); }

}  // namespace godwit::runtime
