// Three-dimensional heat equation: a stencil with many streams.
#include "kernel.h"

enum { N = 80, STEPS = 140 };
static double grid[2][N][N][N];

static uint64_t kernel(int round) {
  (void)round;
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++)
      for (int k = 0; k < N; k++) grid[0][i][j][k] = grid[1][i][j][k] = (i + j + (N - k)) * 10.0 / N;
  for (int step = 0; step < STEPS; step++) {
    double(*a)[N][N] = grid[step & 1], (*b)[N][N] = grid[~step & 1];
    for (int i = 1; i < N - 1; i++)
      for (int j = 1; j < N - 1; j++)
        for (int k = 1; k < N - 1; k++)
          b[i][j][k] = 0.125 * (a[i + 1][j][k] - 2.0 * a[i][j][k] + a[i - 1][j][k]) + 0.125 * (a[i][j + 1][k] - 2.0 * a[i][j][k] + a[i][j - 1][k]) +
                       0.125 * (a[i][j][k + 1] - 2.0 * a[i][j][k] + a[i][j][k - 1]) + a[i][j][k];
  }
  uint64_t sum = 0;
  for (int i = 0; i < N; i++) sum = mix(sum, bits_of(grid[0][i][i][i]));
  return sum;
}
