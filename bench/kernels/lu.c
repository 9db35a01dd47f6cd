// LU decomposition without pivoting: triangular loops whose bounds shrink.
#include "kernel.h"

enum { N = 360 };
static double a[N][N];

static uint64_t kernel(int round) {
  (void)round;
  for (int pass = 0; pass < 12; pass++) {
    for (int i = 0; i < N; i++)
      for (int j = 0; j < N; j++) a[i][j] = (i * 7 + j * 3) % 11 + (i == j ? 4.0 * N : 0.0);
    for (int k = 0; k < N; k++)
      for (int i = k + 1; i < N; i++) {
        double factor = a[i][k] /= a[k][k];
        for (int j = k + 1; j < N; j++) a[i][j] -= factor * a[k][j];
      }
  }
  uint64_t sum = 0;
  for (int i = 0; i < N; i++) sum = mix(sum, bits_of(a[i][N - 1 - i]));
  return sum;
}
