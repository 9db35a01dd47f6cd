// A radix-2 Fourier transform and its inverse, with twiddle factors from a recurrence: strided double precision.
#include "kernel.h"

enum { LOG = 14, N = 1 << LOG, PASSES = 40 };
static double re[N], im[N], cosine[N / 2], sine[N / 2];

static void transform(double direction) {
  for (uint32_t i = 0, j = 0; i < N; i++) {
    if (i < j) {
      double t = re[i];
      re[i] = re[j];
      re[j] = t;
      t = im[i];
      im[i] = im[j];
      im[j] = t;
    }
    uint32_t bit = N >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
  }
  for (int half = 1; half < N; half *= 2) {
    const int stride = N / (2 * half);
    for (int block = 0; block < N; block += 2 * half)
      for (int k = 0; k < half; k++) {
        const double c = cosine[k * stride], s = direction * sine[k * stride];
        const int a = block + k, b = a + half;
        const double x = re[b] * c - im[b] * s, y = re[b] * s + im[b] * c;
        re[b] = re[a] - x;
        im[b] = im[a] - y;
        re[a] += x;
        im[a] += y;
      }
  }
}

static uint64_t kernel(int round) {
  (void)round;
  // cos and sin of 2 pi / N: two C libraries' functions need not agree in the last bit.
  const double c1 = 0.9999999264657178511447, s1 = 0.0003834951875713955687;
  cosine[0] = 1;
  sine[0] = 0;
  for (int i = 1; i < N / 2; i++) {
    cosine[i] = cosine[i - 1] * c1 - sine[i - 1] * s1;
    sine[i] = sine[i - 1] * c1 + cosine[i - 1] * s1;
  }
  uint32_t seed = 5;
  for (int i = 0; i < N; i++) {
    re[i] = (double)(next_random(&seed) >> 16) / 65536.0;
    im[i] = 0;
  }
  for (int pass = 0; pass < PASSES; pass++) {
    transform(1);
    transform(-1);
    for (int i = 0; i < N; i++) {
      re[i] /= N;
      im[i] /= N;
    }
  }
  uint64_t sum = 1;
  for (int i = 0; i < N; i += 61) sum = mix(sum, bits_of(re[i]));
  return sum;
}
