// Reads and writes files, recurses, computes and prints, so that a stop can fall into any of these.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned long long depth_sum(unsigned depth, unsigned seed) {
  return depth == 0 ? seed : depth_sum(depth - 1, seed * 1103515245u + 12345u) + (seed & 7);
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 1;
  FILE *out = fopen("work/tally.txt", "w");
  if (out == NULL) return 2;
  double wave = 0;
  for (int round = 0; round < rounds; round++) {
    char *words[500];
    for (int i = 0; i < 500; i++) {
      words[i] = malloc(24);
      snprintf(words[i], 24, "w%08x", (unsigned)(i * 2654435761u + (unsigned)round * 40503u));
    }
    qsort(words, 500, sizeof *words, compare);
    for (int i = 0; i < 20000; i++) wave += sin(i * 0.001 + round);
    fprintf(out, "%d %s %s %llu\n", round, words[0], words[499], depth_sum(300, (unsigned)round));
    for (int i = 0; i < 500; i++) free(words[i]);
    if (round % 10 == 0) printf("round %d %.9f\n", round, wave);
  }
  fclose(out);
  FILE *in = fopen("work/tally.txt", "r");
  unsigned long long hash = 14695981039346656037ull;
  for (int c; (c = getc(in)) != EOF;) hash = (hash ^ (unsigned)c) * 1099511628211ull;
  printf("%016llx\n", hash);
  return 3;
}
