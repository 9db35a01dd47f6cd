// Variadic functions, printf's core in its many forms, scanning, strings, and sorting by callback.
#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *format(const char *how, ...) {
  va_list list, again;
  va_start(list, how);
  va_copy(again, list);
  int bytes = vsnprintf(NULL, 0, how, list);
  char *text = malloc((size_t)bytes + 1);
  vsnprintf(text, (size_t)bytes + 1, how, again);
  va_end(list);
  va_end(again);
  return text;
}

static double sum_of(const char *kinds, ...) {
  va_list list;
  va_start(list, kinds);
  double sum = 0;
  for (; *kinds; kinds++) {
    switch (*kinds) {
      case 'i': sum += va_arg(list, int); break;
      case 'l': sum += (double)va_arg(list, long long); break;
      case 'd': sum += va_arg(list, double); break;
      case 's': sum += strlen(va_arg(list, char *)); break;
    }
  }
  va_end(list);
  return sum;
}

static int by_length(const void *a, const void *b) {
  const char *x = *(char *const *)a, *y = *(char *const *)b;
  size_t m = strlen(x), n = strlen(y);
  return m != n ? (m < n ? -1 : 1) : strcmp(x, y);
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 2;
  unsigned long long hash = 14695981039346656037ull;
  for (int round = 0; round < rounds; round++) {
    char *lines[60];
    for (int i = 0; i < 60; i++) {
      double x = (i - 30) * 1.37e-3 * (round + 1) * (i % 7 == 0 ? 1e15 : 1);
      switch (i % 6) {
        case 0: lines[i] = format("%d %5d|%-8d|%+d %x %o", i, i * round, -i, i, i * 7919u, i); break;
        case 1: lines[i] = format("%f %.3e %g %a", x, x, x, x); break;
        case 2: lines[i] = format("%s|%10.3s|%-10s|%c", "text", "truncated", "left", 'a' + i % 26); break;
        case 3: lines[i] = format("%" PRId64 " %" PRIu64 " %020" PRIx64, (int64_t)i * -1234567890123, (uint64_t)i << 40, (uint64_t)i * 0x9e3779b97f4a7c15u); break;
        case 4: lines[i] = format("%*d %.*f %%", i % 20, i, i % 9, x * 3); break;
        default: lines[i] = format("%.15g %.0f %#x %hhd", x * x, x, i, i * 77);
      }
    }
    qsort(lines, 60, sizeof *lines, by_length);
    for (int i = 0; i < 60; i++) {
      int number = 0;
      char word[32] = "";
      float parsed = 0;
      int fields = sscanf(lines[i], "%d %31s %f", &number, word, &parsed);
      hash = (hash ^ (unsigned)(fields + number)) * 1099511628211ull;
      for (char *c = lines[i]; *c; c++) hash = (hash ^ (unsigned char)toupper(*c)) * 1099511628211ull;
      if (round == 0 && i % 9 == 0) puts(lines[i]);
      free(lines[i]);
    }
    double total = sum_of("idlsid", round, 0.5, -3ll, "four", 5, 6.25);
    if (round % 50 == 0) printf("%d: %016llx %.3f %ld\n", round, hash, total, strtol("0x7fff", NULL, 0));
  }
  printf("%016llx\n", hash);
  return 0;
}
