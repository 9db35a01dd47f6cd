// report: runs a function over a dataset, wherever that lies, and passes its output on.
//
//   POST /report?run=scan        the body is the function's arguments
//   POST /report?...&of=NAME     over that dataset, not over "table"
//   POST /report?...&keep=NAME   keeps the output there as the dataset NAME
//   POST /report?map=1           longest_lines over all parts of the dataset at once, put together
//   POST /report?run=longest_lines  a function of its own: the longest line of each initial character, and how many there were
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char arguments[16384];

typedef struct {
  char longest[128][256];
  unsigned lengths[128], counts[128];
} totals;

// One more line, or several of which this is the longest.
static void add_line(totals* to, unsigned first, const char* line, uint32_t length, unsigned lines) {
  to->counts[first] += lines;
  if (length <= to->lengths[first]) return;
  to->lengths[first] = length;
  memcpy(to->longest[first], line, length < 255 ? length : 255);
  to->longest[first][length < 255 ? length : 255] = 0;
}

GODWIT_FUNCTION(longest_lines)(const char* lines, uint32_t bytes, int32_t last) {
  static totals sum;
  while (bytes > 0) {
    const char* end = memchr(lines, '\n', bytes);
    uint32_t length = end != NULL ? (uint32_t)(end - lines) : bytes;
    add_line(&sum, length > 0 ? (unsigned char)lines[0] & 127 : 0, lines, length, 1);
    uint32_t taken = length + (end != NULL);
    lines += taken;
    bytes -= taken;
  }
  char line[400];
  for (int c = 0; last && c < 128; ++c) {
    if (sum.counts[c] != 0) godwit_emit(line, (size_t)snprintf(line, sizeof line, "%c %u %.255s\n", c, sum.counts[c], sum.longest[c]));
  }
  return 0;
}

// Gives each line again. Arguments: how much work before it, and how often it is given (1).
GODWIT_FUNCTION(copy_lines)(const char* lines, uint32_t bytes, int32_t last) {
  static unsigned seen, work, times = 1, mixed;
  char text[32];
  if (seen == 0 && godwit_function_arguments(text, sizeof text) > 0) sscanf(text, "%u %u", &work, &times);
  while (bytes > 0) {
    const char* end = memchr(lines, '\n', bytes);
    uint32_t taken = end != NULL ? (uint32_t)(end - lines) + 1 : bytes;
    for (unsigned i = 0; i < work; ++i) mixed = (mixed ^ mixed >> 3) * 1664525u + i;  // What no compiler computes ahead.
    for (unsigned i = 0; i < times; ++i) godwit_emit(lines, taken);
    ++seen;
    lines += taken;
    bytes -= taken;
  }
  if (last) godwit_emit(text, (size_t)snprintf(text, sizeof text, "%u lines, %08x\n", seen, mixed));
  return 0;
}

// Adds up what longest_lines gave of each part.
static int merge(void* state, uint32_t part, const char* lines, size_t bytes) {
  (void)part;
  for (const char *at = lines, *end = lines + bytes; at < end;) {
    const char* stop = memchr(at, '\n', (size_t)(end - at));
    if (stop == NULL) return 1;
    char* line = NULL;
    const unsigned count = (unsigned)strtoul(at + 2, &line, 10);
    add_line(state, (unsigned char)at[0] & 127, line + 1, (uint32_t)(stop - line - 1), count);
    at = stop + 1;
  }
  return 0;
}

static void report_on_parts(godwit_request* request) {
  totals* sum = calloc(1, sizeof *sum);
  const int parts = sum != NULL ? godwit_map(request, "table", "longest_lines", "", merge, sum) : -GODWIT_RESOURCE_EXHAUSTED;
  godwit_status(request, parts < 0 ? 502 : 200);
  godwit_printf(request, parts < 0 ? "longest_lines: error %d\n" : "%d parts\n", parts < 0 ? -parts : parts);
  for (int c = 0; parts >= 0 && c < 128; ++c) {
    if (sum->counts[c] != 0) godwit_printf(request, "%c %u %s\n", c, sum->counts[c], sum->longest[c]);
  }
  free(sum);
}

void godwit_handle(godwit_request* request) {
  char function[64], dataset[64], kept[64], piece[8192];
  if (godwit_query_value(request, "map", function, sizeof function) >= 0) return report_on_parts(request);
  if (godwit_query_value(request, "run", function, sizeof function) < 0) strcpy(function, "scan");
  if (godwit_query_value(request, "of", dataset, sizeof dataset) < 0) strcpy(dataset, "table");
  int length = godwit_read_all(request, arguments, sizeof arguments - 1);
  if (length < 0) {
    godwit_reply(request, 413, "text/plain", "arguments of at most 16 KiB\n", 28);
    return;
  }
  arguments[length] = 0;
  if (godwit_query_value(request, "keep", kept, sizeof kept) >= 0) {
    const int bytes = godwit_keep(request, dataset, function, arguments, kept);
    godwit_status(request, bytes < 0 ? 502 : 200);
    godwit_printf(request, bytes < 0 ? "%s: error %d\n" : "%s kept %d bytes\n", function, bytes < 0 ? -bytes : bytes);
    return;
  }
  godwit_stream stream = godwit_offload(request, dataset, function, arguments, 0, 0);
  int got = stream < 0 ? stream : godwit_stream_read(request, stream, piece, sizeof piece);
  if (got < 0) {
    godwit_status(request, 502);
    godwit_printf(request, "%s: error %d\n", function, -got);
    return;
  }
  char where[200];
  godwit_where_am_i(where, sizeof where);
  godwit_set_header(request, "X-Began-On", where);
  godwit_set_header(request, "Content-Type", "text/csv");
  while (got > 0) {
    godwit_write(request, piece, (size_t)got);
    got = godwit_stream_read(request, stream, piece, sizeof piece);
  }
  // The client must see that it has not got all of it.
  if (got < 0) abort();
}
