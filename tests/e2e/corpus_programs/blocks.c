// Large moves and fills of memory, growth, and a compressor over them.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned hash_of(const unsigned char *p, size_t n) {
  unsigned h = 2166136261u;
  for (size_t i = 0; i < n; i++) h = (h ^ p[i]) * 16777619u;
  return h;
}
static size_t compress(const unsigned char *in, size_t n, unsigned char *out) {
  static unsigned short table[4096];
  memset(table, 0, sizeof table);
  size_t o = 0;
  for (size_t i = 0; i < n;) {
    unsigned key = n - i >= 3 ? (in[i] | in[i + 1] << 8 | in[i + 2] << 16) * 2654435761u >> 20 : 0;
    size_t back = n - i >= 3 && table[key] ? (i & 0xffff) - table[key] + 1 : 0, length = 0;
    if (back && back <= i) {
      while (i + length < n && length < 200 && in[i + length] == in[i + length - back]) length++;
    }
    if (n - i >= 3) table[key] = (unsigned short)((i & 0xffff) + 1);
    if (length > 4) {
      out[o++] = 255;
      out[o++] = (unsigned char)length;
      out[o++] = (unsigned char)back;
      out[o++] = (unsigned char)(back >> 8);
      i += length;
    } else {
      out[o++] = in[i] == 255 ? 254 : in[i];
      i++;
    }
  }
  return o;
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 1;
  size_t size = 300000;
  unsigned char *a = malloc(size), *b = malloc(size), *grown = NULL;
  size_t length = 0;
  for (int round = 0; round < rounds; round++) {
    memset(a, round + 1, size);
    for (size_t i = 0; i < size; i += 7) a[i] = (unsigned char)(i * i >> 9);
    memcpy(b, a, size);
    memmove(b + 1000, b, size - 1000);
    memmove(b, b + 3, size - 3);
    memset(b + 50000, 0xee, 100000);
    size_t packed = compress(b, 60000, a);
    grown = realloc(grown, length + packed);
    memcpy(grown + length, a, packed);
    length += packed;
    printf("%zu %08x %08x %d\n", packed, hash_of(grown, length), hash_of(b, size), memcmp(a, b, 1000) > 0);
  }
  free(a);
  free(b);
  free(grown);
  return 0;
}
