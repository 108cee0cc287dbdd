#!/bin/sh
# Installs the system's packages and packs them as out/root.tar; from it builder/alpine/chroot.py makes
# chroot.tar, with the owners that the packages want.
#   in/packages, in/keys   all packages, and the keys by which they are trusted
#   in/settle.sh           makes it the same on every day
#   $APK_OPTIONS $WORLD    words
set -eu

root=/tmp/root
mkdir -p "$root/etc/mkinitfs"
# The initramfs is a step of its own; without this, installing the kernel would make one too.
echo 'disable_trigger=yes' >"$root/etc/mkinitfs/mkinitfs.conf"
# Nor does a node have GRUB's configuration, which that of the package grub would fail to make.
echo 'disable_trigger=1' >"$root/etc/update-grub.conf"

# In memory apk thinks of a diskless system, on which packages from files would be lost.
# shellcheck disable=SC2086 # words
apk --root "$root" $APK_OPTIONS add --initdb --force-non-repository in/packages/*.apk
# apk took note of files; the world of the node is of names.
echo "$WORLD" | tr ' ' '\n' | sort >"$root/etc/apk/world"

rm "$root/etc/update-grub.conf"
for file in mkinitfs/mkinitfs.conf update-grub.conf; do
	[ ! -e "$root/etc/$file.apk-new" ] || mv "$root/etc/$file.apk-new" "$root/etc/$file"
done

# Engines differ in the device nodes that they let apk make. The kernel makes them anyway.
rm -rf "${root:?}/dev"
mkdir -p "$root/dev/pts" "$root/dev/shm"
sh in/settle.sh "$root"
rm -f "$root/var/log/apk.log" "$root/etc/passwd-" "$root/etc/group-" "$root/etc/shadow-"

# By these the owners are found that scripts asked for.
(cd "$root" && find . -path ./lib/modules -prune -o -exec stat -c '%d %i %n' {} +) >out/inodes
(cd "$root" && getfattr -R -P -h -d -m - -e hex .) >out/xattrs
tar -cf out/root.tar -C "$root" .
