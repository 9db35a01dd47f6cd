// Recursion of several shapes, mutual and through pointers.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static unsigned ackermann(unsigned m, unsigned n) {
  return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}
static unsigned long hanoi(int n, int a, int b, int c, unsigned long moves) {
  if (n == 0) return moves;
  moves = hanoi(n - 1, a, c, b, moves);
  return hanoi(n - 1, c, b, a, moves * 3 + (unsigned)(a * 7 + b));
}
static int queens(int n, int row, unsigned columns, unsigned up, unsigned down) {
  if (row == n) return 1;
  int count = 0;
  for (int column = 0; column < n; column++) {
    unsigned c = 1u << column, u = 1u << (row + column), d = 1u << (row - column + n);
    if ((columns & c) || (up & u) || (down & d)) continue;
    count += queens(n, row + 1, columns | c, up | u, down | d);
  }
  return count;
}
struct tree { struct tree *left, *right; int key; };
static struct tree *insert(struct tree *t, int key) {
  if (!t) {
    t = calloc(1, sizeof *t);
    t->key = key;
  } else if (key < t->key) {
    t->left = insert(t->left, key);
  } else if (key > t->key) {
    t->right = insert(t->right, key);
  }
  return t;
}
typedef void visitor(const struct tree *, void *, int);
static void visit(const struct tree *t, visitor *v, void *data, int depth) {
  if (!t) return;
  visit(t->left, v, data, depth + 1);
  v(t, data, depth);
  visit(t->right, v, data, depth + 1);
}
static void add(const struct tree *t, void *data, int depth) { *(long *)data = *(long *)data * 31 + t->key * depth; }
static void drop(struct tree *t) {
  if (!t) return;
  drop(t->left);
  drop(t->right);
  free(t);
}
static long long even(int n, long long x);
static long long odd(int n, long long x) { return n == 0 ? -x : even(n - 1, x * 3 + 1) ^ 5; }
static long long even(int n, long long x) { return n == 0 ? x : odd(n - 1, x + 7) + n; }
static int permute(char *s, int n, unsigned *hash) {
  if (n == 0) {
    for (char *c = s; *c; c++) *hash = *hash * 33 + (unsigned char)*c;
    return 1;
  }
  int count = 0;
  for (int i = 0; i < n; i++) {
    char kept = s[i];
    s[i] = s[n - 1];
    s[n - 1] = kept;
    count += permute(s, n - 1, hash);
    s[n - 1] = s[i];
    s[i] = kept;
  }
  return count;
}

int main(int argc, char **argv) {
  int rounds = argc > 1 ? atoi(argv[1]) : 1;
  for (int round = 0; round < rounds; round++) {
    struct tree *t = NULL;
    unsigned seed = (unsigned)round + 1;
    for (int i = 0; i < 300; i++) t = insert(t, (int)((seed = seed * 1103515245 + 12345) >> 8) % 1000);
    long sum = 0;
    visit(t, add, &sum, 0);
    drop(t);
    char letters[] = "abcdef";
    unsigned hash = 0;
    int permutations = permute(letters, 6, &hash);
    printf("%u %lu %d %d %lld %d %08x\n", ackermann(2, 9 + (unsigned)round % 5), hanoi(9, 1, 2, 3, 0) & 0xffffffff,
           queens(6, 0, 0, 0, 0), (int)sum, even(500, round), permutations, hash);
  }
  return 0;
}
