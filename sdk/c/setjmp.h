// setjmp and longjmp for guests, which wasi-libc lacks. Compile whatever calls them with
//     clang --target=wasm32-wasi -mexception-handling -mllvm -wasm-enable-sjlj -Isdk/c
// and link sdk/c/setjmp.c, compiled likewise.
#ifndef GODWIT_SETJMP_H
#define GODWIT_SETJMP_H

#ifdef __cplusplus
extern "C" {
#endif

typedef long jmp_buf[8];

int setjmp(jmp_buf) __attribute__((returns_twice));
void longjmp(jmp_buf, int) __attribute__((noreturn));

#ifdef __cplusplus
}
#endif

#endif
