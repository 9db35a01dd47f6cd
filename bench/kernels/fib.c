// Doubly recursive Fibonacci: nothing but calls, each followed by a check.
#include "kernel.h"

__attribute__((noinline)) static uint32_t fib(uint32_t n) { return n < 2 ? n : fib(n - 1) + fib(n - 2); }

static uint64_t kernel(int round) {
  (void)round;
  return fib(35);
}
