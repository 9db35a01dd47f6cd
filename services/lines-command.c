// lines-command: an ordinary program that counts the lines of a file; nothing in it knows that the file is a dataset.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
  const char* path = getenv("COUNTED");
  FILE* file = fopen(path, "r");
  long lines = 0;
  if (file == NULL) {
    printf("Status: 404\nContent-Type: text/plain\n\n%s: %s\n", path, strerror(errno));
    return 0;
  }
  for (int c; (c = getc(file)) != EOF;) lines += c == '\n';
  fclose(file);
  printf("Content-Type: text/plain\n\n%ld lines in %s\n", lines, path);
  return 0;
}
