// Each argument or query names a trap; the comments name the line that must be reported.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static volatile int zero;
static int *volatile far = (int *)0x7ffffff0;

static long long Twice(long long x) { return 2 * x; }
static void *volatile function = (void *)Twice;

__attribute__((noinline)) static int Divide(int x) {
  return x / zero;  // divide
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : getenv("QUERY_STRING");
  if (!what) return 1;
  long sum = 0;
  for (int i = 0; i < 100000; i++) sum += i ^ zero;
  if (!strcmp(what, "divide")) return Divide(argc);
  if (!strcmp(what, "load")) {
    return *far;  // load
  }
  if (!strcmp(what, "unreachable")) {
    if (sum != 1) __builtin_trap();  // unreachable
  }
  if (!strcmp(what, "indirect")) {
    return ((int (*)(int, int))function)(1, 2);  // indirect
  }
  printf("Content-Type: text/plain\r\n\r\n%ld\n", sum);
}
