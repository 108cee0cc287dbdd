#!/bin/sh
# Makes the slot's modloop part, out/modloop.squashfs: modules/VERSION and firmware. out/note has a
# line that says what is in it, out/modloop.sizes the size of its folders.
#   in/modules.tar
#   in/firmware.list  in/firmware.awk
#   in/overlay-firmware   rootfs/overlay/lib/firmware, if there is any
#   in/pc                 names of the modules of common PCs
#   in/firmware           patterns of firmware that is wanted, whatever modules say
#   $MODULES    names of modules, among them "pc" for those in in/pc; or nothing for all
set -eu

refuse() {
	echo "ERROR: $*" >&2
	exit 1
}
# KiB of the modules below $1, packed or not.
size_of_modules() {
	find "$1" -name '*.ko*' -exec stat -c %s {} + | awk '{ size += $1 } END { printf "%d\n", size / 1024 }'
}

# In memory, but for what would need too much: what is packed here unpacks to four times as much.
tree=/tmp/tree
[ "$(stat -c %s in/modules.tar)" -lt $((64 * 1048576)) ] || tree=/srv/out/tree
mkdir -p "$tree/lib/firmware"
tar -xf in/modules.tar -C "$tree" lib/modules
kernel=$(ls "$tree/lib/modules")
rm -f "$tree/lib/modules/$kernel/vmlinuz" # a link to the kernel, which is in the boot part

# Only what is wanted, with all that it needs: modprobe knows, by modules.dep.
all=
if [ -n "$MODULES" ]; then
	all=$(find "$tree/lib/modules" -name '*.ko*' | wc -l)
	sed 's/#.*//' in/pc | tr -s ' \t' '\n' >/tmp/pc
	names=
	for name in $MODULES; do
		[ "$name" != pc ] || name=$(cat /tmp/pc)
		names="$names $name"
	done
	before=$(size_of_modules "$tree")
	# shellcheck disable=SC2086 # words
	modprobe -d "$tree" -S "$kernel" --show-depends -a $names >/tmp/loads 2>/tmp/said || true
	# No kernel has all that a list for all kernels names.
	unknown=$(sed -n 's/^modprobe: .*Module \([^ ]*\) not found.*/\1/p' /tmp/said | grep -vxF -f /tmp/pc |
		tr '\n' ' ')
	[ -z "$unknown" ] ||
		refuse "modules in [modloop] of image.toml: the kernel $kernel has no module $unknown"
	sed -n 's|^insmod \([^ ]*\).*|\1|p' /tmp/loads | sort -u >/tmp/wanted
	find "$tree/lib/modules" -name '*.ko*' | sort | comm -23 - /tmp/wanted |
		tr '\n' '\0' | xargs -0 -r rm
	find "$tree/lib/modules" -depth -type d -exec rmdir {} + 2>/dev/null || true
	packed=$(size_of_modules "$tree")
	dropped=$((before - packed))
fi

# Plain modules: the squashfs isn't compressed either, so that an update can reuse what didn't change.
unpack() {
	ending=$1
	shift
	find "$tree/lib/modules" -name "*.ko.$ending" -print0 | xargs -0 -r -n 32 -P "$(nproc)" "$@"
}
unpack gz gunzip
if [ -n "$(find "$tree/lib/modules" -name '*.ko.*')" ]; then
	unpack xz unxz
	unpack zst zstd -d -q --rm
fi
depmod -b "$tree" "$kernel"

# Only the firmware that one of the modules asks for, or image.toml, compressed or not; and the rules of
# radio, which the kernel asks for by itself.
find "$tree/lib/modules" -name '*.ko' -print0 | xargs -0 -r modinfo -F firmware | sort -u >/tmp/asked
grep '^regulatory\.db' in/firmware.list >>/tmp/asked || true
own=in/overlay-firmware
: >/tmp/own
[ ! -d $own ] || (cd $own && find . ! -type d | sed 's|^\./||') >/tmp/own
awk -v out=/tmp -f in/firmware.awk what=there in/firmware.list what=own /tmp/own \
	what=asked /tmp/asked what=wanted in/firmware
