// Copies, moves, fills and compares of many sizes: the C library's bulk operations.
#include <string.h>

#include "kernel.h"

enum { BYTES = 1 << 18, SMALL = 3000000, LARGE = 4000 };
static uint8_t from[BYTES], to[BYTES];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 10101;
  for (int i = 0; i < BYTES; i++) from[i] = (uint8_t)next_random(&seed);
  memset(to, 0, BYTES);
  uint64_t sum = 1;
  for (int i = 0; i < SMALL; i++) {
    const uint32_t r = next_random(&seed), size = r & 63, source = r >> 6 & 0xffff, target = r >> 15 & 0xffff;
    switch (i & 3) {
      case 0: memcpy(to + target, from + source, size); break;
      case 1: memmove(to + target, to + source, size); break;
      case 2: memset(to + target, (int)size, size); break;
      default: sum += (uint64_t)(memcmp(to + target, from + source, size) > 0);
    }
  }
  for (int i = 0; i < LARGE; i++) {
    const uint32_t r = next_random(&seed), size = BYTES / 4 + (r & 0xffff);
    memcpy(to, from + (r >> 20), size);
    memmove(to + (r >> 24), to, size);
    memset(to + size / 2, (int)r, size / 4);
    sum = mix(sum, to[r & 0xffff]);
  }
  for (int i = 0; i < BYTES; i += 127) sum = mix(sum, to[i]);
  return sum;
}
