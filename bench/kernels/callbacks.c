// Heap sort and a pipeline of small functions through pointers: what an indirect call costs.
#include "kernel.h"

enum { COUNT = 60000, PASSES = 4, STAGES = 6 };
struct record { uint32_t key; float weight; uint32_t payload; };
static struct record records[COUNT];

static int by_key(const struct record *x, const struct record *y) { return x->key < y->key ? -1 : x->key > y->key; }
static int by_weight(const struct record *x, const struct record *y) { return x->weight < y->weight ? -1 : x->weight > y->weight; }
static int by_payload(const struct record *x, const struct record *y) { return x->payload < y->payload ? -1 : x->payload > y->payload; }
typedef int comparison(const struct record *, const struct record *);
static comparison *const volatile comparisons[] = {by_key, by_weight, by_payload, by_key};

static void sift(struct record *items, uint32_t at, uint32_t count, comparison *compare) {
  const struct record item = items[at];
  for (uint32_t child; (child = 2 * at + 1) < count; at = child) {
    if (child + 1 < count && compare(&items[child], &items[child + 1]) < 0) child++;
    if (compare(&item, &items[child]) >= 0) break;
    items[at] = items[child];
  }
  items[at] = item;
}
static void sort(struct record *items, uint32_t count, comparison *compare) {
  for (uint32_t i = count / 2; i-- > 0;) sift(items, i, count, compare);
  for (uint32_t end = count; end-- > 1;) {
    const struct record top = items[0];
    items[0] = items[end];
    items[end] = top;
    sift(items, 0, end, compare);
  }
}

static uint32_t add(uint32_t x) { return x + 0x9e3779b9u; }
static uint32_t fold(uint32_t x) { return x ^ x >> 15; }
static uint32_t scale(uint32_t x) { return x * 2246822519u; }
static uint32_t turn(uint32_t x) { return x << 13 | x >> 19; }
typedef uint32_t stage(uint32_t);
static stage *const volatile stages[STAGES] = {add, fold, scale, turn, fold, add};

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 55555;
  for (int i = 0; i < COUNT; i++) {
    const uint32_t r = next_random(&seed);
    records[i] = (struct record){r, (float)(r >> 8 & 0xffff) / 7.0f, r * 2654435761u};
  }
  uint64_t sum = 1;
  for (int pass = 0; pass < PASSES; pass++) {
    sort(records, COUNT, comparisons[pass]);
    for (int i = 0; i < COUNT; i++) {
      uint32_t value = records[i].key;
      for (int s = 0; s < STAGES; s++) value = stages[s](value);
      sum = mix(sum, value);
    }
  }
  return sum;
}