[ ! -s /tmp/unknown ] ||
	refuse "firmware in [modloop] of image.toml: no package has" "$(sort /tmp/unknown)"
if grep -qs '[][*?\\]' /tmp/chosen; then
	# tar would take such a name for a pattern: out with all, and then away with the others.
	tar -xf in/modules.tar -C "$tree" lib/firmware
	sort /tmp/chosen >/tmp/sorted
	(cd "$tree" && find lib/firmware ! -type d | sort | comm -23 - /tmp/sorted | tr '\n' '\0' | xargs -0 -r rm)
	find "$tree/lib/firmware" -mindepth 1 -depth -type d -exec rmdir {} + 2>/dev/null || true
elif [ -s /tmp/chosen ]; then
	tar -xf in/modules.tar -C "$tree" -T /tmp/chosen
fi
mv "$tree"/lib/* "$tree/"
rmdir "$tree/lib"

# What the overlay has for it, somebody wants.
if [ -d $own ]; then
	(cd $own && find . -mindepth 1) | while IFS= read -r path; do
		place=$tree/firmware/$path
		if [ -d "$own/$path" ] && [ ! -L "$own/$path" ]; then
			if [ -L "$place" ] || { [ -e "$place" ] && [ ! -d "$place" ]; }; then
				refuse "rootfs/overlay/lib/firmware/${path#./}: packages have a file or a link there, and this is a folder"
			fi
		elif [ -L "$place" ]; then
			rm "$place" # else it would be written to where that leads
		else
			[ ! -d "$place" ] ||
				refuse "rootfs/overlay/lib/firmware/${path#./}: packages have a folder there, and this is none"
		fi
	done
	cp -R $own/. "$tree/firmware/"
	find "$tree/firmware" -type d -exec chmod 755 {} +
	find "$tree/firmware" -type f -exec chmod 644 {} +
fi

count=$(find "$tree/modules" -name '*.ko' | wc -l)
note="$count modules"
if [ -n "$all" ]; then
	# Those that are kept tell how much the others would unpack to.
	note="$count of $all modules, which saves about $(($(size_of_modules "$tree") * dropped / (packed + 1) / 1024)) MiB"
fi
note="$note; $(find "$tree/firmware" ! -type d | wc -l) files of firmware"
if [ -s /tmp/missing ]; then
	echo "modules ask for this firmware, and no package has it:"
	sort /tmp/missing
	note="$note, and $(wc -l </tmp/missing) that modules ask for are in no package (the log names them)"
fi

# Of firmware in no folder that of one driver together: iwlwifi-ty-a0-gf-a0-89.ucode.
(cd "$tree/modules/$kernel" && find . -name '*.ko' -exec stat -c '%s %n' {} +) | awk '
	{
		size = $1
		sub(/^[0-9]+ \.\/(kernel\/)?/, "")
		count = split($0, parts, "/")
		sizes[count > 2 ? parts[1] "/" parts[2] : parts[1]] += size
	}
	END { for (name in sizes) printf "%d modules of %s\n", sizes[name] / 1024, name }
' >out/modloop.sizes
(cd "$tree/firmware" && find . -mindepth 1 -maxdepth 1 -exec du -sk {} +) | awk '
	{ name = $2; sub(/^\.\//, "", name); sub(/[-_.].*/, "", name); sizes[name] += $1 }
	END { for (name in sizes) print sizes[name], "firmware of", name }
' >>out/modloop.sizes

mksquashfs "$tree" out/modloop.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 128K -no-exports -no-xattrs -all-root \
	-mkfs-time 0 -all-time 0
used=$(df -k /tmp | awk 'END { print $3 }')
echo "$note; $((used / 1024 + 128)) MiB of memory" >out/note
rm -rf /srv/out/tree
