#!/bin/sh
# Makes the disk image without its slots, and without a loop device or a mount: what comes before them,
# out/frame.head, and behind them, out/frame.tail and, at the end of the disk, out/frame.end.
# builder/disk/assembly.py puts the slots in.
#   in/partitions (for sfdisk)  in/grub.cfg  in/grubenv
#   $SIZE_MIB    of the disk; $FILES_MIB the most that the files of the partition data get
#   $ESP_FIRST $ESP_SECTORS and so on, of each partition, in sectors of 512 bytes
#   $NODE_LABEL $DATA_LABEL $DATA_UUID $ESP_NUMBER
#   in/grub-efi.apk   GRUB's modules for UEFI, where the container has none of this architecture
#   in/esp in/board in/*.apk in/devicetrees.tar   what a board wants on the ESP
#   $GRUB_TARGET $EFI_FILE   for UEFI; $BIOS 1 where there is BIOS too
set -eu

disk=/tmp/disk.img
export SOURCE_DATE_EPOCH=315532800 # 1980-01-01, where FAT's time begins
export E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH
export MTOOLS_SKIP_CHECK=1

truncate -s "${SIZE_MIB}M" "$disk"
sfdisk --quiet --no-reread --no-tell-kernel "$disk" <in/partitions

# Copies file $1 to sector $2 of the disk.
to_sector() {
	if [ $(($2 % 2048)) = 0 ]; then
		dd if="$1" of="$disk" bs=1M seek=$(($2 / 2048)) conv=notrunc 2>/dev/null
	else
		dd if="$1" of="$disk" bs=512 seek="$2" conv=notrunc 2>/dev/null
	fi
}

# Writes $2 as a little-endian number of eight bytes at byte $3 of file $1.
number_at() {
	value=$2
	bytes=
	for _ in 1 2 3 4 5 6 7 8; do
		bytes="$bytes\\$(printf %03o $((value % 256)))"
		value=$((value / 256))
	done
	# shellcheck disable=SC2059 # the bytes are the format
	printf "$bytes" | dd of="$1" bs=1 seek="$3" conv=notrunc 2>/dev/null
}

# Writes an entry of the MBR to byte $1: $2 its first half, then the first sector and their number.
mbr_entry() {
	# shellcheck disable=SC2059 # the bytes are the format
	printf "$2" | dd of="$disk" bs=1 seek="$1" conv=notrunc 2>/dev/null
	number_at "$disk" $(($3 + ($4 << 32))) $(($1 + 8))
}

# GRUB. Few file systems: what it can't read can't be used against it.
modules="part_gpt fat squash4 normal configfile linux loadenv regexp datehook probe test echo true serial terminal
	reboot sleep search minicmd gzio"
grub=/usr/lib/grub
if [ -e in/grub-efi.apk ]; then
	mkdir /tmp/grub
	tar -xzf in/grub-efi.apk -C /tmp/grub usr/lib/grub
	grub=/tmp/grub$grub
fi
if [ -e in/esp ]; then
	for module in fdt fdtdump; do # the second only in newer ones
		[ ! -e "$grub/$GRUB_TARGET/$module.mod" ] || modules="$modules $module"
	done
fi
# shellcheck disable=SC2086 # words
grub-mkimage -O "$GRUB_TARGET" -d "$grub/$GRUB_TARGET" -p /EFI/BOOT -o "/tmp/$EFI_FILE" \
	$modules efi_gop all_video

# BIOS: the first 440 bytes of the disk load core.img, whose first sector says where the rest is.
if [ -n "$BIOS" ]; then
	# shellcheck disable=SC2086
	grub-mkimage -O i386-pc -p "(,gpt$ESP_NUMBER)/EFI/BOOT" -o /tmp/core.img $modules biosdisk vga
	[ "$(stat -c %s /tmp/core.img)" -le $((BIOS_SECTORS * 512)) ] || {
		echo "GRUB's core needs more room than the partition bios has" >&2
		exit 1
	}
	number_at /tmp/core.img $((BIOS_FIRST + 1)) 500
	to_sector /tmp/core.img "$BIOS_FIRST"
	dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc 2>/dev/null
	number_at "$disk" "$BIOS_FIRST" 92
