// Two-dimensional Jacobi stencil: memory-bound, vectorisable.
#include "kernel.h"

enum { N = 700, STEPS = 200 };
static double grid[2][N][N];

static uint64_t kernel(int round) {
  (void)round;
  for (int i = 0; i < N; i++)
    for (int j = 0; j < N; j++) grid[0][i][j] = grid[1][i][j] = (i * (j + 2) % 31) / 8.0;
  for (int step = 0; step < STEPS; step++) {
    double(*from)[N] = grid[step & 1], (*to)[N] = grid[~step & 1];
    for (int i = 1; i < N - 1; i++)
      for (int j = 1; j < N - 1; j++) to[i][j] = 0.2 * (from[i][j] + from[i][j - 1] + from[i][j + 1] + from[i - 1][j] + from[i + 1][j]);
  }
  uint64_t sum = 0;
  for (int i = 0; i < N; i++) sum = mix(sum, bits_of(grid[0][i][i]));
  return sum;
}
