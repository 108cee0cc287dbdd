#!/bin/sh
# Makes out/initramfs, not compressed yet: that is done where it is made reproducible
# (tasks/alpine/initramfs.py).
#   in/chroot.tar    the system: mkinitfs takes modules, programs and features from it
#   in/init          what runs as PID 1
#   in/features      features of our own
#   $FEATURES        words
set -eu

base=/tmp/base
mkdir "$base"
tar -xf in/chroot.tar -C "$base"
kernel=$(ls "$base/lib/modules")

for feature in $FEATURES; do
	for dir in in/features "$base/etc/mkinitfs/features.d"; do
		[ -e "$dir/$feature.files" ] || [ -e "$dir/$feature.modules" ] && continue 2
	done
	echo "boot.features in image.toml: there is no mkinitfs feature \"$feature\"" >&2
	exit 1
done
mkinitfs -q -k -b "$base" -i in/init -P /srv/in/features -F "$FEATURES" -C none \
	-t /tmp/tree -o /srv/out/initramfs "$kernel"
# mkinitfs goes on when a part of it fails.
[ -s "/tmp/tree/lib/modules/$kernel/modules.dep" ] && [ -x /tmp/tree/bin/busybox ] || {
	echo "mkinitfs made an initramfs without modules or programs" >&2
	exit 1
}
chmod 644 out/initramfs
