// The smallest service: says where it runs and how often it was asked.
#include <godwit.h>

static int hits;

void godwit_handle(godwit_request* request) {
  char where[128];
  godwit_where_am_i(where, sizeof where);
  godwit_printf(request, "Hello number %d from %s\n", ++hits, where);
}
