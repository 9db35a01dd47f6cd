// Modular exponentiation of 1024-bit numbers (Montgomery): carries and wide products.
#include "kernel.h"

enum { LIMBS = 32, BITS = 512 };
static uint32_t modulus[LIMBS], base[LIMBS], exponent[BITS / 32], inverse;

static void multiply(uint32_t *to, const uint32_t *x, const uint32_t *y) {
  uint32_t t[LIMBS + 2] = {0};
  for (int i = 0; i < LIMBS; i++) {
    uint64_t carry = 0;
    for (int j = 0; j < LIMBS; j++) {
      carry += (uint64_t)x[i] * y[j] + t[j];
      t[j] = (uint32_t)carry;
      carry >>= 32;
    }
    carry += t[LIMBS];
    t[LIMBS] = (uint32_t)carry;
    t[LIMBS + 1] = (uint32_t)(carry >> 32);
    const uint32_t m = t[0] * inverse;
    carry = ((uint64_t)m * modulus[0] + t[0]) >> 32;
    for (int j = 1; j < LIMBS; j++) {
      carry += (uint64_t)m * modulus[j] + t[j];
      t[j - 1] = (uint32_t)carry;
      carry >>= 32;
    }
    carry += t[LIMBS];
    t[LIMBS - 1] = (uint32_t)carry;
    t[LIMBS] = t[LIMBS + 1] + (uint32_t)(carry >> 32);
  }
  uint32_t difference[LIMBS];
  uint64_t borrow = 0;
  for (int i = 0; i < LIMBS; i++) {
    const uint64_t d = (uint64_t)t[i] - modulus[i] - borrow;
    difference[i] = (uint32_t)d;
    borrow = d >> 63;
  }
  const int below = t[LIMBS] < borrow;
  for (int i = 0; i < LIMBS; i++) to[i] = below ? t[i] : difference[i];
}

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 8675309;
  for (int i = 0; i < LIMBS; i++) {
    modulus[i] = next_random(&seed);
    base[i] = next_random(&seed);
  }
  modulus[0] |= 1;
  modulus[LIMBS - 1] |= 1u << 31;
  base[LIMBS - 1] &= ~(1u << 31);
  for (int i = 0; i < BITS / 32; i++) exponent[i] = next_random(&seed);
  inverse = 1;
  for (int i = 0; i < 5; i++) inverse *= 2 - modulus[0] * inverse;
  inverse = 0 - inverse;
  uint64_t sum = 1;
  for (int pass = 0; pass < 24; pass++) {
    uint32_t power[LIMBS];
    for (int i = 0; i < LIMBS; i++) power[i] = base[i];
    for (int bit = BITS - 2; bit >= 0; bit--) {
      multiply(power, power, power);
      if (exponent[bit / 32] >> bit % 32 & 1) multiply(power, power, base);
    }
    for (int i = 0; i < LIMBS; i++) sum = mix(sum, power[i]);
    base[pass] ^= power[pass];
  }
  return sum;
}
