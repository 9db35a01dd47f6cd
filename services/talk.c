// talk: answers each message of a WebSocket with it and the number of messages that it has had from all its clients.
//
//   WebSocket /talk   "hello" -> "hello (4 at host0 host x86_64)"; binary messages come back as they are
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>

enum { MESSAGE_MAX = 1 << 20, SAID_MAX = 200 };

static unsigned long messages;

void godwit_handle(godwit_request* request) {
  if (godwit_accept(request) < 0) {
    godwit_reply(request, 426, "text/plain", "this is a WebSocket\n", 20);
    return;
  }
  char* message = malloc(MESSAGE_MAX + SAID_MAX);  // Of its own: handlers change over while they wait.
  for (int kind, length; message != NULL;) {
    length = godwit_message_read(request, message, MESSAGE_MAX, &kind);
    if (length < 0 && length != -GODWIT_RESOURCE_EXHAUSTED) break;
    ++messages;
    if (length < 0) {
      length = sprintf(message, "too long");
      kind = GODWIT_TEXT;
    }
    if (kind == GODWIT_TEXT) {
      char device[100];
      godwit_where_am_i(device, sizeof device);
      length += sprintf(message + length, " (%lu at %s)", messages, device);
    }
    if (godwit_message_write(request, kind, message, (size_t)length) < 0) break;
  }
  free(message);
}
