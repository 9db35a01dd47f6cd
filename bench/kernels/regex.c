// A small backtracking matcher of regular expressions over log lines: recursion and unpredictable branches.
#include "kernel.h"

enum { LINES = 4000, LINE = 96, PASSES = 2 };
static char lines[LINES][LINE];

static int match_here(const char *pattern, const char *at);

// [a-z0-9] and single characters; returns the length of the pattern's element.
static int element_length(const char *pattern) {
  if (*pattern == '\\') return 2;
  if (*pattern != '[') return 1;
  int n = 1;
  while (pattern[n] != ']') n++;
  return n + 1;
}
static int matches_one(const char *pattern, int length, char c) {
  if (!c) return 0;
  if (*pattern == '.') return 1;
  if (*pattern == '\\') return pattern[1] == 'd' ? c >= '0' && c <= '9' : pattern[1] == 's' ? c == ' ' : pattern[1] == c;
  if (*pattern != '[') return *pattern == c;
  const int negated = pattern[1] == '^';
  for (int i = 1 + negated; i < length - 1; i++) {
    if (i + 2 < length - 1 && pattern[i + 1] == '-') {
      if (c >= pattern[i] && c <= pattern[i + 2]) return !negated;
      i += 2;
    } else if (pattern[i] == c) {
      return !negated;
    }
  }
  return negated;
}
static int match_repeated(const char *one, int length, int least, const char *rest, const char *at) {
  int n = 0;
  while (matches_one(one, length, at[n])) n++;
  for (; n >= least; n--)
    if (match_here(rest, at + n)) return 1;
  return 0;
}
static int match_here(const char *pattern, const char *at) {
  for (;;) {
    if (!*pattern) return 1;
    if (*pattern == '$' && !pattern[1]) return !*at;
    const int length = element_length(pattern);
    const char after = pattern[length];
    if (after == '*') return match_repeated(pattern, length, 0, pattern + length + 1, at);
    if (after == '+') return match_repeated(pattern, length, 1, pattern + length + 1, at);
    if (after == '?') {
      if (matches_one(pattern, length, *at) && match_here(pattern + length + 1, at + 1)) return 1;
      pattern += length + 1;
      continue;
    }
    if (!matches_one(pattern, length, *at)) return 0;
    pattern += length;
    at++;
  }
}
static int search(const char *pattern, const char *text) {
  if (*pattern == '^') return match_here(pattern + 1, text);
  do
    if (match_here(pattern, text)) return 1;
  while (*text++);
  return 0;
}

static const char *const patterns[] = {
    "^\\d+\\.\\d+\\.\\d+\\.\\d+ ", "[a-z]+@[a-z]+\\.com", "GET /[a-z]*/[a-z0-9]+ ", "\\s[45]\\d\\d\\s", "a.*b.*c.*d$", "x+y+z", "[^a-z ]+ms$",
};

static void make_lines(void) {
  static const char alphabet[] = "abcdefghijklmnopqrstuvwxyz0123456789. @/";
  static const char start[] = "10.0.7.4 GET /";
  uint32_t seed = 99;
  for (int i = 0; i < LINES; i++) {
    int n = 0;
    if (next_random(&seed) % 3)
      for (; start[n]; n++) lines[i][n] = start[n];
    while (n < LINE - 10) lines[i][n++] = alphabet[next_random(&seed) % (sizeof alphabet - 1)];
    for (const char *end = next_random(&seed) & 1 ? " 404 17ms" : "@host.com"; *end;) lines[i][n++] = *end++;
    lines[i][n] = 0;
  }
}

static uint64_t kernel(int round) {
  (void)round;
  if (!lines[0][0]) make_lines();
  uint64_t sum = 1;
  for (int pass = 0; pass < PASSES; pass++)
    for (uint32_t p = 0; p < sizeof patterns / sizeof *patterns; p++) {
      uint32_t found = 0;
      for (int i = 0; i < LINES; i++) found += (uint32_t)search(patterns[p], lines[i]);
      sum = mix(sum, found);
    }
  return sum;
}
