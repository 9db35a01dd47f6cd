// Huffman coding: counts, a tree, bits out and in again.
#include "kernel.h"

enum { BYTES = 400000, PASSES = 4 };
static uint8_t input[BYTES], coded[BYTES * 2], output[BYTES];
static uint32_t counts[512], code[256];
static int left[512], right[512], length[256];

static void assign(int node, uint32_t bits, int depth) {
  if (node < 256) {
    code[node] = bits;
    length[node] = depth;
    return;
  }
  assign(left[node], bits << 1, depth + 1);
  assign(right[node], bits << 1 | 1, depth + 1);
}

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 2024;
  for (int i = 0; i < BYTES; i++) {
    const uint32_t r = next_random(&seed);
    input[i] = (uint8_t)((r & 255) * (r >> 8 & 255) * (r >> 16 & 255) >> 16);
  }
  uint64_t sum = 1;
  for (int pass = 0; pass < PASSES; pass++) {
    int live[256], n = 256, next = 256;
    for (int i = 0; i < 256; i++) counts[i] = 1;
    for (int i = 0; i < BYTES; i++) counts[input[i]]++;
    for (int i = 0; i < 256; i++) live[i] = i;
    while (n > 1) {
      for (int pick = 0; pick < 2; pick++) {
        int least = 0;
        for (int i = 1; i < n; i++)
          if (counts[live[i]] < counts[live[least]]) least = i;
        if (pick == 0) left[next] = live[least];
        else right[next] = live[least];
        live[least] = live[--n];
      }
      counts[next] = counts[left[next]] + counts[right[next]];
      live[n++] = next++;
    }
    assign(next - 1, 0, 0);
    uint64_t bits = 0;
    int held = 0;
    uint32_t at = 0;
    for (int i = 0; i < BYTES; i++) {
      bits = bits << length[input[i]] | code[input[i]];
      for (held += length[input[i]]; held >= 8; held -= 8) coded[at++] = (uint8_t)(bits >> (held - 8));
    }
    coded[at] = (uint8_t)(bits << (8 - held));
    uint32_t bit = 0;
    for (int i = 0; i < BYTES; i++) {
      int node = next - 1;
      for (; node >= 256; bit++) node = coded[bit >> 3] >> (7 - (bit & 7)) & 1 ? right[node] : left[node];
      output[i] = (uint8_t)node;
    }
    for (int i = 0; i < BYTES; i += 1001) sum = mix(sum, output[i]);
    sum = mix(sum, at);
    input[pass]++;
  }
  return sum;
}
