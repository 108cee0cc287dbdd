#!/bin/sh
# Makes out/initramfs, not compressed yet: that is done where it is made reproducible
# (tasks/alpine/initramfs.py).
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
mkinitfs -q -k -b "$base" -i in/init -P "$features" -F "$FEATURES" -C none \
	-t /tmp/tree -o /srv/out/initramfs "$kernel"
# mkinitfs goes on when a part of it fails.
[ -s "/tmp/tree/lib/modules/$kernel/modules.dep" ] && [ -x /tmp/tree/bin/busybox ] || {
	echo "mkinitfs made an initramfs without modules or programs" >&2
	exit 1
}
chmod 644 out/initramfs
