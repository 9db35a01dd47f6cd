// Memory that changes, for measuring migrations:
//   GET /dirty?mib=N[&records=1]   touches N MiB (kept until the next such request) and fills them with noise, or with lines of records
//   GET /dirty?mb_s=R&ms=T         for T ms writes distinct 4 KiB pages of them, round and round, at R MB/s; how many, and the nanoseconds that writing them took
//   GET /dirty?sum=1               a checksum over all of it, and the number of pages written
//   GET /dirty                     answers at once, with the time since 1970
// One request may write while others are answered: it waits at a call to its host every millisecond.
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kPage = 4096, kWasmPage = 65536, kMibMax = 4032 };

static unsigned char* memory;
static size_t room, pages, next_page;  // room: bytes at memory.
static uint64_t written;

static uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  return x * 0x94d049bb133111ebu;
}

// Not by malloc, which gives 2 GiB at most.
static int reserve(size_t bytes) {
  const size_t end = __builtin_wasm_memory_size(0);
  const int at_end = memory != NULL && ((size_t)memory + room) / kWasmPage == end;
  if (bytes <= room) return 1;
  const size_t more = (bytes - (at_end ? room : 0) + kWasmPage - 1) / kWasmPage;
  if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) return 0;
  if (!at_end) {
    memory = (unsigned char*)(end * kWasmPage);
    room = 0;
  }
  room += more * kWasmPage;
  return 1;
}

// Filled with what is no zero page: noise does not compress.
static int touch(long mib, int records) {
  pages = next_page = 0;
  if (!reserve((size_t)mib * 256 * kPage)) return 0;
  pages = (size_t)mib * 256;
  uint64_t* words = (uint64_t*)memory;
  uint64_t x = 0x9e3779b97f4a7c15u;
  char line[80];
  for (size_t at = 0, i = 0; records && at < pages * kPage; ++i) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    const size_t length = (size_t)snprintf(line, sizeof line, "{\"order\": %zu, \"price\": %u.%02u, \"state\": \"%s\"}\n", i, (unsigned)(x >> 50),
                                           (unsigned)(x >> 40) % 100, x >> 63 ? "shipped" : "open");
    const size_t take = length < pages * kPage - at ? length : pages * kPage - at;
    memcpy(memory + at, line, take);
    at += take;
  }
  if (records) return 1;
  for (size_t i = 0; i < pages * kPage / sizeof *words; ++i) words[i] = x = x * 6364136223846793005u + 1442695040888963407u;
  return 1;
}

static void write_page(void) {
  uint64_t* word = (uint64_t*)(memory + next_page * kPage);
  *word = mix(*word + ++written);
  next_page = next_page + 1 == pages ? 0 : next_page + 1;
}

static void sleep_until(int64_t when_ns) {
  const int64_t left = when_ns - godwit_time_ns();
  if (left <= 0) return;
  const struct timespec wait = {left / 1000000000, left % 1000000000};
  nanosleep(&wait, NULL);
}

static void write_for(double pages_per_ns, int64_t length_ns, uint64_t* done, int64_t* busy_ns) {
  const int64_t begin = godwit_time_ns();
  for (int64_t now = begin; now < begin + length_ns && pages != 0; now = godwit_time_ns()) {
    for (const uint64_t due = (uint64_t)((double)(now - begin) * pages_per_ns); *done < due; ++*done) write_page();
    *busy_ns += godwit_time_ns() - now;
    sleep_until(now + 1000000);
  }
}

static uint64_t checksum(void) {
  uint64_t sum = 0;
  const uint64_t* words = (const uint64_t*)memory;
  for (size_t i = 0; i < pages * kPage / sizeof *words; ++i) sum = sum * 31 + words[i];
  return sum;
}

void godwit_handle(godwit_request* request) {
  char text[32];
  if (godwit_query_value(request, "mib", text, sizeof text) > 0) {
    const long mib = atol(text);
    char records[2];
    if (mib < 0 || mib > kMibMax || !touch(mib, godwit_query_value(request, "records", records, sizeof records) > 0)) {
      godwit_reply(request, 400, "text/plain", "mib does not fit limits.memory\n", 31);
      return;
    }
  }
  if (godwit_query_value(request, "mb_s", text, sizeof text) > 0) {
    const double pages_per_ns = atof(text) * 1e6 / kPage / 1e9;
    uint64_t done = 0;
    int64_t busy_ns = 0;
    if (godwit_query_value(request, "ms", text, sizeof text) > 0) write_for(pages_per_ns, atoll(text) * 1000000, &done, &busy_ns);
    godwit_printf(request, "%llu %lld\n", (unsigned long long)done, (long long)busy_ns);
    return;
  }
  if (godwit_query_value(request, "sum", text, sizeof text) > 0) {
    godwit_printf(request, "%016llx %llu\n", (unsigned long long)checksum(), (unsigned long long)written);
    return;
  }
  godwit_printf(request, "%lld\n", (long long)godwit_time_ns());
}
