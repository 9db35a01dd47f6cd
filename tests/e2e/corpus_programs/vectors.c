// 128-bit vectors that live across calls and loops.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef uint8_t u8x16 __attribute__((vector_size(16)));
typedef int16_t i16x8 __attribute__((vector_size(16)));
typedef uint64_t u64x2 __attribute__((vector_size(16)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef double f64x2 __attribute__((vector_size(16)));

static uint8_t bytes[4096];

__attribute__((noinline)) static i32x4 step(i32x4 x, int n) {
  for (int i = 0; i < n; i++) x = x * 1664525 + (i32x4){1, 3, 5, 7};
  return x;
}
__attribute__((noinline)) static f32x4 deep(int n, f32x4 x, i32x4 y) {
  if (n == 0) return x;
  f32x4 below = deep(n - 1, x * 0.5f + (f32x4){1, 2, 3, 4}, step(y, 3));
  return below + (f32x4){(float)(y[0] & 15), (float)(y[1] & 15), (float)(y[2] & 15), (float)(y[3] & 15)};
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 2;
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < 4096; i++) bytes[i] = (uint8_t)(i * 31 + round);
    u8x16 top = {0}, sum = {0};
    i16x8 wide = {0};
    u64x2 hash = {1, 2};
    f64x2 mean = {0, 0};
    for (int i = 0; i < 4096; i += 16) {
      u8x16 v;
      __builtin_memcpy(&v, bytes + i, 16);
      top = (u8x16)(((v > top) & v) | (~(v > top) & top));
      sum += v;
      wide += __builtin_convertvector(__builtin_shufflevector(v, v, 0, 2, 4, 6, 8, 10, 12, 14), i16x8);
      u64x2 as64 = (u64x2)v;
      hash = (hash ^ as64) * 0x100000001b3ull;
      mean += __builtin_convertvector(as64 >> 40, f64x2);
      if (i % 1024 == 0) hash ^= (u64x2)step((i32x4)v, 20);
    }
    f32x4 f = deep(12, (f32x4){0.5f, 1, 1.5f, 2}, (i32x4){round, 2, 3, 4});
    printf("%d %d %d %016llx %016llx %.1f %.9g %.9g\n", top[3], sum[7], wide[5], (unsigned long long)hash[0], (unsigned long long)hash[1],
           mean[0] + mean[1], (double)f[0], (double)f[3]);
  }
  return 0;
}
