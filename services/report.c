// report: runs a function over a dataset, wherever that lies, and passes its output on.
//
//   POST /report?run=scan        the body is the function's arguments
//   POST /report?run=longest_lines  a function of its own: the longest line of each initial character, and how many there were
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char arguments[16384];

static char longest[128][256];
static unsigned lengths[128], counts[128];

static void emit_all(void) {
  char line[400];
  for (int c = 0; c < 128; ++c) {
    if (counts[c] == 0) continue;
    godwit_emit(line, (size_t)snprintf(line, sizeof line, "%c %u %.255s\n", c, counts[c], longest[c]));
  }
}

GODWIT_FUNCTION(longest_lines)(const char* lines, uint32_t bytes, int32_t last) {
  while (bytes > 0) {
    const char* end = memchr(lines, '\n', bytes);
    uint32_t length = end != NULL ? (uint32_t)(end - lines) : bytes;
    unsigned first = length > 0 ? (unsigned char)lines[0] & 127 : 0;
    ++counts[first];
    if (length > lengths[first]) {
      lengths[first] = length;
      memcpy(longest[first], lines, length < 255 ? length : 255);
      longest[first][length < 255 ? length : 255] = 0;
    }
    uint32_t taken = length + (end != NULL);
    lines += taken;
    bytes -= taken;
  }
  if (last) emit_all();
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

void godwit_handle(godwit_request* request) {
  char function[64], piece[8192];
  if (godwit_query_value(request, "run", function, sizeof function) < 0) strcpy(function, "scan");
  int length = godwit_read_all(request, arguments, sizeof arguments - 1);
  if (length < 0) {
    godwit_reply(request, 413, "text/plain", "arguments of at most 16 KiB\n", 28);
    return;
  }
  arguments[length] = 0;
  godwit_stream stream = godwit_offload(request, "table", function, arguments, 0, 0);
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
