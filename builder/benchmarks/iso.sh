#!/bin/sh
# The parts of an ISO of the same packages, compressed as Alpine's own images are.
#   in/packages in/keys in/init in/features
#   $APK_OPTIONS $FEATURES
set -eu

root=/tmp/root
mkdir -p "$root/etc/mkinitfs"
echo 'disable_trigger=yes' >"$root/etc/mkinitfs/mkinitfs.conf"
# shellcheck disable=SC2086 # words
apk --root "$root" $APK_OPTIONS add --quiet --initdb --force-non-repository in/packages/*.apk
rm -rf "${root:?}/dev"
mkdir -p out/iso/boot /tmp/loop
cp "$root"/boot/vmlinuz-* out/iso/boot
mkinitfs -q -k -b "$root" -i in/init -P /srv/in/features -F "$FEATURES" -C gzip \
	-t /tmp/tree -o /srv/out/iso/boot/initramfs "$(ls "$root/lib/modules")"
cp -R "$root/lib/modules" /tmp/loop/modules
xz="-noappend -no-progress -quiet -mem 128M -comp xz"
# shellcheck disable=SC2086
mksquashfs /tmp/loop out/iso/boot/modloop $xz
# shellcheck disable=SC2086
mksquashfs "$root" out/iso/boot/root $xz -e lib/modules boot
