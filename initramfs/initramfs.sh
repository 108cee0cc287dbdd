#!/bin/sh
# Makes out/initramfs, not compressed yet: that is done where it is made reproducible
# (builder/alpine/initramfs.py).
#   in/chroot.tar    the system: mkinitfs takes programs and features from it
#   in/modules.tar   those that the kernel has
#   in/init          what runs as PID 1
#   in/features      features of our own
#   in/packages      packages that the system hasn't got, with in/keys and $APK_OPTIONS; or nothing
#   $PACKAGES        what the initramfs gets whole, words
#   $FEATURES        words
set -eu

base=/tmp/base
features=/tmp/features
mkdir "$base"
tar -xf in/chroot.tar -C "$base"
tar -xf in/modules.tar -C "$base"
cp -r in/features "$features"
kernel=$(ls "$base/lib/modules")

# More packages are a feature too: all files of theirs, and of those that they bring.
if [ -n "$PACKAGES" ]; then
	apk --root "$base" info -q | sort >/tmp/before
	if [ -d in/packages ]; then
		# shellcheck disable=SC2086 # words
		apk --root "$base" $APK_OPTIONS add --force-non-repository in/packages/*.apk
	fi
	apk --root "$base" info -q | sort >/tmp/after
	for package in $PACKAGES $(comm -13 /tmp/before /tmp/after); do
		apk --root "$base" info -q -L "$package" | sed -n 's|^[^/].*|/&|p'
	done >"$features/packages.files"
	FEATURES="$FEATURES packages"
fi

for feature in $FEATURES; do
	for dir in "$features" "$base/etc/mkinitfs/features.d"; do
		[ -e "$dir/$feature.files" ] || [ -e "$dir/$feature.modules" ] && continue 2
	done
	echo "boot.features in image.toml: there is no mkinitfs feature \"$feature\"" >&2
	exit 1
done
# Modules by name: the kernel moves them from folder to folder, and mkinitfs knows paths only.
touch /tmp/unknown
for file in "$features"/*.modules; do
	LC_ALL=C awk '
		function plain(path) { sub(/.*\//, "", path); sub(/\.ko.*/, "", path); gsub(/-/, "_", path); return path }
		FILENAME ~ /modules\.dep$/ { sub(/:.*/, ""); place[plain($0)] = $0; next }
		FILENAME ~ /modules\.builtin$/ { builtin[plain($0)] = 1; next }
		/^[ \t]*(#|$)/ { next }
		/[\/*]/ { print; next }
		{ optional = sub(/\?$/, "", $1) }
		plain($1) in place { print place[plain($1)]; next }
		!optional && !(plain($1) in builtin) { print $1 >>"/tmp/unknown" }
	' "$base/lib/modules/$kernel/modules.dep" "$base/lib/modules/$kernel/modules.builtin" "$file" >/tmp/paths
	while read -r pattern; do
		# shellcheck disable=SC2086 # a pattern
		set -- "$base/lib/modules/$kernel/"$pattern
		[ -e "$1" ] || echo "$pattern" >>/tmp/unknown
	done </tmp/paths
	cat /tmp/paths >"$file"
done
[ ! -s /tmp/unknown ] || echo "the kernel $kernel has none of these, which features of initramfs/features/ name:" \
	"$(tr '\n' ' ' </tmp/unknown)" >out/note

mkinitfs -q -k -b "$base" -i in/init -P "$features" -F "$FEATURES" -C none \
	-t /tmp/tree -o /srv/out/initramfs "$kernel"
# mkinitfs goes on when a part of it fails.
[ -s "/tmp/tree/lib/modules/$kernel/modules.dep" ] && [ -x /tmp/tree/bin/busybox ] || {
	echo "mkinitfs made an initramfs without modules or programs" >&2
	exit 1
}

# Modules without a compression of their own: the whole is compressed, and an update finds their bytes in
# the modloop (updater/streams.py).
find "/tmp/tree/lib/modules" -name '*.ko.gz' -exec gunzip {} +
find "/tmp/tree/lib/modules" -name '*.ko.zst' -exec zstd -q -d --rm {} +
find "/tmp/tree/lib/modules" -name '*.ko.xz' -exec unxz {} +
depmod -b /tmp/tree "$kernel"
(cd /tmp/tree && find . | LC_ALL=C sort | cpio --quiet --renumber-inodes -o -H newc) >out/initramfs
chmod 644 out/initramfs
