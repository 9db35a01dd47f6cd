// filter: a function of a service's own that goes through the lines of a table where it lies, and the same code as a native program.
//
//   POST /filter        the rows of the dataset "table" with a quantity (third column) under 24 and a day (fifth) in 1994
//
// Compiled with GODWIT_NATIVE for the machine, it prints what the function takes for a file: nanoseconds of processor time a byte, bytes of output, a line each round.
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char* after_commas(const char* at, int commas) {
  while (commas > 0) commas -= *at++ == ',';
  return at;
}

static int wanted(const char* line) {
  const char* at = after_commas(line, 2);
  unsigned quantity = 0;
  for (; *at >= '0' && *at <= '9'; ++at) quantity = quantity * 10 + (unsigned)(*at - '0');
  return quantity < 24 && memcmp(after_commas(at, 2), "1994", 4) == 0;
}

static void emit(const char* from, size_t bytes);
static const char* line_end(const char* at, const char* end);

static void filter_lines(const char* lines, uint32_t bytes) {
  for (const char* end = lines + bytes; lines < end;) {
    const char* next = line_end(lines, end);
    if (wanted(lines)) emit(lines, (size_t)(next - lines));
    lines = next;
  }
}

#ifdef GODWIT_NATIVE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>

static const char* line_end(const char* at, const char* end) {
  const char* found = memchr(at, '\n', (size_t)(end - at));
  return found != NULL ? found + 1 : end;
}

static char* output;
static size_t output_bytes;

static void emit(const char* from, size_t bytes) {
  memcpy(output + output_bytes, from, bytes);
  output_bytes += bytes;
}

int main(int argc, char** argv) {
  struct stat status;
  const int file = argc == 3 ? open(argv[1], O_RDONLY) : -1;
  if (file < 0 || fstat(file, &status) != 0) return 2;
  const size_t size = (size_t)status.st_size;
  const char* table = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  output = malloc(size);
  if (table == MAP_FAILED || output == NULL) return 2;
  for (int round = atoi(argv[2]); round > 0; --round) {
    struct timespec begin, end;
    output_bytes = 0;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &begin);
    filter_lines(table, (uint32_t)size);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
    printf("%f %zu\n", ((double)(end.tv_sec - begin.tv_sec) * 1e9 + (double)(end.tv_nsec - begin.tv_nsec)) / (double)size, output_bytes);
  }
  return 0;
}
#else
#include <godwit.h>

static const char* line_end(const char* at, const char* end) { return godwit_line_end(at, end); }
static void emit(const char* from, size_t bytes) { godwit_emit(from, bytes); }

GODWIT_FUNCTION(filter_rows)(const char* lines, uint32_t bytes, int32_t last) {
  (void)last;
  filter_lines(lines, bytes);
  return 0;
}

void godwit_handle(godwit_request* request) {
  char piece[16384];
  const godwit_stream stream = godwit_offload(request, "table", "filter_rows", "", 0, 0);
  int got = stream;
  while (got >= 0 && (got = godwit_stream_read(request, stream, piece, sizeof piece)) > 0) godwit_write(request, piece, (size_t)got);
  if (got < 0) {
    godwit_status(request, 502);
    godwit_printf(request, "filter_rows: error %d\n", -got);
  }
}
#endif
