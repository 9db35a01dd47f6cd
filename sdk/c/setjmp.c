// What clang turns setjmp and longjmp into (LLVM's "WebAssembly lower Emscripten EH/SjLj", new in 19): a longjmp is an
// exception, and a function that called setjmp asks whether it is meant for one of its calls.
#include "setjmp.h"

struct jump {
  void* invocation;  // Of the function that called setjmp.
  unsigned label;    // Which of its calls.
  struct {
    void* buffer;
    int value;
  } thrown;
};
_Static_assert(sizeof(struct jump) <= sizeof(jmp_buf), "jmp_buf is too small");

enum { kLongjmpTag = 1 };

void __wasm_setjmp(void* buffer, unsigned label, void* invocation) {
  struct jump* jump = buffer;
  jump->invocation = invocation;
  jump->label = label;
}

// 0: it belongs to another function.
unsigned __wasm_setjmp_test(void* buffer, void* invocation) {
  const struct jump* jump = buffer;
  return jump->invocation == invocation ? jump->label : 0;
}

void __wasm_longjmp(void* buffer, int value) {
  struct jump* jump = buffer;
  jump->thrown.buffer = buffer;
  jump->thrown.value = value == 0 ? 1 : value;
  __builtin_wasm_throw(kLongjmpTag, &jump->thrown);
}
