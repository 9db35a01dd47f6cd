// count: GET /count tells the lines and bytes of the dataset "table".
#include <godwit.h>
#include <string.h>

char block[65536];
struct {
  uint64_t lines, bytes;
} all;

static void add(const char* at, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) all.lines += at[i] == '\n';
  all.bytes += bytes;
}

void godwit_handle(godwit_request* request) {
  int got;
  memset(&all, 0, sizeof all);
  for (uint64_t at = 0; (got = godwit_dataset_read(request, "table", at, block, sizeof block)) > 0; at += (uint64_t)got) add(block, (uint32_t)got);
  if (got < 0) godwit_status(request, 502);
  godwit_printf(request, "%llu lines, %llu bytes\n", (unsigned long long)all.lines, (unsigned long long)all.bytes);
}
