// An open-addressing hash table under inserts and look-ups: random access, short probe loops.
#include "kernel.h"

enum { SLOTS = 1 << 20, KEYS = 600000 };
static uint32_t keys[SLOTS], counts[SLOTS];

static uint32_t *slot_of(uint32_t key) {
  uint32_t at = key * 2654435769u >> 12;
  while (keys[at] != 0 && keys[at] != key) at = (at + 1) & (SLOTS - 1);
  keys[at] = key;
  return &counts[at];
}

static uint64_t kernel(int round) {
  (void)round;
  for (int i = 0; i < SLOTS; i++) keys[i] = counts[i] = 0;
  for (int pass = 0; pass < 4; pass++) {
    uint32_t state = 362436069u;
    for (int i = 0; i < KEYS; i++) *slot_of(next_random(&state)) += (uint32_t)i;
  }
  uint64_t sum = 0;
  for (int i = 0; i < SLOTS; i++) sum = mix(sum, counts[i]);
  return sum;
}
