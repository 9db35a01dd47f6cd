#include "godwit.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define IMPORT(name) __attribute__((import_module("godwit"), import_name(#name)))

// A godwit_request* is the number that the host knows the request by.
typedef uint32_t handle;

IMPORT(request_method) int32_t host_request_method(handle, char*, uint32_t);
IMPORT(request_path) int32_t host_request_path(handle, char*, uint32_t);
IMPORT(request_query) int32_t host_request_query(handle, char*, uint32_t);
IMPORT(request_route) int32_t host_request_route(handle, char*, uint32_t);
IMPORT(request_header) int32_t host_request_header(handle, const char*, uint32_t, char*, uint32_t);
IMPORT(body_read) int32_t host_body_read(handle, void*, uint32_t);
IMPORT(response_status) int32_t host_response_status(handle, uint32_t);
IMPORT(response_header) int32_t host_response_header(handle, const char*, uint32_t, const char*, uint32_t);
IMPORT(response_write) int32_t host_response_write(handle, const void*, uint32_t);
IMPORT(call) int32_t host_call(handle, const char*, uint32_t, const char*, uint32_t, const char*, uint32_t, const char*,
                               uint32_t, const void*, uint32_t);
IMPORT(call_status) int32_t host_call_status(handle, int32_t);
IMPORT(call_header) int32_t host_call_header(handle, int32_t, const char*, uint32_t, char*, uint32_t);
IMPORT(call_read) int32_t host_call_read(handle, int32_t, void*, uint32_t);
IMPORT(call_close) int32_t host_call_close(handle, int32_t);
IMPORT(dataset_size) int64_t host_dataset_size(handle, const char*, uint32_t);
IMPORT(dataset_read) int32_t host_dataset_read(handle, const char*, uint32_t, uint64_t, void*, uint32_t);
IMPORT(offload) int32_t host_offload(handle, const char*, uint32_t, const char*, uint32_t, const char*, uint32_t, uint64_t, uint64_t);
IMPORT(offload_read) int32_t host_offload_read(handle, int32_t, void*, uint32_t);
IMPORT(offload_wait) int32_t host_offload_wait(handle, const int32_t*, uint32_t);
IMPORT(offload_close) int32_t host_offload_close(handle, int32_t);
IMPORT(offload_keep)
int32_t host_offload_keep(handle, const char*, uint32_t, const char*, uint32_t, const char*, uint32_t, const char*, uint32_t);
IMPORT(emit) int32_t host_emit(const void*, uint32_t);
IMPORT(function_arguments) int32_t host_function_arguments(char*, uint32_t);
IMPORT(connect) int32_t host_connect(handle, const char*, uint32_t);
IMPORT(connection_read) int32_t host_connection_read(handle, int32_t, void*, uint32_t);
IMPORT(connection_write) int32_t host_connection_write(handle, int32_t, const void*, uint32_t);
IMPORT(connection_close) int32_t host_connection_close(handle, int32_t);
IMPORT(log) void host_log(uint32_t, const char*, uint32_t);
IMPORT(deadline_ms) int64_t host_deadline_ms(handle);
IMPORT(where_am_i) int32_t host_where_am_i(char*, uint32_t);
IMPORT(time_ns) int64_t host_time_ns(void);

static handle of(godwit_request* request) { return (handle)(uintptr_t)request; }

// Terminates what the host copied.
static int terminated(int length, char* to, size_t size) {
  if (size == 0) return length;
  to[length < 0 ? 0 : (size_t)length < size ? (size_t)length : size - 1] = 0;
  return length;
}

int godwit_method(godwit_request* request, char* to, size_t size) {
  return terminated(host_request_method(of(request), to, size), to, size);
}
int godwit_path(godwit_request* request, char* to, size_t size) {
  return terminated(host_request_path(of(request), to, size), to, size);
}
int godwit_query(godwit_request* request, char* to, size_t size) {
  return terminated(host_request_query(of(request), to, size), to, size);
}
int godwit_route(godwit_request* request, char* to, size_t size) {
  return terminated(host_request_route(of(request), to, size), to, size);
}
int godwit_header(godwit_request* request, const char* name, char* to, size_t size) {
  return terminated(host_request_header(of(request), name, strlen(name), to, size), to, size);
}