fi

# The ESP. grubenv comes first, so that its place is the same whatever comes behind it. That the disk
# goes on behind it is what mkfs.vfat warns of.
mkfs.vfat --invariant -F 32 -s 1 -h "$ESP_FIRST" -n BELAY-ESP --offset "$ESP_FIRST" \
	"$disk" $((ESP_SECTORS / 2)) >/dev/null
esp=$disk@@$((ESP_FIRST * 512))
mmd -i "$esp" ::/EFI ::/EFI/BOOT
mcopy -i "$esp" in/grubenv ::/EFI/BOOT/grubenv
mcopy -i "$esp" in/grubenv ::/EFI/BOOT/grubenv2
mcopy -i "$esp" in/grub.cfg ::/EFI/BOOT/grub.cfg
mcopy -i "$esp" "/tmp/$EFI_FILE" ::/EFI/BOOT/
if [ -e in/esp ]; then
	mkdir /tmp/board
	for package in in/*.apk; do
		tar -xzf "$package" -C /tmp/board 2>/dev/null
	done
	while read -r path name; do
		[ -e "/tmp/board/$path" ] || {
			echo "ERROR: boards: no package has $path, which the ESP is to have as $name" >&2
			exit 1
		}
		mcopy -i "$esp" "/tmp/board/$path" "::/$name"
	done <in/esp
	mcopy -i "$esp" in/board/* ::/
	mkdir /tmp/dtb
	tar -xf in/devicetrees.tar -C /tmp/dtb
	# The first stages look for the tree of their board here, and hand it on.
	mcopy -i "$esp" /tmp/dtb/*.dtb ::/
	# A hybrid MBR, for first stages that know no GPT: the ESP, and what says that there is one.
	mbr_entry 446 '\000\376\377\377\014\376\377\377' "$ESP_FIRST" "$ESP_SECTORS"
	mbr_entry 462 '\000\000\002\000\356\377\377\377' 1 $((ESP_FIRST - 1))
fi

# The node's own partition, empty.
mkfs.vfat --invariant -F 16 -s 1 -h "$NODE_FIRST" -n "$NODE_LABEL" --offset "$NODE_FIRST" \
	"$disk" $((NODE_SECTORS / 2)) >/dev/null

# 4 KiB blocks and a journal of its final size: a small ext4 would keep small ones for ever. Not larger
# than a node makes it by itself at its first boot: a larger one is mostly zeros, all over the disk. The
# node gives it a UUID of its own, which no checksum is to depend on.
files=$DATA_SECTORS
[ "$files" -le $((FILES_MIB * 2048)) ] || files=$((FILES_MIB * 2048))
mke2fs -q -F -t ext4 -O metadata_csum_seed -b 4096 -J size=8 -L "$DATA_LABEL" -U "$DATA_UUID" \
	-E "offset=$((DATA_FIRST * 512)),root_owner=0:0,hash_seed=$DATA_UUID,lazy_itable_init=0" \
	"$disk" $((files / 8))
# mke2fs notes whether hashes of names are of signed letters, as they are for C where it runs. The
# image is the same wherever it is built.
if command -v debugfs >/dev/null; then
	debugfs -w -R "set_super_value flags 1" "$disk?offset=$((DATA_FIRST * 512))" 2>/dev/null
fi

tail=$((SLOT_B_FIRST + SLOT_B_SECTORS)) # what is behind both slots begins here
# dd's figures are of no use, its errors are: a full disk.
{
	dd if="$disk" of=out/frame.head bs=1M count=$((SLOT_A_FIRST / 2048)) &&
		dd if="$disk" of=out/frame.tail bs=1M skip=$((tail / 2048)) \
			count=$(((DATA_FIRST + files - tail) / 2048)) &&
		dd if="$disk" of=out/frame.end bs=1M skip=$((SIZE_MIB - 1))
} 2>/tmp/said || {
	cat /tmp/said >&2
	exit 1
}
