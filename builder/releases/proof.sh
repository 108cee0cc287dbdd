#!/bin/sh
# Unpacks the root part of a slot, in/squashfs, to out/root.
set -eu
unsquashfs -no-progress -quiet -no-xattrs -d out/root in/squashfs >/dev/null
chmod -R u+rwX out/root
