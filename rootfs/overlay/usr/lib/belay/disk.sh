#!/bin/sh
# What the services need to know of the disk that the system runs from. Sourced.

# The value of one word of the kernel's command line.
boot_argument() {
	tr ' ' '\n' <"${ROOT:-}/proc/cmdline" | sed -n "s/^$1=//p" | tail -n 1
}

# The name of the disk with the booted slot, such as sda.
own_disk() {
	own_entry=$(grep -lix "PARTUUID=$(boot_argument belay.partuuid)" \
		"${ROOT:-}"/sys/class/block/*/uevent | head -n 1)
	[ -n "$own_entry" ] || return 1
	own_entry=$(readlink -f "${own_entry%/uevent}")
	own_entry=${own_entry%/*}
	echo "${own_entry##*/}"
}

# The name of that disk's partition with the GPT name $1, such as sda2.
own_partition() {
	own_entry=$(grep -lx "PARTNAME=$1" "${ROOT:-}/sys/class/block/$(own_disk)"/*/uevent | head -n 1)
	[ -n "$own_entry" ] || return 1
	own_entry=${own_entry%/uevent}
	echo "${own_entry##*/}"
}
