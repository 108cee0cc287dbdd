#!/bin/sh
# The least work that makes a disk image of these packages: the tools that do it, and nothing else.
#   in/packages in/keys in/init in/features
#   $APK_OPTIONS $FEATURES $SLOT_MIB $DATA_MIB
set -eu

root=/tmp/root
mkdir -p "$root/etc/mkinitfs"
echo 'disable_trigger=yes' >"$root/etc/mkinitfs/mkinitfs.conf"
# shellcheck disable=SC2086 # words
apk --root "$root" $APK_OPTIONS add --quiet --initdb --force-non-repository in/packages/*.apk
rm -rf "${root:?}/dev"

mkinitfs -q -k -b "$root" -i in/init -P /srv/in/features -F "$FEATURES" -C gzip \
	-t /tmp/tree -o /srv/out/initramfs "$(ls "$root/lib/modules")" &
initramfs=$!

cp -R "$root/lib/modules" /tmp/modules
find /tmp/modules -name '*.ko.gz' -print0 | xargs -0 -n 32 -P "$(nproc)" gunzip
plain="-noappend -no-progress -quiet -mem 128M -noI -noD -noF -noX"
# shellcheck disable=SC2086
mksquashfs /tmp/modules out/modloop $plain
# shellcheck disable=SC2086
mksquashfs "$root" out/root $plain -e lib/modules boot

wait "$initramfs"
mkdir /tmp/boot
cp "$root"/boot/vmlinuz-* out/initramfs /tmp/boot
# shellcheck disable=SC2086
mksquashfs /tmp/boot out/boot $plain
cat out/boot out/root out/modloop >out/slot

truncate -s 64M out/esp
mkfs.vfat -F 32 out/esp >/dev/null
mmd -i out/esp ::/EFI ::/EFI/BOOT
grub-mkimage -O x86_64-efi -p /EFI/BOOT -o out/efi part_gpt fat squash4 normal linux loadenv
mcopy -i out/esp out/efi ::/EFI/BOOT/BOOTX64.EFI
truncate -s "${DATA_MIB}M" out/data
mke2fs -q -F -t ext4 out/data

disk=out/disk.img
dd if=out/esp of=$disk bs=1M seek=1 2>/dev/null
dd if=out/slot of=$disk bs=1M seek=65 conv=notrunc 2>/dev/null
dd if=out/slot of=$disk bs=1M seek=$((65 + SLOT_MIB)) conv=notrunc 2>/dev/null
dd if=out/data of=$disk bs=1M seek=$((65 + 2 * SLOT_MIB)) conv=notrunc 2>/dev/null
