#!/bin/sh
# Packs the whole system into an initramfs, out/initramfs.
#   in/root.squashfs in/modloop.squashfs
set -eu

unsquashfs -quiet -no-progress -dest out/root in/root.squashfs
rm -rf out/root/.modloop
unsquashfs -quiet -no-progress -dest out/root/.modloop in/modloop.squashfs
# Belay's initramfs mounts these for the system, and here is none.
cat >out/root/init <<-'END'
	#!/bin/sh
	mount -t proc proc /proc
	mount -t sysfs sysfs /sys
	mount -t devtmpfs dev /dev
	exec /sbin/init
END
chmod 755 out/root/init
(cd out/root && find . | cpio -o -H newc 2>/dev/null) | gzip -1 >out/initramfs
rm -rf out/root
