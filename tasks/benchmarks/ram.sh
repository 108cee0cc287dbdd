#!/bin/sh
# Packs the whole system into an initramfs, out/initramfs.
#   in/root.squashfs in/modloop.squashfs
set -eu

unsquashfs -quiet -no-progress -dest out/root in/root.squashfs
rm -rf out/root/.modloop
unsquashfs -quiet -no-progress -dest out/root/.modloop in/modloop.squashfs
ln -s /sbin/init out/root/init
(cd out/root && find . | cpio -o -H newc 2>/dev/null) | gzip -1 >out/initramfs
rm -rf out/root
