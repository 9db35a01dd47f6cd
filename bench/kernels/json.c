// A JSON document is parsed to a tree, walked, and written again: byte-wise dispatch, recursion, small allocations.
#include <string.h>

#include "kernel.h"

enum { RECORDS = 3000, TEXT = 1 << 20, NODES = 200000, PASSES = 40 };
enum kind { NUL, FALSE_, TRUE_, NUMBER, STRING, ARRAY, OBJECT };
struct node {
  enum kind kind;
  uint32_t begin, length;       // Of its text: a string's without quotes.
  uint32_t key, key_length;     // In an object.
  int32_t first, next;
  double number;
};
static char text[TEXT], written[TEXT];
static struct node nodes[NODES];
static uint32_t text_length, node_count;

static uint32_t put(char *to, uint32_t at, const char *what) {
  while (*what) to[at++] = *what++;
  return at;
}
static uint32_t put_number(char *to, uint32_t at, uint32_t value) {
  char digits[10];
  int n = 0;
  do digits[n++] = (char)('0' + value % 10);
  while (value /= 10);
  while (n) to[at++] = digits[--n];
  return at;
}

static void make_document(void) {
  uint32_t seed = 12345, at = put(text, 0, "[");
  for (int i = 0; i < RECORDS; i++) {
    at = put(text, at, i ? ",\n  {\"id\": " : "\n  {\"id\": ");
    at = put_number(text, at, (uint32_t)i);
    at = put(text, at, ", \"name\": \"user \\\"");
    for (int k = 0; k < 12; k++) text[at++] = (char)('a' + next_random(&seed) % 26);
    at = put(text, at, "\\\"\", \"score\": -");
    at = put_number(text, at, next_random(&seed) % 1000);
    text[at++] = '.';
    at = put_number(text, at, next_random(&seed) % 1000);
    at = put(text, at, "e-2, \"tags\": [");
    for (uint32_t k = 0, n = next_random(&seed) % 6; k < n; k++) {
      at = put(text, at, k ? ", \"t" : "\"t");
      at = put_number(text, at, next_random(&seed) % 100);
      text[at++] = '"';
    }
    at = put(text, at, next_random(&seed) & 1 ? "], \"on\": true, \"parent\": null}" : "], \"on\": false, \"parent\": {}}");
  }
  text_length = put(text, at, "\n]");
}

static uint32_t position;
static void skip_space(void) {
  while (text[position] == ' ' || text[position] == '\n' || text[position] == '\t' || text[position] == '\r') position++;
}
static void parse_string(uint32_t *begin, uint32_t *length) {
  *begin = ++position;
  while (text[position] != '"') position += text[position] == '\\' ? 2 : 1;
  *length = position++ - *begin;
}
static double parse_number(void) {
  double value = 0, scale = 1;
  int negative = text[position] == '-', exponent = 0, exponent_negative = 0;
  position += (uint32_t)negative;
  for (; text[position] >= '0' && text[position] <= '9'; position++) value = value * 10 + (text[position] - '0');
  if (text[position] == '.') {
    for (position++; text[position] >= '0' && text[position] <= '9'; position++) {
      scale /= 10;
      value += (text[position] - '0') * scale;
    }
  }
  if (text[position] == 'e') {
    position++;
    exponent_negative = text[position] == '-';
    position += (uint32_t)exponent_negative;
    for (; text[position] >= '0' && text[position] <= '9'; position++) exponent = exponent * 10 + (text[position] - '0');
  }
  while (exponent-- > 0) value = exponent_negative ? value / 10 : value * 10;
  return negative ? -value : value;
}
static int32_t parse_value(void) {
  skip_space();
  const int32_t self = (int32_t)node_count++;
  struct node *node = &nodes[self];
  node->begin = position;
  node->first = node->next = -1;
  switch (text[position]) {
    case '{':
    case '[': {
      const int object = text[position] == '{';
      int32_t last = -1;
      node->kind = object ? OBJECT : ARRAY;
      position++;
      for (;;) {
        uint32_t key = 0, key_length = 0;
        skip_space();
        if (text[position] == '}' || text[position] == ']') break;
        if (text[position] == ',') {
          position++;
          skip_space();
        }
        if (object) {
          parse_string(&key, &key_length);
          skip_space();
          position++;  // ':'
        }
        const int32_t child = parse_value();
        nodes[child].key = key;
        nodes[child].key_length = key_length;
        if (last < 0) node->first = child;
        else nodes[last].next = child;
        last = child;
      }
      position++;
      break;
    }
    case '"':
      node->kind = STRING;
      parse_string(&node->begin, &node->length);
      return self;
    case 't': node->kind = TRUE_; position += 4; break;
    case 'f': node->kind = FALSE_; position += 5; break;
    case 'n': node->kind = NUL; position += 4; break;
    default:
      node->kind = NUMBER;
      node->number = parse_number();
  }
  node->length = position - node->begin;
  return self;
}

static uint32_t write_value(int32_t at, uint32_t to) {
  const struct node *node = &nodes[at];
  if (node->kind != ARRAY && node->kind != OBJECT) {
    if (node->kind == STRING) written[to++] = '"';
    memcpy(written + to, text + node->begin, node->length);
    to += node->length;
    if (node->kind == STRING) written[to++] = '"';
    return to;
  }
  written[to++] = node->kind == OBJECT ? '{' : '[';
  for (int32_t child = node->first; child >= 0; child = nodes[child].next) {
    if (child != node->first) written[to++] = ',';
    if (node->kind == OBJECT) {
      written[to++] = '"';
      memcpy(written + to, text + nodes[child].key, nodes[child].key_length);
      to += nodes[child].key_length;
      written[to++] = '"';
      written[to++] = ':';
    }
    to = write_value(child, to);
  }
  written[to++] = node->kind == OBJECT ? '}' : ']';
  return to;
}

static uint64_t kernel(int round) {
  (void)round;
  if (!text_length) make_document();
  uint64_t sum = 1;
  for (int pass = 0; pass < PASSES; pass++) {
    double scores = 0;
    position = node_count = 0;
    const int32_t root = parse_value();
    for (uint32_t i = 0; i < node_count; i++) {
      if (nodes[i].kind == NUMBER && nodes[i].key_length == 5 && !memcmp(text + nodes[i].key, "score", 5)) scores += nodes[i].number;
    }
    const uint32_t length = write_value(root, 0);
    for (uint32_t i = 0; i < length; i += 97) sum = mix(sum, (uint8_t)written[i]);
    sum = mix(mix(sum, length), bits_of(scores));
  }
  return sum;
}