static int hex(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

static int decode(const char* from, size_t length, int plus, char* to, size_t size) {
  size_t n = 0;
  for (size_t i = 0; i < length; ++i) {
    char c = from[i];
    if (c == '%' && i + 2 < length && hex(from[i + 1]) >= 0 && hex(from[i + 2]) >= 0) {
      c = (char)(hex(from[i + 1]) * 16 + hex(from[i + 2]));
      i += 2;
    } else if (plus && c == '+') {
      c = ' ';
    }
    if (n + 1 < size) to[n] = c;
    ++n;
  }
  return terminated((int)n, to, size);
}

int godwit_key(godwit_request* request, char* to, size_t size) {
  char path[1024];
  const int length = godwit_path(request, path, sizeof path);
  if (length < 0) return terminated(length, to, size);
  if ((size_t)length >= sizeof path) return terminated(-GODWIT_RESOURCE_EXHAUSTED, to, size);
  const char* slash = strrchr(path, '/');
  const char* segment = slash ? slash + 1 : path;
  return decode(segment, strlen(segment), 0, to, size);
}

int godwit_query_value(godwit_request* request, const char* name, char* to, size_t size) {
  char query[2048];
  const int length = godwit_query(request, query, sizeof query);
  if (length < 0) return terminated(length, to, size);
  if ((size_t)length >= sizeof query) return terminated(-GODWIT_RESOURCE_EXHAUSTED, to, size);
  const size_t name_length = strlen(name);
  for (const char* at = query; *at;) {
    const size_t part = strcspn(at, "&");
    if (part >= name_length && memcmp(at, name, name_length) == 0 && (part == name_length || at[name_length] == '=')) {
      const size_t skip = part == name_length ? name_length : name_length + 1;
      return decode(at + skip, part - skip, 1, to, size);
    }
    at += part;
    if (*at) ++at;
  }
  return terminated(-GODWIT_NOT_FOUND, to, size);
}

int godwit_is(godwit_request* request, const char* method) {
  char text[33];
  return godwit_method(request, text, sizeof text) >= 0 && strcmp(text, method) == 0;
}

int godwit_read(godwit_request* request, void* to, size_t size) { return host_body_read(of(request), to, size); }

int godwit_read_all(godwit_request* request, void* to, size_t size) {
  size_t length = 0;
  for (;;) {
    char beyond;
    const int more = length < size ? godwit_read(request, (char*)to + length, size - length) : godwit_read(request, &beyond, 1);
    if (more < 0) return more;
    if (more == 0) return (int)length;
    if (length == size) return -GODWIT_RESOURCE_EXHAUSTED;
    length += (size_t)more;
  }
}

int godwit_status(godwit_request* request, int status) { return host_response_status(of(request), (uint32_t)status); }

int godwit_set_header(godwit_request* request, const char* name, const char* value) {
  return host_response_header(of(request), name, strlen(name), value, strlen(value));
}

int godwit_write(godwit_request* request, const void* from, size_t size) {
  const char* bytes = from;
  while (size > 0) {
    const int taken = host_response_write(of(request), bytes, size);
    if (taken < 0) return taken;
    bytes += taken;
    size -= (size_t)taken;
  }
  return 0;
}

int godwit_accept(godwit_request* request) {
  const int accepted = godwit_status(request, 101);
  return accepted < 0 ? accepted : host_response_write(of(request), "", 0);
}

// All of `size` bytes, dropped where `to` is NULL; -GODWIT_NOT_FOUND at the end.
static int read_exactly(godwit_request* request, char* to, size_t size) {
  char dropped[512];
  while (size > 0) {
    const int got = godwit_read(request, to != NULL ? to : dropped, to != NULL || size < sizeof dropped ? size : sizeof dropped);
    if (got <= 0) return got < 0 ? got : -GODWIT_NOT_FOUND;
    if (to != NULL) to += got;
    size -= (size_t)got;
  }
  return 0;
}

// A message's pieces: kind (0x80: the last one), length, bytes.
enum { PIECE_HEAD = 5, LAST_PIECE = 0x80 };

int godwit_message_read(godwit_request* request, void* to, size_t size, int* kind) {
  size_t length = 0;
  int fits = 1;
  for (int first = 1;; first = 0) {
    unsigned char head[PIECE_HEAD];
    int failed = read_exactly(request, (char*)head, sizeof head);
    if (failed != 0) return failed;
    if (first && kind != NULL) *kind = head[0] & ~LAST_PIECE;
    const size_t bytes = head[1] | head[2] << 8 | head[3] << 16 | (size_t)head[4] << 24;
    fits = fits && bytes <= size - length;
    failed = read_exactly(request, fits ? (char*)to + length : NULL, bytes);
    if (failed != 0) return failed;
    if (fits) length += bytes;
    if (head[0] & LAST_PIECE) return fits ? (int)length : -GODWIT_RESOURCE_EXHAUSTED;
  }
}

int godwit_message_write(godwit_request* request, int kind, const void* from, size_t size) {
  const unsigned char head[PIECE_HEAD] = {(unsigned char)(kind | LAST_PIECE), (unsigned char)size, (unsigned char)(size >> 8), (unsigned char)(size >> 16),
                                          (unsigned char)(size >> 24)};
  const int failed = godwit_write(request, head, sizeof head);
  return failed < 0 ? failed : godwit_write(request, from, size);
}

int godwit_puts(godwit_request* request, const char* text) { return godwit_write(request, text, strlen(text)); }

int godwit_printf(godwit_request* request, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  if (length < 0) return -GODWIT_INVALID_ARGUMENT;
  if ((size_t)length < sizeof text) return godwit_write(request, text, (size_t)length);
  char* longer = malloc((size_t)length + 1);
  if (longer == NULL) return -GODWIT_RESOURCE_EXHAUSTED;
  va_start(arguments, format);
  vsnprintf(longer, (size_t)length + 1, format, arguments);
  va_end(arguments);
  const int result = godwit_write(request, longer, (size_t)length);
  free(longer);
  return result;
}

int godwit_reply(godwit_request* request, int status, const char* content_type, const void* body, size_t size) {
  int result = godwit_status(request, status);
  if (result == 0 && content_type != NULL) result = godwit_set_header(request, "content-type", content_type);
  return result == 0 ? godwit_write(request, body, size) : result;
}

godwit_answer godwit_call(godwit_request* request, const char* service, const char* method, const char* target,
                          const char* headers, const void* body, size_t size) {
  if (headers == NULL) headers = "";
  return host_call(of(request), service, strlen(service), method, strlen(method), target, strlen(target), headers,
                   strlen(headers), body, size);
}
godwit_answer godwit_get(godwit_request* request, const char* service, const char* target) {
  return godwit_call(request, service, "GET", target, NULL, NULL, 0);
}
int godwit_answer_status(godwit_request* request, godwit_answer answer) { return host_call_status(of(request), answer); }
int godwit_answer_header(godwit_request* request, godwit_answer answer, const char* name, char* to, size_t size) {
  return terminated(host_call_header(of(request), answer, name, strlen(name), to, size), to, size);
}
int godwit_answer_read(godwit_request* request, godwit_answer answer, void* to, size_t size) {
  return host_call_read(of(request), answer, to, size);
}
void godwit_answer_close(godwit_request* request, godwit_answer answer) { host_call_close(of(request), answer); }

int64_t godwit_dataset_size(godwit_request* request, const char* dataset) {
  return host_dataset_size(of(request), dataset, strlen(dataset));
}
int godwit_dataset_read(godwit_request* request, const char* dataset, uint64_t offset, void* to, size_t size) {
  return host_dataset_read(of(request), dataset, strlen(dataset), offset, to, size);
}

godwit_stream godwit_offload(godwit_request* request, const char* dataset, const char* function, const char* arguments,
                             uint64_t offset, uint64_t bytes) {
  return host_offload(of(request), dataset, strlen(dataset), function, strlen(function), arguments, strlen(arguments), offset, bytes);
}
int godwit_stream_read(godwit_request* request, godwit_stream stream, void* to, size_t size) {
  return host_offload_read(of(request), stream, to, size);
}
int godwit_stream_wait(godwit_request* request, const godwit_stream* streams, size_t count) {
  return host_offload_wait(of(request), streams, count);
}
int godwit_keep(godwit_request* request, const char* dataset, const char* function, const char* arguments, const char* result) {
  return host_offload_keep(of(request), dataset, strlen(dataset), function, strlen(function), arguments, strlen(arguments), result, strlen(result));
}
void godwit_stream_close(godwit_request* request, godwit_stream stream) { host_offload_close(of(request), stream); }

enum { kMapStreams = 16, kMapLine = 8192, kMapTries = 4, kMapPauseMs = 200 };

typedef struct {
  uint32_t part;
  int tries;
  size_t filled;
  char lines[kMapLine];
} map_part;

// Waits before the next try, if there is to be one. A device that has just come back is not known to have its data for a moment.
static int may_try_again(int64_t error, int* tries) {
  if ((error != -GODWIT_UNAVAILABLE && error != -GODWIT_NOT_FOUND) || *tries == kMapTries) return 0;
  const long ms = kMapPauseMs << (*tries)++;
  const struct timespec pause = {ms / 1000, ms % 1000 * 1000000};
  nanosleep(&pause, NULL);
  return 1;
}

// Parts of the dataset: 0 if it has none, and is one.
static int64_t count_parts(godwit_request* request, const char* dataset, char* name, size_t size) {
  char number[16] = "";
  int tries = 0;
  for (;;) {
    int64_t found = godwit_dataset_size(request, dataset);
    if (found >= 0) return 0;
    if (found == -GODWIT_NOT_FOUND) {
      snprintf(name, size, "%s.parts", dataset);
      found = godwit_dataset_read(request, name, 0, number, sizeof number - 1);
      if (found > 0) return strtol(number, NULL, 10) > 0 ? strtol(number, NULL, 10) : -GODWIT_CORRUPT;
    }
    if (!may_try_again(found, &tries)) return found == 0 ? -GODWIT_CORRUPT : found;
  }
}

// Gives `combine` the whole lines there are; at the end, and where a line does not fit, what there is.
static int give_lines(map_part* from, int all, godwit_combine* combine, void* state) {
  size_t give = from->filled;
  if (!all) {
    while (give > 0 && from->lines[give - 1] != '\n') --give;
    if (give == 0 && from->filled == kMapLine) give = kMapLine;
  }
  if (give == 0) return 0;
  const int result = combine(state, from->part, from->lines, give);
  from->filled -= give;
  memmove(from->lines, from->lines + give, from->filled);
  return result;
}

int godwit_map(godwit_request* request, const char* dataset, const char* function, const char* arguments, godwit_combine* combine,
               void* state) {
  char name[300];
  const int64_t parts = count_parts(request, dataset, name, sizeof name);
  if (parts < 0) return (int)parts;
  const uint32_t wanted = parts == 0 ? 1 : (uint32_t)parts;
  godwit_stream streams[kMapStreams];
  map_part* open[kMapStreams];
  uint32_t next = 0;
  size_t count = 0;
  int result = 0;
  while (result >= 0 && (next < wanted || count > 0)) {
    if (next < wanted && count < kMapStreams) {
      if (parts != 0) snprintf(name, sizeof name, "%s.%u", dataset, (unsigned)next);
      open[count] = malloc(sizeof(map_part));
      if (open[count] == NULL) {
        result = -GODWIT_RESOURCE_EXHAUSTED;
        break;
      }
      open[count]->part = next++;
      open[count]->tries = 0;
      open[count]->filled = 0;
      streams[count] = godwit_offload(request, parts != 0 ? name : dataset, function, arguments, 0, 0);
      if (streams[count] < 0) result = streams[count];
      ++count;
      continue;
    }
    const int at = godwit_stream_wait(request, streams, count);
    if (at < 0) {
      result = at;
      break;
    }
    map_part* part = open[at];
    const int got = godwit_stream_read(request, streams[at], part->lines + part->filled, kMapLine - part->filled);
    if (got < 0) {
      if (!may_try_again(got, &part->tries)) result = got;
    } else {
      part->filled += (size_t)got;
      const int given = give_lines(part, got == 0, combine, state);
      if (given != 0) result = given < 0 ? given : -given;
      if (got != 0) continue;
      godwit_stream_close(request, streams[at]);
      free(part);
      --count;
      streams[at] = streams[count];
      open[at] = open[count];
    }
  }
  while (count > 0) {
    if (streams[--count] >= 0) godwit_stream_close(request, streams[count]);
    free(open[count]);
  }
  return result < 0 ? result : (int)wanted;
}

// Where a function's lines are put.
__attribute__((export_name("godwit_window"))) void* godwit_window(uint32_t bytes) {
  static void* window;
  if (window == NULL) window = malloc(bytes);
  return window;
}
int godwit_emit(const void* from, size_t size) { return host_emit(from, size); }
int godwit_function_arguments(char* to, size_t size) { return terminated(host_function_arguments(to, size), to, size); }

godwit_connection godwit_connect(godwit_request* request, const char* host_and_port) {
  return host_connect(of(request), host_and_port, strlen(host_and_port));
}
int godwit_connection_read(godwit_request* request, godwit_connection connection, void* to, size_t size) {
  return host_connection_read(of(request), connection, to, size);
}
int godwit_connection_write(godwit_request* request, godwit_connection connection, const void* from, size_t size) {
  const char* at = from;
  while (size > 0) {
    int written = host_connection_write(of(request), connection, at, size);
    if (written < 0) return written;
    at += written;
    size -= (size_t)written;
  }
  return 0;
}
void godwit_connection_close(godwit_request* request, godwit_connection connection) {
  host_connection_close(of(request), connection);
}

void godwit_log(int level, const char* text) { host_log((uint32_t)level, text, strlen(text)); }
void godwit_logf(int level, const char* format, ...) {
  char text[1024];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  godwit_log(level, text);
}
int64_t godwit_deadline_ms(godwit_request* request) { return host_deadline_ms(of(request)); }
int godwit_where_am_i(char* to, size_t size) { return terminated(host_where_am_i(to, size), to, size); }
int64_t godwit_time_ns(void) { return host_time_ns(); }
