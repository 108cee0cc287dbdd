#!/bin/sh
# Makes the slot's root part, out/root.squashfs: the system's packages, the overlay, the services.
#   in/chroot.tar  in/overlay  in/services  in/updater  in/bytecode.tar
#   in/release.json  in/settings.json
#   in/on-hand  in/APKINDEX.tar.gz   packages on hand, if there are any
#   $OS_NAME $OS_VERSION $NODE_LABEL $STICK_LABEL $ARCH
#   $SERIAL     nothing: the serial line has no login
#   $CONSOLE    development: root has an empty password; locked: no password opens any account
set -eu

root=/tmp/root
mkdir "$root"
tar -xf in/chroot.tar -C "$root"
# Modules and firmware come from the slot's other parts.
mkdir "$root/.modloop"
ln -s /.modloop/modules "$root/lib/modules"
ln -s /.modloop/firmware "$root/lib/firmware"

# git keeps no modes but x, and a folder's owner is whoever cloned it.
cp -R in/overlay/. "$root/"
(cd in/overlay && find . -mindepth 1 -type d) | while read -r path; do chmod 755 "$root/$path"; done
(cd in/overlay && find . -type f) | while read -r path; do
	if [ -x "in/overlay/$path" ]; then chmod 755 "$root/$path"; else chmod 644 "$root/$path"; fi
done

# The updater, and what Python made of it.
mkdir -p "$root/usr/lib/belay/updater" "$root/data"
cp in/updater/*.py "$root/usr/lib/belay/updater/"
chmod 644 "$root"/usr/lib/belay/updater/*
tar -xf in/bytecode.tar -C "$root"

# Packages on hand. The path is the image's, so it is not in /etc: that is the user's.
if [ -d in/on-hand ]; then
	repository=usr/share/belay/packages
	mkdir -p "$root/$repository/$ARCH" "$root/lib/apk/repositories.d"
	cp in/on-hand/*.apk in/APKINDEX.tar.gz "$root/$repository/$ARCH/"
	chmod 644 "$root/$repository/$ARCH"/*
	echo "/$repository" >"$root/lib/apk/repositories.d/belay.list"
fi

mkdir -p "$root/etc/belay"
cp in/release.json in/settings.json "$root/etc/belay/"
chmod 644 "$root"/etc/belay/*.json
echo "$STICK_LABEL" >"$root/etc/belay/stick-label"
echo "$NODE_LABEL" >"$root/etc/belay/node-label"
echo "$OS_NAME $OS_VERSION" >"$root/etc/belay/release"
echo "$OS_NAME" >"$root/etc/hostname"
printf '%s %s on \\l\n\n' "$OS_NAME" "$OS_VERSION" >"$root/etc/issue"

case $CONSOLE in
development) password= ;;
*) password='*' ;;
esac
sed -i "s/^root:[^:]*:/root:$password:/" "$root/etc/shadow"

[ -n "$SERIAL" ] || sed -i '/^ttyS/d' "$root/etc/inittab"

refuse() {
	echo "ERROR: $*" >&2
	exit 1
}

sed 's/#.*//' in/services | while read -r runlevel service more; do
	[ -n "$runlevel" ] || continue
	[ -n "$service" ] && [ -z "$more" ] ||
		refuse "rootfs/services: found \"$runlevel${service:+ $service}${more:+ $more}\", wanted RUNLEVEL SERVICE"
	[ -d "$root/etc/runlevels/$runlevel" ] ||
		refuse "rootfs/services: there is no runlevel $runlevel; there are:" "$(cd "$root/etc/runlevels" && echo *)"
	[ -e "$root/etc/init.d/$service" ] ||
		refuse "rootfs/services: there is no service $service in /etc/init.d of the packages and of rootfs/overlay"
	[ -x "$root/etc/init.d/$service" ] ||
		refuse "etc/init.d/$service is not executable: chmod +x rootfs/overlay/etc/init.d/$service"
	ln -s "/etc/init.d/$service" "$root/etc/runlevels/$runlevel/$service"
done

# A check that can't run would be no check, and any release would pass it.
for check in "$root"/etc/belay/health.d/*; do
	[ -f "$check" ] && [ -x "$check" ] ||
		refuse "etc/belay/health.d/${check##*/} is no executable file, so it can check nothing:" \
			"chmod +x rootfs/overlay/etc/belay/health.d/${check##*/}, or remove it"
done

# What depends on what, worked out now instead of at each boot. After the last change to services: a
# list that is older than a service silently leaves it out.
mkdir -p "$root/run/openrc" "$root/var/cache/rc"
chroot "$root" /sbin/rc-update -u
mv "$root/run/openrc/deptree" "$root/run/openrc/depconfig" "$root/var/cache/rc/"
rm -rf "${root:?}"/run/*

# In the container all belongs to root; chroot.tar knows better.
tar -tvf in/chroot.tar | awk '$2 != "0/0" {
	mode = $1
	n = 0
	for (i = 2; i <= 10; i++) n = n * 2 + (substr(mode, i, 1) != "-")
	printf "%s m %o %s\n", $6, n, $2
}' | sed 's|\([0-9]*\)/\([0-9]*\)$|\1 \2|' >/tmp/owners

# Not compressed: see docs/adr. -no-exports and -no-xattrs: nobody exports a root, GRUB knows no
# xattrs.
mksquashfs "$root" out/root.squashfs -noappend -no-progress -quiet -mem 128M \
	-comp gzip -noI -noD -noF -noX -b 128K -no-exports -no-xattrs \
	-mkfs-time 0 -all-time 0 -pf /tmp/owners
