// A service's first call: wasi-libc's allocator, a few pages of heap, a little work.
#include <stdlib.h>
#include <string.h>

__attribute__((export_name("call"))) int call(int seed) {
  enum { kBytes = 4096, kBlocks = 4 };
  unsigned sum = (unsigned)seed;
  for (int i = 0; i < kBlocks; i++) {
    unsigned char *block = malloc(kBytes);
    if (!block) abort();
    memset(block, seed + i, kBytes);
    for (int j = 0; j < kBytes; j += 64) sum = sum * 31 + block[j];
    if (i % 2) free(block);
  }
  return (int)sum;
}
