// grep: GET /grep gives the lines of the dataset "table" that contain "77,".
#include <godwit.h>
#include <string.h>

char block[65536], line[4096];
size_t length;

void look(godwit_request* request, const char* text, uint32_t bytes) {
  for (uint32_t i = 0; i < bytes; ++i) {
    if (length < sizeof line - 1) line[length++] = text[i];
    if (text[i] != '\n') continue;
    line[length] = 0;
    if (strstr(line, "77,") != NULL) godwit_write(request, line, length);
    length = 0;
  }
}

void godwit_handle(godwit_request* request) {
  int got;
  for (uint64_t at = 0; (got = godwit_dataset_read(request, "table", at, block, sizeof block)) > 0; at += (uint64_t)got) look(request, block, (uint32_t)got);
  if (got < 0) godwit_status(request, 502);
}
