// Filters and sums over columns, as a database scans them: long vectorisable loops over memory.
#include "kernel.h"

enum { ROWS = 1 << 20, PASSES = 16 };
static int32_t price[ROWS], quantity[ROWS];
static uint8_t status[ROWS];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 606;
  for (int i = 0; i < ROWS; i++) {
    const uint32_t r = next_random(&seed);
    price[i] = (int32_t)(r & 0xfff);
    quantity[i] = (int32_t)(r >> 12 & 0x3f);
    status[i] = (uint8_t)(r >> 18 & 7);
  }
  uint64_t sum = 1;
  for (int pass = 0; pass < PASSES; pass++) {
    int32_t matches = 0, most = 0;
    uint32_t revenue = 0;
    for (int i = 0; i < ROWS; i++) matches += price[i] < 1000 + pass && quantity[i] > 7;
    for (int i = 0; i < ROWS; i++) revenue += (uint32_t)(price[i] * quantity[i]);
    for (int i = 0; i < ROWS; i++) most = price[i] > most ? price[i] : most;
    uint32_t open = 0;
    for (int i = 0; i < ROWS; i++) open += status[i] == (pass & 7);
    sum = mix(mix(mix(mix(sum, (uint32_t)matches), revenue), (uint32_t)most), open);
  }
  return sum;
}
