// SHA-256 (FIPS 180-4) of a buffer: straight-line integer code in a loop of 64 steps.
#include "kernel.h"

enum { BLOCKS = 16384, PASSES = 12 };
static uint32_t constants[64];
static uint32_t message[BLOCKS][16];

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

// The first 32 bits of the fractional part of the cube root of `prime`, by integer search.
static uint32_t cube_root_bits(uint32_t prime) {
  uint64_t root = 0;  // floor(cbrt(prime) * 2^32)
  for (int bit = 34; bit >= 0; bit--) {
    unsigned __int128 trial = root | 1ull << bit;
    // trial^3 <= prime * 2^96, compared without overflow: trial < 2^35, so trial^2 * trial < 2^105.
    if (trial * trial * trial <= (unsigned __int128)prime << 96) root |= 1ull << bit;
  }
  return (uint32_t)root;
}

static uint64_t kernel(int round) {
  (void)round;
  for (uint32_t n = 0, candidate = 2; n < 64; candidate++) {
    int prime = 1;
    for (uint32_t d = 2; d * d <= candidate; d++) prime &= candidate % d != 0;
    if (prime) constants[n++] = cube_root_bits(candidate);
  }
  uint32_t random = 88675123u;
  for (int b = 0; b < BLOCKS; b++)
    for (int i = 0; i < 16; i++) message[b][i] = next_random(&random);
  uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  for (int pass = 0; pass < PASSES; pass++)
    for (int b = 0; b < BLOCKS; b++) {
      uint32_t w[64], s[8];
      for (int i = 0; i < 16; i++) w[i] = message[b][i];
      for (int i = 16; i < 64; i++) {
        uint32_t low = rotate(w[i - 15], 7) ^ rotate(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t high = rotate(w[i - 2], 17) ^ rotate(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + low + w[i - 7] + high;
      }
      for (int i = 0; i < 8; i++) s[i] = h[i];
      for (int i = 0; i < 64; i++) {
        uint32_t choose = (s[4] & s[5]) ^ (~s[4] & s[6]), majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
        uint32_t t1 = s[7] + (rotate(s[4], 6) ^ rotate(s[4], 11) ^ rotate(s[4], 25)) + choose + constants[i] + w[i];
        uint32_t t2 = (rotate(s[0], 2) ^ rotate(s[0], 13) ^ rotate(s[0], 22)) + majority;
        s[7] = s[6], s[6] = s[5], s[5] = s[4], s[4] = s[3] + t1, s[3] = s[2], s[2] = s[1], s[1] = s[0], s[0] = t1 + t2;
      }
      for (int i = 0; i < 8; i++) h[i] += s[i];
    }
  return (uint64_t)h[0] << 32 | h[7];
}
