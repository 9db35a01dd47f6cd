// The API's description, served at /openapi.json. Its long form for people is in control/api.h.
#pragma once

#include <string_view>

namespace godwit::control {

inline constexpr std::string_view kOpenApi = R"({
"openapi": "3.1.0",
"info": {"title": "Godwit", "version": "1"},
"components": {
 "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
 "parameters": {
  "kind": {"name": "kind", "in": "path", "required": true, "schema": {"enum": ["devices", "services", "instances", "migrations", "datasets", "packages"]}},
  "name": {"name": "name", "in": "path", "required": true, "schema": {"type": "string"}},
  "watch": {"name": "watch", "in": "query", "schema": {"type": "boolean"}, "description": "server-sent events: put and delete"}}},
"security": [{"token": []}],
"paths": {
 "/v1/{kind}": {"parameters": [{"$ref": "#/components/parameters/kind"}], "get": {"summary": "list or watch", "parameters": [{"$ref": "#/components/parameters/watch"}], "responses": {"200": {"description": "{items, revision}, or events"}}}},
 "/v1/{kind}/{name}": {"parameters": [{"$ref": "#/components/parameters/kind"}, {"$ref": "#/components/parameters/name"}],
  "get": {"summary": "one record", "responses": {"200": {"description": "the record, with its ETag"}, "404": {"description": "problem"}}},
  "put": {"summary": "write a record; If-Match, If-None-Match", "responses": {"200": {"description": "changed"}, "201": {"description": "made"}, "412": {"description": "problem: changed meanwhile"}}},
  "patch": {"summary": "JSON merge patch of a device, instance or migration", "responses": {"200": {"description": "the record"}}},
  "delete": {"summary": "delete", "responses": {"204": {"description": "done"}}}},
 "/v1/blobs/{name}": {"parameters": [{"$ref": "#/components/parameters/name"}], "put": {"summary": "upload, checked against the digest", "responses": {"201": {"description": "stored"}}}, "get": {"summary": "download", "responses": {"200": {"description": "bytes"}}}},
 "/v1/devices/{name}/lease": {"parameters": [{"$ref": "#/components/parameters/name"}], "post": {"summary": "register a device", "responses": {"200": {"description": "{lease, ttl_s}"}}}},
 "/v1/leases/{name}": {"parameters": [{"$ref": "#/components/parameters/name"}], "post": {"summary": "keep alive", "responses": {"200": {"description": "{ttl_s}"}, "404": {"description": "problem: ended"}}}, "delete": {"summary": "leave", "responses": {"204": {"description": "done"}}}},
 "/v1/migrations": {"post": {"summary": "move an instance: {service, shard, target (a device or auto), mode, max_downtime_ms, dry_run, force}", "responses": {"202": {"description": "the migration"}, "409": {"description": "problem: why not"}}}},
 "/v1/instances/{name}/confirm": {"parameters": [{"$ref": "#/components/parameters/name"}], "post": {"summary": "take ownership: {device, epoch, migration}", "responses": {"200": {"description": "the instance"}, "409": {"description": "problem: lost"}}}},
 "/v1/logs": {"post": {"summary": "append log lines", "responses": {"204": {"description": "done"}}}},
 "/v1/services/{name}/logs": {"parameters": [{"$ref": "#/components/parameters/name"}], "get": {"summary": "recent log lines; follow=true streams", "responses": {"200": {"description": "lines"}}}},
 "/healthz": {"get": {"responses": {"200": {"description": "alive"}}}},
 "/readyz": {"get": {"responses": {"200": {"description": "the metadata store answers"}}}},
 "/metrics": {"get": {"responses": {"200": {"description": "OpenMetrics text"}}}}
}}
)";

}  // namespace godwit::control
