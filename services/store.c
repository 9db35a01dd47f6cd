// A key-value store in linear memory.
//   PUT /store/{key}        body -> stored under the key; answers its new version
//   GET /store/{key}        -> the value; headers x-version and x-checksum (FNV-1a of the value, 16 hex digits)
//   GET /store              -> {"keys","value_bytes","fill_bytes","writes"}
//   POST /store?fill=BYTES  -> BYTES of live, checked filler beside the keys, as a large state would have
//   GET /store?check=1      -> verifies the filler and every value; 500 if one is wrong
//   GET /store?scan=WORD    -> asks the service "scan" for WORD and passes its answer on
#include <godwit.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { kKeyMax = 128, kValueMax = 64 << 10, kBuckets = 1 << 14, kKeysMax = 1 << 18 };

typedef struct entry {
  struct entry* next;
  uint64_t version, checksum;
  uint32_t length, capacity;
  char* value;
  char key[];
} entry;

static entry* buckets[kBuckets];
static uint32_t keys;
static uint64_t value_bytes, writes, fill_words;
static uint64_t* fill;

static uint64_t fnv(const void* from, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ ((const unsigned char*)from)[i]) * 0x100000001b3u;
  return hash;
}

static uint64_t filler(uint64_t i) {
  uint64_t x = i + 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  return x ^ x >> 29;
}

static entry** find(const char* key) {
  entry** at = &buckets[fnv(key, strlen(key)) % kBuckets];
  while (*at && strcmp((*at)->key, key) != 0) at = &(*at)->next;
  return at;
}

static void fail(godwit_request* request, int status, const char* why) {
  godwit_reply(request, status, "text/plain", why, strlen(why));
}

static void put(godwit_request* request, const char* key) {
  // On the stack: several requests may be in here at once where the manifest allows it.
  char value[kValueMax];
  const int length = godwit_read_all(request, value, sizeof value);
  if (length < 0) return fail(request, 413, "a value is limited to 64 KiB\n");
  entry** at = find(key);
  entry* found = *at;
  if (found == NULL) {
    found = keys < kKeysMax ? calloc(1, sizeof(entry) + strlen(key) + 1) : NULL;
    if (found == NULL) return fail(request, 507, "no room for another key\n");
    strcpy(found->key, key);
    *at = found;
    ++keys;
  }
  if ((uint32_t)length > found->capacity) {
    char* larger = realloc(found->value, (size_t)length);
    if (larger == NULL) return fail(request, 507, "no room for the value\n");
    found->value = larger;
    found->capacity = (uint32_t)length;
  }
  value_bytes += (uint64_t)length - found->length;
  memcpy(found->value, value, (size_t)length);
  found->length = (uint32_t)length;
  found->checksum = fnv(value, (size_t)length);
  ++found->version;
  ++writes;
  godwit_set_header(request, "content-type", "application/json");
  godwit_printf(request, "{\"version\":%llu,\"checksum\":\"%016llx\"}\n", (unsigned long long)found->version,
                (unsigned long long)found->checksum);
}

static void get(godwit_request* request, const char* key) {
  const entry* found = *find(key);
  if (found == NULL) return fail(request, 404, "no such key\n");
  char text[32];
  snprintf(text, sizeof text, "%llu", (unsigned long long)found->version);
  godwit_set_header(request, "x-version", text);
  snprintf(text, sizeof text, "%016llx", (unsigned long long)found->checksum);
  godwit_set_header(request, "x-checksum", text);
  godwit_set_header(request, "content-type", "application/octet-stream");
  godwit_write(request, found->value, found->length);
}

static void fill_up(godwit_request* request, const char* bytes) {
  const uint64_t words = strtoull(bytes, NULL, 10) / 8;
  uint64_t* larger = words <= (1u << 27) ? realloc(fill, words * 8 + 8) : NULL;
  if (larger == NULL) return fail(request, 507, "no room for that much\n");
  fill = larger;
  for (uint64_t i = fill_words; i < words; ++i) fill[i] = filler(i);
  fill_words = words;
  godwit_printf(request, "{\"fill_bytes\":%llu}\n", (unsigned long long)fill_words * 8);
}

static void check(godwit_request* request) {
  for (uint64_t i = 0; i < fill_words; ++i) {
    if (fill[i] != filler(i)) return fail(request, 500, "the filler is damaged\n");
  }
  uint32_t seen = 0;
  for (int i = 0; i < kBuckets; ++i) {
    for (const entry* at = buckets[i]; at; at = at->next, ++seen) {
      if (fnv(at->value, at->length) != at->checksum) return fail(request, 500, "a value is damaged\n");
    }
  }
  if (seen != keys) return fail(request, 500, "keys are missing\n");
  godwit_printf(request, "{\"checked_keys\":%u,\"checked_fill_bytes\":%llu}\n", seen, (unsigned long long)fill_words * 8);
}

static void scan(godwit_request* request, const char* word) {
  char target[256], buffer[4096];
  snprintf(target, sizeof target, "/scan?word=%s", word);
  const godwit_answer answer = godwit_get(request, "scan", target);
  if (answer < 0) return fail(request, 502, "the service 'scan' did not answer\n");
  godwit_status(request, godwit_answer_status(request, answer));
  godwit_set_header(request, "content-type", "application/json");
  for (int bytes; (bytes = godwit_answer_read(request, answer, buffer, sizeof buffer)) > 0;) {
    godwit_write(request, buffer, (size_t)bytes);
  }
  godwit_answer_close(request, answer);
}

static void summary(godwit_request* request) {
  char where[128];
  godwit_where_am_i(where, sizeof where);
  godwit_set_header(request, "content-type", "application/json");
  godwit_printf(request, "{\"keys\":%u,\"value_bytes\":%llu,\"fill_bytes\":%llu,\"writes\":%llu,\"where\":\"%s\"}\n", keys,
                (unsigned long long)value_bytes, (unsigned long long)fill_words * 8, (unsigned long long)writes, where);
}

void godwit_handle(godwit_request* request) {
  char path[256], key[kKeyMax], text[64];
  const int length = godwit_path(request, path, sizeof path);
  if (length < 0 || (size_t)length >= sizeof path) return fail(request, 414, "the path is too long\n");
  if (strcmp(path, "/store") == 0 || strcmp(path, "/store/") == 0) {
    if (godwit_query_value(request, "fill", text, sizeof text) > 0) return fill_up(request, text);
    if (godwit_query_value(request, "check", text, sizeof text) >= 0) return check(request);
    if (godwit_query_value(request, "scan", text, sizeof text) > 0) return scan(request, text);
    return summary(request);
  }
  const int key_length = godwit_key(request, key, sizeof key);
  if (key_length <= 0 || key_length >= kKeyMax) return fail(request, 400, "a key has 1 to 127 bytes\n");
  if (godwit_is(request, "PUT")) return put(request, key);
  if (godwit_is(request, "GET")) return get(request, key);
  fail(request, 405, "GET or PUT\n");
}
