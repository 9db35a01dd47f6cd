// A kernel of the engine benchmark: one file with one function, timed by the main function below.
//
// `kernel(round)` does the same work for every round (about 50 to 200 ms natively) and returns a checksum of it, which
// must not depend on who compiled it. Each line printed is one timed round: nanoseconds, checksum. The first, untimed
// round warms caches and touches memory, so that only steady running is compared.
#include <stdint.h>
#include <stdio.h>
#include <time.h>

static uint64_t kernel(int round);

static inline uint32_t next_random(uint32_t *state) {  // Marsaglia's xorshift32
  uint32_t x = *state;
  x ^= x << 13;
  x ^= x >> 17;
  x ^= x << 5;
  return *state = x;
}

static inline uint64_t mix(uint64_t sum, uint64_t value) { return (sum ^ value) * 1099511628211ull; }  // FNV-1a's step

static inline uint64_t bits_of(double value) {
  union {
    double d;
    uint64_t u;
  } both = {value};
  return both.u;
}

enum { ROUNDS = 5 };

// Called through this, so that no compiler sees that all rounds are equal.
static uint64_t (*volatile timed)(int round) = kernel;

int main(void) {
  uint64_t sum = timed(0);
  for (int round = 1; round <= ROUNDS; round++) {
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    uint64_t again = timed(round);
    clock_gettime(CLOCK_MONOTONIC, &end);
    if (again != sum) return 1;
    printf("%lld %016llx\n", (end.tv_sec - begin.tv_sec) * 1000000000ll + (end.tv_nsec - begin.tv_nsec), (unsigned long long)again);
  }
  return 0;
}
