// Floating point in loops that an optimiser turns inside out: matrices, a transform, sums, roots, integration.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N = 24, M = 64 };
static double a[N][N], b[N][N], c[N][N];
static float grid[M][M], next_grid[M][M];
static double re[256], im[256];

static void transform(int n, int sign) {
  for (int i = 1, j = 0; i < n; i++) {
    int bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) {
      double t = re[i];
      re[i] = re[j];
      re[j] = t;
      t = im[i];
      im[i] = im[j];
      im[j] = t;
    }
  }
  for (int length = 2; length <= n; length <<= 1) {
    // A unit root by repeated half angles, so that every libm gives the same.
    double wr = length == 2 ? -1 : 0, wi = length == 2 ? 0 : sign;
    for (int l = 4; l < length; l <<= 1) {
      double h = sqrt((1 + wr) / 2);
      wi = wi / (2 * h);
      wr = h;
    }
    for (int i = 0; i < n; i += length) {
      double ur = 1, ui = 0;
      for (int k = 0; k < length / 2; k++) {
        int p = i + k, q = p + length / 2;
        double xr = re[q] * ur - im[q] * ui, xi = re[q] * ui + im[q] * ur;
        re[q] = re[p] - xr;
        im[q] = im[p] - xi;
        re[p] += xr;
        im[p] += xi;
        double t = ur * wr - ui * wi;
        ui = ur * wi + ui * wr;
        ur = t;
      }
    }
  }
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 2;
  for (int round = 0; round < rounds; round++) {
    for (int i = 0; i < N; i++) {
      for (int j = 0; j < N; j++) {
        a[i][j] = (i * j % 7) / 7.0 + round;
        b[i][j] = (i - j) / 3.0;
        c[i][j] = 0;
      }
    }
    for (int i = 0; i < N; i++)
      for (int k = 0; k < N; k++)
        for (int j = 0; j < N; j++) c[i][j] += a[i][k] * b[k][j];
    double trace = 0, norm = 0;
    for (int i = 0; i < N; i++) trace += c[i][i];
    for (int i = 0; i < N * N; i++) norm += fabs(((double *)c)[i]);
    for (int i = 0; i < M; i++)
      for (int j = 0; j < M; j++) grid[i][j] = (float)((i * 13 + j * 7 + round) % 50);
    for (int step = 0; step < 6; step++) {
      for (int i = 1; i < M - 1; i++)
        for (int j = 1; j < M - 1; j++)
          next_grid[i][j] = 0.2f * (grid[i][j] + grid[i - 1][j] + grid[i + 1][j] + grid[i][j - 1] + grid[i][j + 1]);
      memcpy(grid, next_grid, sizeof grid);
    }
    float heat = 0;
    for (int i = 0; i < M; i++) heat += grid[i][(i * 5) % M];
    for (int i = 0; i < 256; i++) {
      re[i] = (i * 37 % 256) / 256.0;
      im[i] = 0;
    }
    transform(256, 1);
    transform(256, -1);
    double worst = 0;
    for (int i = 0; i < 256; i++) worst = fmax(worst, fabs(re[i] / 256 - (i * 37 % 256) / 256.0));
    double root = 2;
    for (int i = 0; i < 30; i++) root = root - (root * root * root - round - 2) / (3 * root * root);
    long long saturated = (long long)fmin(1e18, ldexp(norm, 20));
    int small = (int)(trace / 17);
    unsigned rounded = (unsigned)nearbyint(fabs(trace)) + (unsigned)floor(heat) + (unsigned)ceil(norm) + (unsigned)trunc(root);
    printf("%.17g %.17g %.9g %d %.17g %lld %d %u %g %d\n", trace, norm, (double)heat, worst < 1e-12, root, saturated, small, rounded,
           copysign(1.0, -trace), isnan(sqrt(-1.0 - round)) != 0);
  }
  return 0;
}
