// Escape times of the Mandelbrot set: a tight scalar loop with a data-dependent end.
#include "kernel.h"

enum { SIZE = 400, LIMIT = 600 };

static uint64_t kernel(int round) {
  (void)round;
  uint64_t sum = 0;
  for (int py = 0; py < SIZE; py++)
    for (int px = 0; px < SIZE; px++) {
      double cx = px * 3.0 / SIZE - 2.2, cy = py * 2.4 / SIZE - 1.2, x = 0, y = 0;
      int n = 0;
      while (n < LIMIT && x * x + y * y <= 4.0) {
        double next = x * x - y * y + cx;
        y = 2 * x * y + cy;
        x = next;
        n++;
      }
      sum = mix(sum, (uint64_t)n);
    }
  return sum;
}
