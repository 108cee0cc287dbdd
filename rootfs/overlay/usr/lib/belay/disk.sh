#!/bin/sh
# What the services need to know of the disk that the system runs from, and of its settings. Sourced.

# shellcheck source=/dev/null # made by the step rootfs: updater/contract.py
. "${ROOT:-}/usr/lib/belay/contract.sh"

# The setting $1, as the updater resolved it (updater/node.py): for this node where it has settings of
# its own, else in the image.
setting() {
	for own_file in "${ROOT:-}$RUN_SETTINGS" "${ROOT:-}$ETC_RESOLVED"; do
		[ ! -s "$own_file" ] || {
			sed -n "s/^$1=//p" "$own_file"
			return 0
		}
	done
}

# Prints what the devices without a driver ask for.
missing_drivers() {
	set --
	for own_device in "${ROOT:-}"/sys/bus/*/devices/*; do
		[ ! -e "$own_device/driver" ] && [ -e "$own_device/modalias" ] && set -- "$@" "$own_device/modalias"
	done
	[ $# = 0 ] || cat "$@" | sort -u
}

# Loads the drivers that $1 names.
load_drivers() {
	echo "$1" | xargs -r modprobe -a -b -q 2>/dev/null || :
}

# The value of one word of the kernel's command line.
boot_argument() {
	own_value=
	read -r own_line <"${ROOT:-}/proc/cmdline"
	for own_word in $own_line; do
		case $own_word in
		"$1"=*) own_value=${own_word#*=} ;;
		esac
	done
	echo "$own_value"
}

# The name of the disk with the booted slot, such as sda: the initramfs found it.
own_disk() {
	read -r own_name <"${ROOT:-}$ETC_BOOTED" || return 1
	disk_of "$own_name"
}

# The name of the disk with the partition $1.
disk_of() {
	own_entry=$(readlink -f "${ROOT:-}/sys/class/block/${1:?a partition}")
	[ -e "$own_entry" ] || return 1
	own_entry=${own_entry%/*}
	echo "${own_entry##*/}"
}

# The name of the partition with the GPT name $1, such as sda2, of disk $2.
own_partition() {
	own_entry=$(grep -lx "PARTNAME=$1" "${ROOT:-}/sys/class/block/${2:?a disk}"/*/uevent)
	[ -n "$own_entry" ] || return 1
	own_entry=${own_entry%/uevent}
	echo "${own_entry##*/}"
}
