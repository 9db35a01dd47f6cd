// adversary: functions that want all that a device has, to show that its own reads and writes do not suffer by them.
//
//   GET /adversary?function=NAME   runs one over the dataset "table": spin, thrash, flood, hog, until the request's time is over
#include <godwit.h>
#include <stdlib.h>
#include <string.h>

static volatile unsigned sink;

// An endless loop.
GODWIT_FUNCTION(spin)(const char* lines, uint32_t bytes, int32_t last) {
  (void)lines, (void)bytes, (void)last;
  for (unsigned i = 0;; ++i) sink = i;
}

// Writes all over more memory than caches hold.
GODWIT_FUNCTION(thrash)(const char* lines, uint32_t bytes, int32_t last) {
  (void)lines, (void)bytes, (void)last;
  enum { SIZE = 64 << 20 };
  char* memory = malloc(SIZE);
  if (memory == NULL) return -1;
  for (unsigned at = 1;; at = at * 1664525u + 1013904223u) memory[at % SIZE] += 1;
}

// Writes behind the lines that it was given.
GODWIT_FUNCTION(spoil)(const char* lines, uint32_t bytes, int32_t last) {
  if (!last) ((char*)lines)[bytes + 10000] ^= 1;
  return 0;
}

// Gives back many times what it reads.
GODWIT_FUNCTION(flood)(const char* lines, uint32_t bytes, int32_t last) {
  (void)last;
  for (int i = 0; i < 64; ++i) godwit_emit(lines, bytes);
  return 0;
}

// Takes all the memory that it can get, and keeps it busy.
GODWIT_FUNCTION(hog)(const char* lines, uint32_t bytes, int32_t last) {
  (void)lines, (void)bytes, (void)last;
  enum { PIECE = 1 << 20 };
  for (char* piece; (piece = malloc(PIECE)) != NULL;) memset(piece, 1, PIECE);
  for (unsigned i = 0;; ++i) sink = i;
}

void godwit_handle(godwit_request* request) {
  char function[32], piece[4096];
  unsigned long long bytes = 0;
  int got;
  if (godwit_query_value(request, "function", function, sizeof function) < 0) {
    godwit_reply(request, 400, "text/plain", "which? ?function=spin\n", 22);
    return;
  }
  godwit_stream stream = godwit_offload(request, "table", function, "", 0, 0);
  while ((got = godwit_stream_read(request, stream, piece, sizeof piece)) > 0) bytes += (unsigned)got;
  godwit_status(request, got < 0 ? 502 : 200);
  godwit_printf(request, "%llu bytes, then %d\n", bytes, got);
}
