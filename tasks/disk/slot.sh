#!/bin/sh
# Puts a slot together, out/slot.img: boot, root and modloop part, one after the other.
#   in/chroot.tar in/initramfs in/root.squashfs in/modloop.squashfs in/modloop.sha256
#   $OS_NAME $OS_VERSION $ARCH $SLOT_MIB
set -eu

boot=/tmp/boot
mkdir "$boot"
kernel=$(tar -tf in/chroot.tar | sed -n 's|^boot/vmlinuz-||p')
[ -n "$kernel" ] || {
	echo "the packages hold no kernel" >&2
	exit 1
}
tar -xOf in/chroot.tar "boot/vmlinuz-$kernel" >"$boot/vmlinuz"
cp in/initramfs "$boot/initramfs"
chmod 644 "$boot"/*

# One line of the manifest: what the file $2 is, under the name $1. $3 is its hash, if it is known.
entry() {
	printf '  "%s": {"size": %s, "sha256": "%s"}' "$1" \
		"$(stat -Lc %s "$2")" "${3:-$(sha256sum "$2" | cut -d' ' -f1)}"
}
{
	printf '{\n  "os": "%s",\n  "version": "%s",\n  "arch": "%s",\n' "$OS_NAME" "$OS_VERSION" "$ARCH"
	entry vmlinuz "$boot/vmlinuz" && echo ,
	entry initramfs "$boot/initramfs" && echo ,
	entry root in/root.squashfs && echo ,
	entry modloop in/modloop.squashfs "$(cat in/modloop.sha256)" && echo
	echo '}'
} >out/manifest.json
mv out/manifest.json "$boot/manifest.json"

mksquashfs "$boot" out/boot.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 1M -no-exports -no-xattrs -all-root \
	-mkfs-time 0 -all-time 0

# mksquashfs pads to 4096 bytes, so each part begins where the format wants it (updater/slot.py).
cat out/boot.squashfs in/root.squashfs in/modloop.squashfs >out/slot.img

size=$(stat -c %s out/slot.img)
room=$((SLOT_MIB * 1024 * 1024))
if [ "$size" -gt "$room" ]; then
	over=$(((size - room + 1048575) / 1048576))
	echo "the slot needs $((SLOT_MIB + over)) MiB, $over MiB more than it has;" \
		"set slot_mib in image.toml, or take packages out of rootfs/world" >&2
	exit 1
fi
