#!/bin/sh
# The least work that makes the modloop part of all modules and firmware: the tools that do it.
#   in/modules.tar
set -eu

tree=/srv/out/tree
mkdir "$tree"
tar -xf in/modules.tar -C "$tree"
find "$tree" -name '*.ko.gz' -print0 | xargs -0 -n 32 -P "$(nproc)" gunzip
mksquashfs "$tree" out/modloop -noappend -no-progress -quiet -mem 128M -noI -noD -noF -noX
