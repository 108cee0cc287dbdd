#!/bin/sh
# Compiles the updater, and what it uses of Python's library where that has no bytecode, to
# out/bytecode.tar: the node's root can't be written, so Python would do it at each start.
#   in/chroot.tar  in/updater  in/bytecode.py
set -eu

root=/tmp/root
mkdir "$root"
tar -xf in/chroot.tar -C "$root"
mkdir -p "$root/usr/lib/belay/updater"
cp in/updater/*.py "$root/usr/lib/belay/updater/"
cp in/bytecode.py "$root/tmp/"
chroot "$root" /usr/bin/python3 -I -S /tmp/bytecode.py >/tmp/unsorted
sort /tmp/unsorted >/tmp/files
cd "$root"
tr '\n' '\0' </tmp/files | xargs -0 touch -d @0
tr '\n' '\0' </tmp/files | xargs -0 chmod 644
tar -cf /srv/out/bytecode.tar -T /tmp/files
