#!/usr/bin/env python3
"""Makes the demo's data set: real text that this machine's packages brought, each file once, at least 210 MB, no line longer than 60 KB.

First the archive's package indices (what `apt-get update` fetched), then the headers, documents and data of installed
packages in the order of their names.
"""
import glob
import hashlib
import os
import subprocess
import sys

BYTES_MIN = 210_000_000
FILE_BYTES_MAX = 20_000_000
LINE_BYTES_MAX = 60_000  # Files with longer lines are no text to read.
TEXT_FOLDERS = ("/usr/include", "/usr/share/doc", "/usr/share/perl", "/usr/lib/python3", "/usr/share")


def indices():
    for path in sorted(glob.glob("/var/lib/apt/lists/*_Packages*")):
        yield subprocess.run(["/usr/lib/apt/apt-helper", "cat-file", path], capture_output=True).stdout


def texts():
    seen = set()
    for folder in TEXT_FOLDERS:
        for parent, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(parent, name)
                if os.path.islink(path) or os.path.getsize(path) > FILE_BYTES_MAX:
                    continue
                try:
                    with open(path, "rb") as file:
                        content = file.read()
                except OSError:
                    continue
                digest = hashlib.sha1(content).digest()
                if not content or b"\0" in content[:4096] or digest in seen or max(map(len, content.split(b"\n"))) > LINE_BYTES_MAX:
                    continue
                seen.add(digest)
                yield content if content.endswith(b"\n") else content + b"\n"


def make(target):
    """Writes the file unless it is there; returns its size."""
    if os.path.exists(target) and os.path.getsize(target) >= BYTES_MIN:
        return os.path.getsize(target)
    os.makedirs(os.path.dirname(target), exist_ok=True)
    size = 0
    with open(target + ".new", "wb") as out:
        for source in (indices(), texts()):
            for content in source:
                out.write(content)
                size += len(content)
                if size >= BYTES_MIN:
                    break
            if size >= BYTES_MIN:
                break
    if size < BYTES_MIN:
        raise SystemExit(f"only {size} bytes of text are installed, {BYTES_MIN} are needed; run 'apt-get update' and try again")
    os.replace(target + ".new", target)
    return size


if __name__ == "__main__":
    print(make(sys.argv[1]))
