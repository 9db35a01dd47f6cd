// Quicksort: recursion and unpredictable branches.
#include "kernel.h"

enum { COUNT = 1000000 };
static uint32_t values[COUNT];

static void sort(uint32_t *first, uint32_t *last) {
  while (last - first > 1) {
    uint32_t pivot = first[(last - first) / 2], *left = first, *right = last - 1;
    while (left <= right) {
      while (*left < pivot) left++;
      while (*right > pivot) right--;
      if (left <= right) {
        uint32_t swap = *left;
        *left++ = *right;
        *right-- = swap;
      }
    }
    sort(first, right + 1);
    first = left;
  }
}

static uint64_t kernel(int round) {
  (void)round;
  uint32_t state = 521288629u;
  for (int i = 0; i < COUNT; i++) values[i] = next_random(&state);
  sort(values, values + COUNT);
  uint64_t sum = 0;
  for (int i = 0; i < COUNT; i += 997) sum = mix(sum, values[i]);
  return sum;
}
