// Godwit's guest SDK for C and C++: what a service calls. docs/formats/guest-api.md describes the functions beneath.
//
// A reactor service defines godwit_handle; its memory lives on between requests:
//
//   #include <godwit.h>
//   static int hits;
//   void godwit_handle(godwit_request* request) {
//     godwit_printf(request, "hit number %d\n", ++hits);
//   }
//
// clang --target=wasm32-wasi -O2 -mexec-model=reactor -I sdk/c service.c sdk/c/godwit.c -o service.wasm
//
// Functions that return a negative number failed; -n is a godwit_error.
#ifndef GODWIT_H
#define GODWIT_H

#include <stddef.h>
#include <stdint.h>
#ifdef __wasm_simd128__
#include <wasm_simd128.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct godwit_request godwit_request;  // Valid until godwit_handle returns.
typedef int32_t godwit_answer;                 // Of a call to another service.

enum godwit_error {
  GODWIT_INVALID_ARGUMENT = 1,
  GODWIT_NOT_FOUND = 2,
  GODWIT_FAILED_PRECONDITION = 3,
  GODWIT_UNAVAILABLE = 4,
  GODWIT_RESOURCE_EXHAUSTED = 5,
  GODWIT_CORRUPT = 6,
  GODWIT_INTERNAL = 7,
  GODWIT_UNSUPPORTED = 8,
  GODWIT_DEADLINE_EXCEEDED = 9,
  GODWIT_PERMISSION_DENIED = 10,
  GODWIT_ABORTED = 11,
};

enum godwit_log_level { GODWIT_ERROR = 0, GODWIT_WARNING = 1, GODWIT_INFO = 2, GODWIT_DEBUG = 3 };

// Yours to define: called once per request.
__attribute__((export_name("godwit_handle"))) void godwit_handle(godwit_request* request);

// --- The request. Text is copied to `to` (at most `size` bytes, always terminated); the whole length is returned.
int godwit_method(godwit_request* request, char* to, size_t size);
int godwit_path(godwit_request* request, char* to, size_t size);   // Without the query.
int godwit_query(godwit_request* request, char* to, size_t size);  // Without '?', not decoded.
int godwit_route(godwit_request* request, char* to, size_t size);  // That matched, for example "/store/{key}".
int godwit_header(godwit_request* request, const char* name, char* to, size_t size);
// The last segment of the path, percent-decoded: the value of the route's {parameter}.
int godwit_key(godwit_request* request, char* to, size_t size);
// The value of a parameter of the query, percent-decoded; -GODWIT_NOT_FOUND.
int godwit_query_value(godwit_request* request, const char* name, char* to, size_t size);
// 1 if the request's method is `method`.
int godwit_is(godwit_request* request, const char* method);

// Reads some of the body: bytes read, 0 at its end. Waits for the client.
int godwit_read(godwit_request* request, void* to, size_t size);
// Reads all of it: its length, or -GODWIT_RESOURCE_EXHAUSTED if it is longer than `size`.
int godwit_read_all(godwit_request* request, void* to, size_t size);

// --- The response. Status and headers come before the first byte of the body.
int godwit_status(godwit_request* request, int status);
int godwit_set_header(godwit_request* request, const char* name, const char* value);
// Writes all of it; waits for the client where it is slow.
int godwit_write(godwit_request* request, const void* from, size_t size);
int godwit_puts(godwit_request* request, const char* text);
__attribute__((format(printf, 2, 3))) int godwit_printf(godwit_request* request, const char* format, ...);
// An answer in one call: status, content type, body.
int godwit_reply(godwit_request* request, int status, const char* content_type, const void* body, size_t size);

// --- WebSocket, on a route with `websocket = true`: the handler is one client's conversation and lasts as long; others run meanwhile where
// the route's concurrency allows it. It stays open while the service moves.
enum godwit_message { GODWIT_TEXT = 1, GODWIT_BINARY = 2 };
int godwit_accept(godwit_request* request);  // Negative where the client did not ask for one: then answer as usual.
// The next message: its length, its kind to *kind (may be NULL). -GODWIT_NOT_FOUND: the client closed, and the handler should return, which
// closes. -GODWIT_RESOURCE_EXHAUSTED: it was longer than `size`, and is skipped.
int godwit_message_read(godwit_request* request, void* to, size_t size, int* kind);
int godwit_message_write(godwit_request* request, int kind, const void* from, size_t size);  // UTF-8 for GODWIT_TEXT.

// --- Other services, where the manifest's [calls] allows it. Deadline and trace context are passed on.
// headers: lines "Name: value\n", or NULL. Returns an answer (to be closed), or a negative error.
godwit_answer godwit_call(godwit_request* request, const char* service, const char* method, const char* target,
                          const char* headers, const void* body, size_t size);
godwit_answer godwit_get(godwit_request* request, const char* service, const char* target);
int godwit_answer_status(godwit_request* request, godwit_answer answer);
int godwit_answer_header(godwit_request* request, godwit_answer answer, const char* name, char* to, size_t size);
int godwit_answer_read(godwit_request* request, godwit_answer answer, void* to, size_t size);  // 0 at the end.
void godwit_answer_close(godwit_request* request, godwit_answer answer);

