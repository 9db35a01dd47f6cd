// Compute-bound: GET /crunch?rounds=N mixes N blocks with integer and floating-point work, and counts primes, then
// prints a checksum that depends on every step. A round is about a third of a millisecond on a 2020 server core.
#include <godwit.h>
#include <stdlib.h>
#include <string.h>

enum { kSize = 24, kSieve = 4096, kRoundsMax = 100000 };

typedef struct {
  uint64_t hash;
  double trace;
  uint32_t primes;
} result;

static uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static void multiply(double (*a)[kSize], double (*b)[kSize], double (*c)[kSize]) {
  for (int i = 0; i < kSize; ++i) {
    for (int j = 0; j < kSize; ++j) {
      double sum = 0;
      for (int k = 0; k < kSize; ++k) sum += a[i][k] * b[k][j];
      c[i][j] = sum / kSize;
    }
  }
}

static uint32_t count_primes(uint64_t from) {
  uint32_t count = 0;
  for (uint64_t n = from | 1; n < from + 64; n += 2) {
    int prime = n > 1;
    for (uint64_t d = 3; d * d <= n && prime; d += 2) prime = n % d != 0;
    count += (uint32_t)prime;
  }
  return count;
}

static void one_round(result* state, uint64_t round) {
  static unsigned char sieve[kSieve];
  double a[kSize][kSize], b[kSize][kSize], c[kSize][kSize];
  for (int i = 0; i < kSize; ++i) {
    for (int j = 0; j < kSize; ++j) {
      state->hash = mix(state->hash + round + (uint64_t)(i * kSize + j));
      a[i][j] = (double)(state->hash >> 40) / 16777216.0;
      b[i][j] = (double)(state->hash & 0xffffff) / 16777216.0;
    }
  }
  for (int pass = 0; pass < 8; ++pass) {
    multiply(a, b, c);
    memcpy(a, c, sizeof a);
  }
  for (int i = 0; i < kSize; ++i) state->trace += c[i][i];
  memset(sieve, 0, sizeof sieve);
  for (int i = 2; i < kSieve; ++i) {
    if (sieve[i]) continue;
    for (int j = 2 * i; j < kSieve; j += i) sieve[j] = 1;
    state->hash ^= (uint64_t)i << (i & 31);
  }
  for (int i = 0; i < 40000; ++i) state->hash = mix(state->hash ^ (uint64_t)i);
  state->primes += count_primes(1000000 + round * 64);
}

void godwit_handle(godwit_request* request) {
  char text[32];
  const long rounds = godwit_query_value(request, "rounds", text, sizeof text) > 0 ? atol(text) : 1000;
  if (rounds < 1 || rounds > kRoundsMax) {
    godwit_reply(request, 400, "text/plain", "rounds is 1 to 100000\n", 22);
    return;
  }
  result state = {0x9e3779b97f4a7c15u, 0, 0};
  char begin[128], end[128];
  godwit_where_am_i(begin, sizeof begin);
  for (long round = 0; round < rounds; ++round) one_round(&state, (uint64_t)round);
  godwit_where_am_i(end, sizeof end);
  godwit_set_header(request, "content-type", "application/json");
  godwit_printf(request, "{\"rounds\":%ld,\"checksum\":\"%016llx\",\"trace\":%.12f,\"primes\":%u,\"began_on\":\"%s\",\"ended_on\":\"%s\"}\n",
                rounds, (unsigned long long)state.hash, state.trace, state.primes, begin, end);
}
