// State machines of tail calls: they take no stack, however long they run.
#include <stdio.h>
#include <stdlib.h>

#define MUSTTAIL __attribute__((musttail))
typedef unsigned long long state(const unsigned char *, long, unsigned long long);
static state word, blank, digit;
static state *const next_state[4] = {word, blank, digit, word};

static unsigned long long word(const unsigned char *p, long n, unsigned long long h) {
  if (n == 0) return h;
  MUSTTAIL return next_state[p[n & 255] & 3](p, n - 1, h * 31 + p[n & 255]);
}
static unsigned long long blank(const unsigned char *p, long n, unsigned long long h) {
  if (n == 0) return h ^ 1;
  if ((h & 7) == 3) MUSTTAIL return digit(p, n - 1, h ^ 0x9e3779b97f4a7c15ull);
  MUSTTAIL return word(p, n - 1, h + (unsigned long long)n);
}
static unsigned long long digit(const unsigned char *p, long n, unsigned long long h) {
  if (n == 0) return h ^ 2;
  unsigned long long x = h;
  for (int i = 0; i < (int)(h & 3); i++) x = x * 6364136223846793005ull + 1;
  MUSTTAIL return next_state[x >> 62](p, n - 1, x);
}

int main(int argc, char **argv) {
  long steps = (argc > 1 ? atol(argv[1]) : 1) * 1000;
  unsigned char bytes[256];
  for (int i = 0; i < 256; i++) bytes[i] = (unsigned char)(i * 167 + 13);
  for (int i = 0; i < 4; i++) printf("%016llx\n", word(bytes, steps + i, (unsigned long long)i));
  return 0;
}
