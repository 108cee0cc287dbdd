#!/bin/sh
# Lists in/squashfs: out/listing has modes, owners and sizes, out/hashes the SHA-256 of each file.
set -eu
unsquashfs -lln in/squashfs >out/listing
unsquashfs -no-progress -quiet -d /tmp/all in/squashfs >/dev/null
out=$PWD/out
cd /tmp/all
find . -type f -exec sha256sum {} + >"$out/hashes"
