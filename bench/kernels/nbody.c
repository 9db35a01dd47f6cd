// Planets pulling at each other: long dependent chains of square roots and divisions, no vectors.
#include <math.h>

#include "kernel.h"

enum { BODIES = 8, STEPS = 300000 };
struct body {
  double x[3], v[3], mass;
};

static uint64_t kernel(int round) {
  (void)round;
  struct body b[BODIES];
  for (int i = 0; i < BODIES; i++)
    b[i] = (struct body){{i * 1.5 + 0.25, i * i * 0.5, 3.0 - i}, {0.01 * i, 0.02, -0.01 * i}, 1.0 / (1 + i)};
  for (int step = 0; step < STEPS; step++) {
    for (int i = 0; i < BODIES; i++)
      for (int j = i + 1; j < BODIES; j++) {
        double d[3], square = 0.01;
        for (int k = 0; k < 3; k++) d[k] = b[i].x[k] - b[j].x[k], square += d[k] * d[k];
        double force = 0.0001 / (square * sqrt(square));
        for (int k = 0; k < 3; k++) b[i].v[k] -= d[k] * b[j].mass * force, b[j].v[k] += d[k] * b[i].mass * force;
      }
    for (int i = 0; i < BODIES; i++)
      for (int k = 0; k < 3; k++) b[i].x[k] += 0.0001 * b[i].v[k];
  }
  uint64_t sum = 0;
  for (int i = 0; i < BODIES; i++) sum = mix(sum, bits_of(b[i].x[0]));
  return sum;
}
