// A greedy LZ77 match finder over text-like bytes: mixed branches, loads and short loops.
#include "kernel.h"

enum { BYTES = 1 << 20, HASH_BITS = 14, WINDOW = 65535, LONGEST = 255 };
static uint8_t text[BYTES + LONGEST];
static int32_t last[1 << HASH_BITS];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t state = 2882400001u;
  for (int i = 0; i < BYTES;) {  // Words of a small vocabulary, so that there is something to match.
    uint32_t word = next_random(&state) % 2048, length = 3 + word % 7;
    for (uint32_t k = 0; k < length && i < BYTES; k++) text[i++] = (uint8_t)('a' + (word * 31 + k * k * 7) % 26);
    if (i < BYTES) text[i++] = ' ';
  }
  uint64_t sum = 0;
  for (int pass = 0; pass < 16; pass++) {
    for (int i = 0; i < 1 << HASH_BITS; i++) last[i] = -WINDOW - 1;
    for (int at = 0; at + 4 < BYTES;) {
      uint32_t four = text[at] | text[at + 1] << 8 | text[at + 2] << 16 | (uint32_t)text[at + 3] << 24;
      int32_t *entry = &last[four * 2654435761u >> (32 - HASH_BITS)], from = *entry, length = 0;
      *entry = at;
      if (at - from <= WINDOW)
        while (length < LONGEST && at + length < BYTES && text[from + length] == text[at + length]) length++;
      if (length >= 4) {
        sum = mix(sum, (uint64_t)(at - from) << 8 | (uint64_t)length);
        at += length;
      } else {
        at++;
      }
    }
  }
  return sum;
}
