// Dense matrix product in double precision: the inner loop vectorises.
#include "kernel.h"

enum { N = 320 };
static double a[N][N], b[N][N], c[N][N];

static uint64_t kernel(int round) {
  (void)round;
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) a[i][j] = (i * j + 1) % 17, b[i][j] = (i + 2 * j) % 13, c[i][j] = 0;
  for (int pass = 0; pass < 4; pass++)
    for (int i = 0; i < N; i++)
      for (int k = 0; k < N; k++)
        for (int j = 0; j < N; j++) c[i][j] += a[i][k] * b[k][j];
  uint64_t sum = 0;
  for (int i = 0; i < N; i++) sum = mix(sum, bits_of(c[i][N - 1 - i]));
  return sum;
}
