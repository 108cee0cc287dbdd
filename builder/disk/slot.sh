#!/bin/sh
# Makes the slot's boot part, out/boot.squashfs; builder/disk/assembly.py joins it with the others.
#   in/vmlinuz in/initramfs
#   in/root.size in/modloop.size        bytes of the other parts
#   in/root.sizes in/modloop.sizes      what lies in them: KiB, and a name
#   in/devicetrees.tar                  of the kernel, where a board wants them
#   $SLOT_MIB      the room there is, or auto: what this will show
set -eu

boot=/tmp/boot
mkdir "$boot"
cp in/vmlinuz in/initramfs "$boot/"
chmod 644 "$boot"/*
if [ -e in/devicetrees.tar ]; then
	mkdir "$boot/dtb"
	tar -xf in/devicetrees.tar -C "$boot/dtb"
fi
# The kernel lies first. Nodes pack it while they write other chunks, and the initramfs last of all:
# a chunk with the end of the one and the begin of the other is then no detour.
echo "$boot/vmlinuz 1" >/tmp/order

mksquashfs "$boot" out/boot.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 1M -no-exports -no-xattrs -all-root \
	-mkfs-time 0 -all-time 0 -sort /tmp/order

[ "$SLOT_MIB" != auto ] || exit 0
size=0
for part in "$(stat -c %s out/boot.squashfs)" "$(cat in/root.size)" "$(cat in/modloop.size)"; do
	size=$((size + part))
done
room=$((SLOT_MIB * 1024 * 1024))
if [ "$size" -gt "$room" ]; then
	over=$(((size - room + 1048575) / 1048576))
	{
		echo "the slot needs $((SLOT_MIB + over)) MiB, $over MiB more than it has;" \
			"set slot_mib in image.toml, or leave something out. The largest are:"
		for file in vmlinuz initramfs; do
			echo "$(($(stat -c %s "$boot/$file") / 1024)) $file"
		done | sort -rn - in/root.sizes in/modloop.sizes |
			awk 'NR <= 10 { size = $1; sub(/^[0-9]+ /, ""); printf "%5d MiB  %s\n", size / 1024, $0 }'
		echo "Less is in the slot with other packages in rootfs/world, or modules in [modloop] of image.toml." \
			"With slot_mib = \"auto\" the size stands in the lock (apk*.lock), as nodes can't change it: take its line" \
			"out of [slot_mib] there if no node has it yet. Only disks that are written anew get larger slots."
	} >&2
	exit 1
fi
