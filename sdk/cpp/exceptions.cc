// The part of the C++ runtime that throws and catches, which Debian's libc++abi for Wasm is built without. Compile a guest
// and this file with
//     clang++ --target=wasm32-wasi -fwasm-exceptions
// and link them together. What the prebuilt libc++.a itself would throw (std::stoi, std::string's range checks) still
// aborts there; what its headers throw (std::vector::at, std::get, operator new's callers of your own) is caught.
//
// The names are the Itanium C++ ABI's and LLVM's for Wasm. One thread; no exception_ptr, no dynamic exception
// specifications, no foreign exceptions.
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <typeinfo>

// libc++abi's base of all type descriptions, which decides whether a handler fits.
namespace __cxxabiv1 {
class __shim_type_info : public std::type_info {
 public:
  ~__shim_type_info() override;
  virtual void noop1() const;
  virtual void noop2() const;
  virtual bool can_catch(const __shim_type_info* thrown, void*& adjusted) const = 0;
};
}  // namespace __cxxabiv1

namespace {

using Type = __cxxabiv1::__shim_type_info;

// Lies before the object that was thrown; code knows the exception by the object's address.
struct alignas(16) Exception {
  const Type* type;
  void* (*destructor)(void*);  // Destructors return their argument here.
  int handlers;  // That have begun and not ended; negative while it is thrown again.
  Exception* outer;  // The one that was being handled when this one's first handler began.
  void* adjusted;    // What the handler gets: the object as the handler's type.
};

Exception* g_caught = nullptr;  // The innermost one that is being handled.

constexpr int kCppTag = 0;

Exception* Of(void* object) { return static_cast<Exception*>(object) - 1; }
void* Object(Exception* exception) { return exception + 1; }

std::uintptr_t ReadUnsigned(const std::uint8_t*& at) {
  std::uintptr_t value = 0;
  for (unsigned shift = 0;; shift += 7) {
    const std::uint8_t byte = *at++;
    value |= static_cast<std::uintptr_t>(byte & 0x7f) << shift;
    if (!(byte & 0x80)) return value;
  }
}

std::intptr_t ReadSigned(const std::uint8_t*& at) {
  std::uintptr_t value = 0;
  unsigned shift = 0;
  std::uint8_t byte;
  do {
    byte = *at++;
    value |= static_cast<std::uintptr_t>(byte & 0x7f) << shift;
    shift += 7;
  } while (byte & 0x80);
  if ((byte & 0x40) && shift < 8 * sizeof value) value |= ~std::uintptr_t{0} << shift;
  return static_cast<std::intptr_t>(value);
}

constexpr std::uint8_t kOmitted = 0xff;

}  // namespace

extern "C" {

// What a landing tells about itself, and gets back: which of its handlers fits (0: none, run the cleanups).
struct {
  std::uintptr_t landing;
  const std::uint8_t* table;
  std::uintptr_t selector;
} __wasm_lpad_context;

// Looks for the handler in the landing's table: a list of landings with their first action, the actions (number of a
// type, distance to the next action), and, growing downwards, the types.
int _Unwind_CallPersonality(void* object) {
  __wasm_lpad_context.selector = 0;
  const std::uint8_t* at = __wasm_lpad_context.table;
  if (at == nullptr) return 0;
  if (*at++ != kOmitted) std::abort();
  const std::uint8_t* types = nullptr;
  if (*at++ != kOmitted) {
    const std::uintptr_t distance = ReadUnsigned(at);
    types = at + distance;
  }
  ++at;  // How the list of landings is encoded: always as unsigned numbers.
  const std::uintptr_t bytes = ReadUnsigned(at);
  const std::uint8_t* actions = at + bytes;
  std::uintptr_t first = 0;
  for (std::uintptr_t i = 0; i <= __wasm_lpad_context.landing; ++i) {
    ReadUnsigned(at);
    first = ReadUnsigned(at);
  }
  if (first == 0) return 0;
  Exception* exception = Of(object);
  for (const std::uint8_t* action = actions + first - 1;;) {
    const std::intptr_t number = ReadSigned(action);
    if (number > 0) {
      const auto* wanted = reinterpret_cast<const Type* const*>(types)[-number];
      void* adjusted = object;
      if (wanted == nullptr || wanted->can_catch(exception->type, adjusted)) {
        exception->adjusted = adjusted;
        __wasm_lpad_context.selector = static_cast<std::uintptr_t>(number);
        return 0;
      }
    }
    const std::uint8_t* next = action;
    const std::intptr_t distance = ReadSigned(action);
    if (distance == 0) return 0;
    action = next + distance;
  }
}

void* __cxa_allocate_exception(std::size_t bytes) noexcept {
  auto* exception = static_cast<Exception*>(std::aligned_alloc(alignof(Exception), (sizeof(Exception) + bytes + 15) / 16 * 16));
  if (exception == nullptr) std::terminate();
  return Object(exception);
}

void __cxa_free_exception(void* object) noexcept { std::free(Of(object)); }

void __cxa_throw(void* object, std::type_info* type, void* (*destructor)(void*)) {
  *Of(object) = {static_cast<const Type*>(type), destructor, 0, nullptr, object};
  __builtin_wasm_throw(kCppTag, object);
}

void* __cxa_get_exception_ptr(void* object) noexcept { return Of(object)->adjusted; }

void* __cxa_begin_catch(void* object) noexcept {
  Exception* exception = Of(object);
  const bool again = exception->handlers < 0;
  exception->handlers = (again ? -exception->handlers : exception->handlers) + 1;
  if (exception != g_caught) {
    exception->outer = g_caught;
    g_caught = exception;
  }
  return exception->adjusted;
}

void __cxa_end_catch() {
  Exception* exception = g_caught;
  if (exception == nullptr) return;
  const bool thrown_again = exception->handlers < 0;
  exception->handlers += thrown_again ? 1 : -1;
  if (exception->handlers != 0) return;
  g_caught = exception->outer;
  if (thrown_again) return;  // It lives on.
  if (exception->destructor != nullptr) exception->destructor(Object(exception));
  std::free(exception);
}

void __cxa_rethrow() {
  if (g_caught == nullptr) std::terminate();
  g_caught->handlers = -g_caught->handlers;
  __builtin_wasm_throw(kCppTag, Object(g_caught));
}

std::type_info* __cxa_current_exception_type() {
  return g_caught == nullptr ? nullptr : const_cast<Type*>(g_caught->type);
}

}  // extern "C"
