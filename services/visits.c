// visits: counts in a Redis server, over one connection that stays open between requests and through moves.
//
//   GET  /visits?redis=host:port            counts one visit: {"visits": N, "device": "..."}
//   GET  /visits?redis=host:port&wait=list  waits until something is pushed to that list, and answers with it
//   GET  /visits?http=host:port&path=/p     what a web server outside answers; or https=host:port
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static godwit_connection redis = -1;
static char buffered[4096];  // Received and not used.
static size_t buffered_bytes;

// One line of the reply without its end: its length, or a negative error.
static int read_line(godwit_request* request, char* line, size_t size) {
  for (;;) {
    char* end = memchr(buffered, '\n', buffered_bytes);
    if (end != NULL) {
      size_t length = (size_t)(end - buffered) + 1, kept = length - 1;
      if (kept > 0 && buffered[kept - 1] == '\r') --kept;
      if (kept >= size) return -GODWIT_RESOURCE_EXHAUSTED;
      memcpy(line, buffered, kept);
      line[kept] = 0;
      buffered_bytes -= length;
      memmove(buffered, buffered + length, buffered_bytes);
      return (int)kept;
    }
    if (buffered_bytes == sizeof buffered) return -GODWIT_RESOURCE_EXHAUSTED;
    int got = godwit_connection_read(request, redis, buffered + buffered_bytes, sizeof buffered - buffered_bytes);
    if (got <= 0) return got < 0 ? got : -GODWIT_UNAVAILABLE;
    buffered_bytes += (size_t)got;
  }
}

// A broken connection is made anew by the next request.
static void fail(godwit_request* request, const char* what, int code) {
  if (redis >= 0) godwit_connection_close(request, redis);
  redis = -1;
  buffered_bytes = 0;
  godwit_status(request, 502);
  godwit_printf(request, "%s: error %d\n", what, -code);
}

static void web(godwit_request* request, const char* scheme, const char* host) {
  char service[300], path[300] = "/";
  snprintf(service, sizeof service, "%s://%s", scheme, host);
  godwit_query_value(request, "path", path, sizeof path);
  godwit_answer answer = godwit_get(request, service, path);
  if (answer < 0) return fail(request, service, answer);
  godwit_printf(request, "%d ", godwit_answer_status(request, answer));
  char piece[1024];
  int got;
  while ((got = godwit_answer_read(request, answer, piece, sizeof piece)) > 0) godwit_write(request, piece, (size_t)got);
  godwit_answer_close(request, answer);
}

void godwit_handle(godwit_request* request) {
  char host[200], list[100], line[1024], device[200];
  if (godwit_query_value(request, "http", host, sizeof host) >= 0) return web(request, "http", host);
  if (godwit_query_value(request, "https", host, sizeof host) >= 0) return web(request, "https", host);
  if (godwit_query_value(request, "redis", host, sizeof host) < 0) {
    godwit_reply(request, 400, "text/plain", "which server? ?redis=host:port\n", 31);
    return;
  }
  if (redis < 0) redis = godwit_connect(request, host);
  if (redis < 0) return fail(request, host, redis);
  char command[200] = "INCR visits\r\n";
  const int waits = godwit_query_value(request, "wait", list, sizeof list) >= 0;
  if (waits) {
    strcpy(command, "BLPOP ");
    strcat(command, list);
    strcat(command, " 0\r\n");
  }
  int code = godwit_connection_write(request, redis, command, strlen(command));
  if (code < 0) return fail(request, "write", code);
  // BLPOP answers with two strings, each after a line with its length.
  for (int lines = waits ? 5 : 1; lines > 0; --lines) {
    code = read_line(request, line, sizeof line);
    if (code < 0) return fail(request, "read", code);
    if (line[0] == '-') return fail(request, line, 0);
  }
  godwit_where_am_i(device, sizeof device);
  godwit_set_header(request, "Content-Type", "application/json");
  if (waits) godwit_printf(request, "{\"popped\": \"%s\", \"device\": \"%s\"}\n", line, device);
  else godwit_printf(request, "{\"visits\": %ld, \"device\": \"%s\"}\n", atol(line + 1), device);
}
