// A kernel of the engine benchmark: one file with one function, timed by the main function below.
//
// `kernel(round)` does the same work for every round (about 50 to 200 ms natively) and returns a checksum of it, which
// must not depend on who compiled it. Each line printed is one timed round: nanoseconds, checksum. The first, untimed
// round warms caches and touches memory, so that only steady running is compared. Times are of the processor, so that
// what else the machine does counts less.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#ifdef __wasi__
#include <wasi/api.h>
#endif

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

static uint64_t processor_ns(void) {
#ifdef __wasi__
  __wasi_timestamp_t now = 0;
  (void)__wasi_clock_time_get(__WASI_CLOCKID_THREAD_CPUTIME_ID, 1, &now);
  return now;
#else
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

int main(int argc, char **argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : ROUNDS;
  uint64_t sum = timed(0);
  for (int round = 1; round <= rounds; round++) {
    uint64_t begin = processor_ns();
    uint64_t again = timed(round);
    uint64_t end = processor_ns();
    if (again != sum) return 1;
    printf("%llu %016llx\n", (unsigned long long)(end - begin), (unsigned long long)again);
    fflush(stdout);
  }
  return 0;
}
