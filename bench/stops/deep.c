// A stack of 100 frames whose innermost one computes for ever: what a capture and a restore of it take.
#include <stdint.h>

enum { DEPTH = 100 };
volatile uint32_t steps;

__attribute__((noinline)) static uint32_t descend(uint32_t depth, uint32_t seed) {
  if (depth == 0) {
    for (;;) steps = steps + seed;
  }
  // Each frame keeps values across its call, as ordinary functions do.
  const uint32_t a = seed * 2654435761u, b = seed ^ steps, below = descend(depth - 1, a + b);
  return below * a + (b ^ depth);
}

int main(void) { return (int)descend(DEPTH, 1); }
