#!/bin/sh
# The same packages installed as Alpine's own setup installs them to a disk: an ext4 root that is
# written to, Alpine's initramfs with its init, and its services.
#   in/chroot.tar in/modules.tar
#   $SIZE_MIB
set -eu

root=/tmp/root
mkdir "$root"
tar -xf in/chroot.tar -C "$root"
tar -xf in/modules.tar -C "$root"
mkinitfs -q -k -b "$root" -F "base ata cdrom ext4 mmc nvme scsi usb virtio" -C gzip \
	-t /tmp/tree -o /srv/out/initramfs "$(ls "$root/lib/modules")"

sed -i 's/^root:[^:]*:/root::/' "$root/etc/shadow"
echo 'ttyS0::respawn:/sbin/getty -L 115200 ttyS0 vt100' >>"$root/etc/inittab"
echo stock >"$root/etc/hostname"
echo '/dev/vda / ext4 rw,relatime 0 1' >"$root/etc/fstab"
printf 'auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet dhcp\n' \
	>"$root/etc/network/interfaces"
while read -r runlevel services; do
	for service in $services; do
		[ ! -e "$root/etc/init.d/$service" ] ||
			ln -s "/etc/init.d/$service" "$root/etc/runlevels/$runlevel/"
	done
done <<END
sysinit devfs dmesg mdev hwdrivers
boot modules hwclock swap hostname sysctl bootmisc syslog networking seedrng loadkmap
default acpid crond dropbear
shutdown killprocs savecache mount-ro
END
mke2fs -q -F -t ext4 -d "$root" out/disk.img "${SIZE_MIB}M"
