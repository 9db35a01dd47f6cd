// longest: GET /longest tells the length of the longest line of the dataset "table", and where it begins.
#include <godwit.h>
#include <string.h>

char block[65536];
struct {
  uint64_t at, line, longest, where;
} all;

static void look(const char* text, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i, ++all.at) {
    if (text[i] != '\n') continue;
    if (all.at - all.line > all.longest) all.longest = all.at - all.line, all.where = all.line;
    all.line = all.at + 1;
  }
}

void godwit_handle(godwit_request* request) {
  int got;
  memset(&all, 0, sizeof all);
  for (uint64_t at = 0; (got = godwit_dataset_read(request, "table", at, block, sizeof block)) > 0; at += (uint64_t)got) look(block, (uint32_t)got);
  if (got < 0) godwit_status(request, 502);
  godwit_printf(request, "%llu bytes from %llu on\n", (unsigned long long)all.longest, (unsigned long long)all.where);
}
