// Scan and filter: GET /scan?word=WORD[&dataset=NAME] reads the whole dataset (text, in lines) and answers how many
// lines contain WORD, the longest of them, and a checksum over all that do. With &offload=1 the same code goes to the data.
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kBlock = 256 << 10, kLineMax = 64 << 10, kShown = 200 };

typedef struct {
  char word[128];
  size_t word_length;
  uint64_t lines, bytes, matches, matched_bytes, hash;
  size_t longest;
  char longest_line[kShown + 1];
} tally;

static int contains(const char* line, size_t length, const char* word, size_t word_length) {
  const char* end = line + length;
  while ((size_t)(end - line) >= word_length) {
    line = memchr(line, word[0], (size_t)(end - line) - word_length + 1);
    if (line == NULL) return 0;
    if (memcmp(line, word, word_length) == 0) return 1;
    ++line;
  }
  return 0;
}

static void take_line(tally* t, const char* line, size_t length) {
  ++t->lines;
  if (!contains(line, length, t->word, t->word_length)) return;
  ++t->matches;
  t->matched_bytes += length;
  for (size_t i = 0; i < length; ++i) t->hash = (t->hash ^ (unsigned char)line[i]) * 0x100000001b3u;
  if (length > t->longest) {
    t->longest = length;
    const size_t shown = length < kShown ? length : kShown;
    memcpy(t->longest_line, line, shown);
    t->longest_line[shown] = 0;
  }
}

GODWIT_FUNCTION(tally_lines)(const char* lines, uint32_t bytes, int32_t last) {
  static tally t = {.hash = 0xcbf29ce484222325u};
  if (t.word_length == 0) t.word_length = (size_t)godwit_function_arguments(t.word, sizeof t.word);
  t.bytes += bytes;
  for (const char *end = lines + bytes, *next; lines < end; lines = next) {
    next = godwit_line_end(lines, end);
    take_line(&t, lines, (size_t)(next - lines) - (next[-1] == '\n'));
  }
  if (last) godwit_emit(&t, sizeof t);
  return 0;
}

// Whether the function's tally came, whole.
static int tally_near(godwit_request* request, const char* dataset, tally* t) {
  const godwit_stream stream = godwit_offload(request, dataset, "tally_lines", t->word, 0, 0);
  size_t got = 0;
  for (int bytes = stream; bytes >= 0 && got < sizeof *t; got += (size_t)bytes) {
    bytes = godwit_stream_read(request, stream, (char*)t + got, sizeof *t - got);
    if (bytes <= 0) break;
  }
  return got == sizeof *t;
}

static void answer(godwit_request* request, const tally* t, const char* began, const char* ended) {
  godwit_set_header(request, "content-type", "application/json");
  godwit_printf(request, "{\"word\":\"%s\",\"bytes\":%llu,\"lines\":%llu,\"matches\":%llu,\"matched_bytes\":%llu,\"checksum\":\"%016llx\",\"longest\":%zu,\"longest_line\":\"",
                t->word, (unsigned long long)t->bytes, (unsigned long long)t->lines, (unsigned long long)t->matches,
                (unsigned long long)t->matched_bytes, (unsigned long long)t->hash, t->longest);
  for (const char* c = t->longest_line; *c; ++c) {
    const unsigned char u = (unsigned char)*c;
    if (u == '"' || u == '\\') {
      godwit_printf(request, "\\%c", u);
    } else if (u >= 32 && u < 127) {
      godwit_write(request, c, 1);
    } else {
      godwit_puts(request, "?");
    }
  }
  godwit_printf(request, "\",\"began_on\":\"%s\",\"ended_on\":\"%s\"}\n", began, ended);
}

void godwit_handle(godwit_request* request) {
  tally t = {.hash = 0xcbf29ce484222325u};
  char dataset[64] = "archive", began[128], ended[128];
  if (godwit_query_value(request, "word", t.word, sizeof t.word) <= 0 || strpbrk(t.word, "\"\\\n")) {
    godwit_reply(request, 400, "text/plain", "say ?word=WORD\n", 15);
    return;
  }
  t.word_length = strlen(t.word);
  godwit_query_value(request, "dataset", dataset, sizeof dataset);
  if (dataset[0] == 0) strcpy(dataset, "archive");
  if (godwit_query_value(request, "offload", ended, sizeof ended) > 0) {
    godwit_where_am_i(began, sizeof began);
    if (!tally_near(request, dataset, &t)) return (void)godwit_reply(request, 503, "text/plain", "the function did not get to its end\n", 36);
    godwit_where_am_i(ended, sizeof ended);
    return answer(request, &t, began, ended);
  }
  const int64_t size = godwit_dataset_size(request, dataset);
  char* buffer = size < 0 ? NULL : malloc(kLineMax + kBlock);
  if (buffer == NULL) {
    godwit_status(request, size == -GODWIT_NOT_FOUND ? 404 : size == -GODWIT_PERMISSION_DENIED ? 403 : 503);
    godwit_printf(request, "dataset %s: error %lld\n", dataset, (long long)-size);
    return;
  }
  godwit_where_am_i(began, sizeof began);
  size_t kept = 0;  // Of an unfinished line, at the front of the buffer.
  int failed = 0;
  for (uint64_t offset = 0; offset < (uint64_t)size && !failed;) {
    const int bytes = godwit_dataset_read(request, dataset, offset, buffer + kept, kBlock);
    if (bytes <= 0) {
      failed = 1;
      break;
    }
    offset += (uint64_t)bytes;
    t.bytes += (uint64_t)bytes;
    char *line = buffer, *end = buffer + kept + bytes;
    for (char* newline; (newline = memchr(line, '\n', (size_t)(end - line))) != NULL; line = newline + 1) {
      take_line(&t, line, (size_t)(newline - line));
    }
    kept = (size_t)(end - line);
    if (kept > kLineMax) {  // Longer lines are cut.
      take_line(&t, line, kept);
      kept = 0;
    }
    memmove(buffer, line, kept);
  }
  if (kept > 0) take_line(&t, buffer, kept);
  free(buffer);
  godwit_where_am_i(ended, sizeof ended);
  if (failed) {
    godwit_reply(request, 503, "text/plain", "the dataset could not be read to its end\n", 41);
    return;
  }
  answer(request, &t, began, ended);
}
