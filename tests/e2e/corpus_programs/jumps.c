// setjmp and longjmp: out of recursion, out of qsort, in loops, between two buffers.
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>

static jmp_buf top, inner, other;
static unsigned hash;  // Not a local: those that change after a setjmp are lost.

__attribute__((noinline)) static int deep(int n, int value) {
  if (n == 0) longjmp(top, value);
  int below = deep(n - 1, value);
  return below + n;
}

static int compare(const void *a, const void *b) {
  int x = *(const int *)a, y = *(const int *)b;
  if (x == 77 || y == 77) longjmp(inner, 5);
  return x - y;
}

static int nested(int k) {
  switch (setjmp(inner)) {
    case 0: break;
    case 5: return k * 2;
    default: return -1;
  }
  int numbers[50];
  for (int i = 0; i < 50; i++) numbers[i] = (i * 37 + k) % 101;
  qsort(numbers, 50, sizeof *numbers, compare);
  return numbers[k % 50];
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 3;
  volatile int count = 0;
  for (volatile int round = 0; round < rounds; round++) {
    count = 0;
    int value = setjmp(top);
    hash = hash * 31 + (unsigned)value;
    if (value < 5) {
      count++;
      deep(10 * count, value + 1);
    }
    hash = hash * 31 + (unsigned)count;
    hash = hash * 31 + (unsigned)nested((int)round % 90);
    int w = setjmp(other);
    if (w == 0) longjmp(other, 0);
    hash = hash * 31 + (unsigned)w;
    for (volatile int i = 0; i < 4; i++) {
      switch (setjmp(top)) {
        case 0: deep(i, i + 7); break;
        case 7: hash ^= 0x5555; break;
        case 8: hash += 3; break;
        default: hash *= 5;
      }
    }
    if (round % 10 == 0) printf("round %d: %08x\n", round, hash);
  }
  printf("%08x\n", hash);
  return 0;
}
