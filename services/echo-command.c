// An unmodified WASI program as a service: CGI variables in, the body back.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
  char block[4096];
  const char* method = getenv("REQUEST_METHOD");
  const char* query = getenv("QUERY_STRING");
  const char* fail = query ? strstr(query, "exit=") : NULL;
  if (fail) return atoi(fail + 5);
  printf("Status: 200\r\nContent-Type: text/plain\r\nX-Method: %s\r\n\r\n", method ? method : "");
  for (size_t bytes; (bytes = fread(block, 1, sizeof block, stdin)) > 0;) fwrite(block, 1, bytes, stdout);
  fprintf(stderr, "echoed a %s\n", method ? method : "request");
  return 0;
}
