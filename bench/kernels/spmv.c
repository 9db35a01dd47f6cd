// Sparse matrix times vector (compressed rows): indirect loads, loops of unknown length.
#include "kernel.h"

enum { ROWS = 40000, PER_ROW = 16, PASSES = 60 };
static double values[ROWS * PER_ROW], x[ROWS], y[ROWS];
static int32_t columns[ROWS * PER_ROW], starts[ROWS + 1];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t state = 123456789u;
  int count = 0;
  for (int row = 0; row < ROWS; row++) {
    starts[row] = count;
    for (int i = 0; i < PER_ROW - (row & 7); i++) columns[count] = (int32_t)(next_random(&state) % ROWS), values[count++] = (state & 15) / 16.0;
    x[row] = row % 100;
  }
  starts[ROWS] = count;
  for (int pass = 0; pass < PASSES; pass++) {
    for (int row = 0; row < ROWS; row++) {
      double sum = 0;
      for (int i = starts[row]; i < starts[row + 1]; i++) sum += values[i] * x[columns[i]];
      y[row] = sum;
    }
    for (int row = 0; row < ROWS; row++) x[row] = y[row] / 8.0;
  }
  uint64_t sum = 0;
  for (int row = 0; row < ROWS; row += 101) sum = mix(sum, bits_of(y[row]));
  return sum;
}
