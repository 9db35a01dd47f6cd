// report: runs a function over a dataset, wherever that lies, and passes its output on.
//
//   POST /report?run=scan        the body is the function's arguments
#include <godwit.h>
#include <stdlib.h>
#include <string.h>

static char arguments[16384];

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