// --- Datasets, where the manifest's [data] grants it.
int64_t godwit_dataset_size(godwit_request* request, const char* dataset);
// Up to 512 KiB from `offset`; fewer bytes than asked may come, 0 at or past the end.
int godwit_dataset_read(godwit_request* request, const char* dataset, uint64_t offset, void* to, size_t size);

// --- Functions over a dataset, where the manifest's [data] grants it: scan, match, checksum, gather, chase, with JSON arguments
// (docs/formats/device-protocol.md). They run on the device that holds the data or here, as is cheaper; the same line serves both.
// offset, bytes: the part; 0, 0: all of it. Nothing runs before the first read.
typedef int32_t godwit_stream;
godwit_stream godwit_offload(godwit_request* request, const char* dataset, const char* function, const char* arguments,
                             uint64_t offset, uint64_t bytes);
int godwit_stream_read(godwit_request* request, godwit_stream stream, void* to, size_t size);  // Of its output; 0 at the end.
void godwit_stream_close(godwit_request* request, godwit_stream stream);
// Waits until a read of one of these (16 at most) would not wait, and gives its position; all of them run on meanwhile.
int godwit_stream_wait(godwit_request* request, const godwit_stream* streams, size_t count);

// Runs `function` over all of the dataset, where it lies, and keeps its whole output (8 MiB at most) there as the new dataset `result`, which the manifest's [data]
// grants as "read-write"; other services that may read it find it near their functions. Datasets do not change: where there is another one of that
// name, GODWIT_FAILED_PRECONDITION. The number of bytes kept.
int godwit_keep(godwit_request* request, const char* dataset, const char* function, const char* arguments, const char* result);

// Runs `function` over all parts of a dataset at once (`godwit data put --parts`; a dataset without parts is one), each near its data. `combine` gets their output: runs
// of whole lines (a line of more than 8 KiB in pieces), those of one part in order, parts in any. What it returns other than 0 ends it all. A part
// whose device cannot be reached is tried again, from where its output was, four times within some seconds.
// The number of parts; negative: an error, or what `combine` returned.
typedef int godwit_combine(void* state, uint32_t part, const char* lines, size_t bytes);
int godwit_map(godwit_request* request, const char* dataset, const char* function, const char* arguments, godwit_combine* combine,
               void* state);

// --- Your own function to be run over a dataset, with godwit_offload and its name: it gets the data's lines, whole ones, in order,
// and is called with no bytes and `last` at the end. It runs on another device, in an instance of its own: it shares no memory with
// your handler. A negative result gives up.
//
//   GODWIT_FUNCTION(long_lines)(const char* lines, uint32_t bytes, int32_t last) { ...; godwit_emit(line, length); return 0; }
#define GODWIT_FUNCTION(name)                                                    \
  __attribute__((export_name(#name))) int32_t name(const char*, uint32_t, int32_t); \
  int32_t name
int godwit_emit(const void* from, size_t size);            // Output, in pieces of at most 64 KiB.
// The buffer is the function's until it returns; what is in it is gone afterwards.
// Where the line at `at` ends: behind its '\n', or at `end`. With -msimd128, 16 bytes at a time.
static inline const char* godwit_line_end(const char* at, const char* end) {
#ifdef __wasm_simd128__
  const v128_t stop = wasm_i8x16_splat('\n');
  for (; end - at >= 16; at += 16) {
    const uint32_t found = wasm_i8x16_bitmask(wasm_i8x16_eq(wasm_v128_load(at), stop));
    if (found != 0) return at + __builtin_ctz(found) + 1;
  }
#endif
  for (; at < end; ++at) {
    if (*at == '\n') return at + 1;
  }
  return end;
}
int godwit_function_arguments(char* to, size_t size);      // As godwit_offload got them; terminated; the whole length.

// --- Hosts outside the cluster, where the manifest's [outbound] hosts grants them.
// HTTP: godwit_call with "http://host:port" or "https://host" as the service (a certificate that the device trusts). TCP: a connection to "host:port", which stays open when the service
// moves and between requests, until it is closed or is unused for five minutes. Negative: refused, not reached, or not granted.
typedef int32_t godwit_connection;
godwit_connection godwit_connect(godwit_request* request, const char* host_and_port);
// Bytes read: one at least, 0 at the end. Waits for the peer.
int godwit_connection_read(godwit_request* request, godwit_connection connection, void* to, size_t size);
// Writes all of it. Waits where the peer is slow.
int godwit_connection_write(godwit_request* request, godwit_connection connection, const void* from, size_t size);
void godwit_connection_close(godwit_request* request, godwit_connection connection);

// --- Around it.
void godwit_log(int level, const char* text);
__attribute__((format(printf, 2, 3))) void godwit_logf(int level, const char* format, ...);
int64_t godwit_deadline_ms(godwit_request* request);  // Left for this request.
int godwit_where_am_i(char* to, size_t size);         // "csd0 csd x86_64": device, its class, its ISA.
int64_t godwit_time_ns(void);                         // Since 1970.

#ifdef __cplusplus
}
#endif

#endif
