#!/bin/sh
# Makes the slot's modloop part, out/modloop.squashfs: modules/VERSION and firmware.
#   in/modules.tar
#   in/overlay-firmware   rootfs/overlay/lib/firmware, if there is any
#   $MODULES    names of modules, or nothing for all
set -eu

tree=/tmp/tree
mkdir -p /tmp/all "$tree/lib" "$tree/firmware"
tar -xf in/modules.tar -C /tmp/all lib/modules
# All firmware there is can be large: not into memory.
tar -xf in/modules.tar -C out lib/firmware 2>/dev/null || true # a system without firmware
mv /tmp/all/lib/modules "$tree/lib/modules"
kernel=$(ls "$tree/lib/modules")
rm -f "$tree/lib/modules/$kernel/vmlinuz" # a link to the kernel, which is in the boot part

# Only what is wanted, with all that it needs: modprobe knows, by modules.dep.
if [ -n "$MODULES" ]; then
	for name in $MODULES; do
		modprobe -d "$tree" -S "$kernel" --show-depends "$name" || {
			echo "modloop.modules in image.toml: the kernel $kernel has no module \"$name\"" >&2
			exit 1
		}
	done >/tmp/loads
	sed -n 's|^insmod \([^ ]*\).*|\1|p' /tmp/loads | sort -u >/tmp/wanted
	find "$tree/lib/modules" -name '*.ko*' | sort | comm -23 - /tmp/wanted | xargs -r rm
	find "$tree/lib/modules" -depth -type d -exec rmdir {} + 2>/dev/null || true
fi

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

# The rules of radio, which the kernel asks for by itself.
for file in out/lib/firmware/regulatory.db*; do
	[ ! -f "$file" ] || cp -L "$file" "$tree/firmware/"
done

# What the overlay has for it, somebody wants.
if [ -d in/overlay-firmware ]; then
	cp -R in/overlay-firmware/. "$tree/firmware/"
	find "$tree/firmware" -type d -exec chmod 755 {} +
	find "$tree/firmware" -type f -exec chmod 644 {} +
fi

mksquashfs "$tree" out/modloop.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 128K -no-exports -no-xattrs -all-root \
	-mkfs-time 0 -all-time 0
