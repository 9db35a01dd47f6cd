// The sieve of Eratosthenes: an inner loop of three instructions, the hardest case for a poll.
#include "kernel.h"

enum { LIMIT = 6000000 };
static uint8_t composite[LIMIT];

static uint64_t kernel(int round) {
  (void)round;
  uint64_t count = 0;
  for (int pass = 0; pass < 4; pass++) {
    for (int i = 0; i < LIMIT; i++) composite[i] = 0;
    for (int i = 2; i * i < LIMIT; i++)
      if (!composite[i])
        for (int j = i * i; j < LIMIT; j += i) composite[j] = 1;
  }
  for (int i = 2; i < LIMIT; i++) count += !composite[i];
  return count;
}
