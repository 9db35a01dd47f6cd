// Shortest paths in a sparse graph with a binary heap: scattered memory and data-dependent branches.
#include "kernel.h"

enum { NODES = 1 << 16, DEGREE = 6, SOURCES = 3 };
static uint32_t targets[NODES * DEGREE], weights[NODES * DEGREE];
static uint32_t distance[NODES];
struct entry { uint32_t distance, node; };
static struct entry heap[NODES * DEGREE];
static uint32_t heap_size;

static void push(uint32_t node, uint32_t away) {
  uint32_t at = heap_size++;
  while (at && heap[(at - 1) / 2].distance > away) {
    heap[at] = heap[(at - 1) / 2];
    at = (at - 1) / 2;
  }
  heap[at] = (struct entry){away, node};
}
static struct entry pop(void) {
  const struct entry top = heap[0], last = heap[--heap_size];
  uint32_t at = 0;
  for (uint32_t child; (child = 2 * at + 1) < heap_size; at = child) {
    if (child + 1 < heap_size && heap[child + 1].distance < heap[child].distance) child++;
    if (heap[child].distance >= last.distance) break;
    heap[at] = heap[child];
  }
  heap[at] = last;
  return top;
}

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 4242;
  for (uint32_t i = 0; i < NODES * DEGREE; i++) {
    targets[i] = next_random(&seed) % NODES;
    weights[i] = 1 + next_random(&seed) % 1000;
  }
  uint64_t sum = 1;
  for (uint32_t source = 0; source < SOURCES; source++) {
    for (uint32_t i = 0; i < NODES; i++) distance[i] = ~0u;
    distance[source] = 0;
    push(source, 0);
    while (heap_size) {
      const struct entry at = pop();
      if (at.distance > distance[at.node]) continue;
      for (uint32_t e = at.node * DEGREE; e < (at.node + 1) * DEGREE; e++) {
        const uint32_t away = at.distance + weights[e];
        if (away < distance[targets[e]]) {
          distance[targets[e]] = away;
          push(targets[e], away);
        }
      }
    }
    for (uint32_t i = 0; i < NODES; i++) sum = mix(sum, distance[i]);
  }
  return sum;
}
