// Levenshtein distance by dynamic programming: dependent minima along a row.
#include "kernel.h"

enum { LENGTH = 6000 };
static uint8_t a[LENGTH], b[LENGTH];
static int32_t row[LENGTH + 1];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t state = 777767777u;
  for (int i = 0; i < LENGTH; i++) a[i] = next_random(&state) & 3, b[i] = next_random(&state) & 3;
  for (int j = 0; j <= LENGTH; j++) row[j] = j;
  for (int i = 1; i <= LENGTH; i++) {
    int32_t diagonal = row[0];
    row[0] = i;
    for (int j = 1; j <= LENGTH; j++) {
      int32_t change = diagonal + (a[i - 1] != b[j - 1]), insert = row[j - 1] + 1, drop = row[j] + 1;
      diagonal = row[j];
      if (insert < change) change = insert;
      row[j] = drop < change ? drop : change;
    }
  }
  return (uint64_t)row[LENGTH];
}
