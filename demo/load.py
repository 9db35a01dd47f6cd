#!/usr/bin/env python3
"""Open-loop load on the store service, every answer's value checked.

Requests start at their intended times whether or not earlier ones were answered, and latency counts from the intended
time, so a stall shows up in every request it delayed. A key has at most one request at a time, therefore the value a
GET must return is known exactly: the one of the last acknowledged PUT. The store counts the writes of each key, so a
write that took effect twice, or not at all, shows up in the version.

Commands on standard input, each answered by one line of JSON: `report` (since the last report), `stop` (waits for what
is outstanding, reads every key back, ends).
"""
import argparse
import asyncio
import collections
import json
import random
import sys
import time
import urllib.parse

CONNECTIONS_MAX = 8000     # More outstanding requests than this count as failed.
REQUEST_SECONDS = 90       # An answer later than this counts as failed.
VALUE_BYTES = 200


class Connection:
    """One kept-alive HTTP/1.1 connection; requests on it come one after the other."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def request(self, method, host, target, body=b""):
        self.writer.write(f"{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        head = await self.reader.readuntil(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if headers.get("transfer-encoding", "").lower() == "chunked":
            parts = []
            while True:
                size = int((await self.reader.readline()).split(b";")[0], 16)
                parts.append(await self.reader.readexactly(size))
                await self.reader.readexactly(2)
                if size == 0:
                    break
            content = b"".join(parts)
        else:
            content = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return int(lines[0].split()[1]), headers, content, headers.get("connection", "").lower() != "close"

    def ended(self):
        return self.reader.at_eof()

    def close(self):
        self.writer.close()


class Load:
    def __init__(self, url, rate, keys, seed):
        parts = urllib.parse.urlsplit(url)
        self.host, self.port, self.path = parts.hostname, parts.port or 80, parts.path.rstrip("/")
        self.rate, self.random = rate, random.Random(seed)
        self.free = [f"key{i}" for i in range(keys)]
        self.values = {}                    # key -> value of the last acknowledged PUT
        self.versions = collections.Counter()
        self.idle, self.open = [], 0
        self.latencies, self.outstanding = [], 0
        self.done = self.failed = self.wrong = 0
        self.examples = []
        self.running = True

    def note(self, text):
        if len(self.examples) < 20:
            self.examples.append(text)

    async def call(self, method, target, body=b""):
        connection = None
        while self.idle and (connection is None or connection.ended()):  # A server may close what is idle for long.
            connection = self.idle.pop()
        if connection is None or connection.ended():
            connection = Connection(*await asyncio.open_connection(self.host, self.port))
        try:
            status, headers, content, keep = await asyncio.wait_for(
                connection.request(method, f"{self.host}:{self.port}", target, body), REQUEST_SECONDS)
        except BaseException:
            connection.close()
            raise
        if keep:
            self.idle.append(connection)
        else:
            connection.close()
        return status, headers, content

    def check_version(self, what, key, version):
        if version != self.versions[key]:
            self.wrong += 1
            self.note(f"{what} {key}: version {version}, {self.versions[key]} writes were acknowledged")

    async def one(self, intended):
        if not self.free:
            self.failed += 1
            self.note("no key is free: too many requests are outstanding")
            return
        index = self.random.randrange(len(self.free))
        self.free[index], self.free[-1] = self.free[-1], self.free[index]
        key = self.free.pop()
        self.outstanding += 1
        try:
            if key not in self.values or self.random.random() < 0.5:
                value = f"{key} {self.versions[key] + 1} {self.random.getrandbits(64):016x} ".encode().ljust(VALUE_BYTES, b".")
                status, headers, content = await self.call("PUT", f"{self.path}/{key}", value)
                if status != 200:
                    raise ValueError(f"PUT {key}: status {status}: {content[:200]!r}")
                self.values[key] = value
                self.versions[key] += 1
                self.check_version("PUT", key, json.loads(content)["version"])
            else:
                status, headers, content = await self.call("GET", f"{self.path}/{key}")
                if status != 200:
                    raise ValueError(f"GET {key}: status {status}: {content[:200]!r}")
                self.check(key, content)
                self.check_version("GET", key, int(headers["x-version"]))
        except Exception as error:  # Whatever it is, this request failed.
            self.failed += 1
            self.note(f"{type(error).__name__}: {error}")
        finally:
            self.latencies.append(time.monotonic() - intended)
            self.outstanding -= 1
            self.done += 1
            self.free.append(key)

    def check(self, key, content):
        if content != self.values[key]:
            self.wrong += 1
            self.note(f"GET {key}: got {content[:60]!r}, acknowledged was {self.values[key][:60]!r}")

    async def generate(self):
        start, sent = time.monotonic(), 0
        while self.running:
            intended = start + sent / self.rate
            delay = intended - time.monotonic()
            if delay > 0:
                await asyncio.sleep(delay)
                continue
            sent += 1
            if self.outstanding >= CONNECTIONS_MAX:
                self.failed += 1
                self.note("too many requests are outstanding")
                continue
            asyncio.get_running_loop().create_task(self.one(intended))
            if sent % 50 == 0:
                await asyncio.sleep(0)

    def report(self):
        ordered = sorted(self.latencies)
        at = lambda share: round(ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000, 2) if ordered else 0
        result = {"requests": len(ordered), "p50_ms": at(0.5), "p99_ms": at(0.99), "max_ms": at(1.0), "outstanding": self.outstanding,
                  "total": self.done, "failed": self.failed, "wrong": self.wrong, "examples": self.examples}
        self.latencies = []
        return result

    async def finish(self):
        self.running = False
        end = time.monotonic() + REQUEST_SECONDS
        while self.outstanding and time.monotonic() < end:
            await asyncio.sleep(0.02)
        checked = 0
        for key in sorted(self.values):
            try:
                status, headers, content = await self.call("GET", f"{self.path}/{key}")
                if status != 200:
                    raise ValueError(f"status {status}")
                self.check(key, content)
                self.check_version("GET", key, int(headers["x-version"]))
                checked += 1
            except Exception as error:
                self.failed += 1
                self.note(f"reading {key} back: {type(error).__name__}: {error}")
        return self.report() | {"keys_checked": checked, "writes_acknowledged": sum(self.versions.values())}

    async def run(self):
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        generator = loop.create_task(self.generate())
        while True:
            command = (await commands.readline()).decode().strip()
            if command == "report":
                print(json.dumps(self.report()), flush=True)
            else:  # `stop`, or whoever started us is gone
                print(json.dumps(await self.finish()), flush=True)
                generator.cancel()
                return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="where the store service is")
    parser.add_argument("--rate", type=float, default=300, help="requests per second")
    parser.add_argument("--keys", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    asyncio.run(Load(options.url, options.rate, options.keys, options.seed).run())


if __name__ == "__main__":
    main()
