#!/bin/sh
# Makes the slot's modloop part, out/modloop.squashfs: modules/VERSION and firmware.
#   in/chroot.tar
set -eu

tree=/tmp/tree
mkdir -p /tmp/all "$tree/lib" "$tree/firmware"
tar -xf in/chroot.tar -C /tmp/all lib/modules
# All firmware there is can be large: not into memory.
tar -xf in/chroot.tar -C out lib/firmware 2>/dev/null || true # a system without firmware
mv /tmp/all/lib/modules "$tree/lib/modules"
kernel=$(ls "$tree/lib/modules")
rm -f "$tree/lib/modules/$kernel/vmlinuz" # a link to the kernel, which is in the boot part

# Plain modules: the squashfs isn't compressed either, so that an update can reuse what didn't change.
find "$tree/lib/modules" -name '*.ko.gz' -print0 |
	xargs -0 -n 32 -P "$(nproc)" gunzip
depmod -b "$tree" "$kernel"
mv "$tree/lib/modules" "$tree/modules"
rmdir "$tree/lib"

# Only the firmware that one of the modules asks for, compressed or not. Links become copies, which
# the squashfs stores once.
find "$tree/modules" -name '*.ko' -exec modinfo -F firmware {} + | sort -u | while read -r name; do
	for file in "out/lib/firmware/$name" "out/lib/firmware/$name.zst" \
		"out/lib/firmware/$name.xz"; do
		[ -f "$file" ] || continue
		copy=$tree/firmware/${file#out/lib/firmware/}
		mkdir -p "${copy%/*}"
		cp -L "$file" "$copy"
	done
done

mksquashfs "$tree" out/modloop.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 128K -no-exports -no-xattrs -all-root \
	-mkfs-time 0 -all-time 0
