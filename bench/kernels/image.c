// Blur, edges and a histogram of an RGB picture: small stencils over bytes.
#include "kernel.h"

enum { WIDTH = 640, HEIGHT = 480, PASSES = 48 };
static uint8_t rgb[HEIGHT][WIDTH][3], grey[HEIGHT][WIDTH], blurred[HEIGHT][WIDTH], edges[HEIGHT][WIDTH];

static uint64_t kernel(int round) {
  (void)round;
  uint32_t seed = 31337, histogram[256] = {0};
  for (int y = 0; y < HEIGHT; y++)
    for (int x = 0; x < WIDTH; x++) {
      const uint32_t noise = next_random(&seed);
      rgb[y][x][0] = (uint8_t)(x * 3 + (noise & 15));
      rgb[y][x][1] = (uint8_t)(y * 2 + (noise >> 8 & 15));
      rgb[y][x][2] = (uint8_t)((x ^ y) + (noise >> 16 & 15));
    }
  for (int pass = 0; pass < PASSES; pass++) {
    for (int y = 0; y < HEIGHT; y++)
      for (int x = 0; x < WIDTH; x++) grey[y][x] = (uint8_t)((rgb[y][x][0] * 77 + rgb[y][x][1] * 151 + rgb[y][x][2] * 28) >> 8);
    for (int y = 1; y < HEIGHT - 1; y++)
      for (int x = 1; x < WIDTH - 1; x++) {
        int sum = 4 * grey[y][x] + 2 * (grey[y - 1][x] + grey[y + 1][x] + grey[y][x - 1] + grey[y][x + 1]);
        sum += grey[y - 1][x - 1] + grey[y - 1][x + 1] + grey[y + 1][x - 1] + grey[y + 1][x + 1];
        blurred[y][x] = (uint8_t)(sum >> 4);
      }
    for (int y = 1; y < HEIGHT - 1; y++)
      for (int x = 1; x < WIDTH - 1; x++) {
        const int across = blurred[y][x + 1] - blurred[y][x - 1], down = blurred[y + 1][x] - blurred[y - 1][x];
        const int strength = (across < 0 ? -across : across) + (down < 0 ? -down : down);
        edges[y][x] = (uint8_t)(strength > 255 ? 255 : strength);
      }
    for (int y = 0; y < HEIGHT; y++)
      for (int x = 0; x < WIDTH; x++) {
        histogram[edges[y][x]]++;
        rgb[y][x][pass % 3] = (uint8_t)(rgb[y][x][pass % 3] + edges[y][x]);
      }
  }
  uint64_t sum = 1;
  for (int i = 0; i < 256; i++) sum = mix(sum, histogram[i]);
  return sum;
}
