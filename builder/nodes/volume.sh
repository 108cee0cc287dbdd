#!/bin/sh
# Makes a FAT file system, out/volume, of in/files.
#   $MIB $LABEL      size and label
#   $BITS            16 or 32
set -eu
truncate -s "${MIB}M" out/volume
mkfs.vfat -F "$BITS" -s 1 -n "$LABEL" out/volume >/dev/null
MTOOLS_SKIP_CHECK=1 mcopy -s -Q -i out/volume in/files/* ::/
